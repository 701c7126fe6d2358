"""The short form of `make torture`: every fault a few times, on real processes. Nothing here judges the machine's speed."""

from __future__ import annotations

from pathlib import Path

import campaigns
import pytest

needs_mount = pytest.mark.skipif(not campaigns.can_mount(), reason="a file system of its own needs root and mount")


@pytest.mark.requirement("T-01")
def test_a_kill_at_any_moment_loses_no_acknowledged_flag(tmp_path: Path) -> None:
    figures = campaigns.kills(tmp_path, 24)
    assert figures["acknowledged"] > 0 and figures["rows"] >= figures["acknowledged"]


@pytest.mark.requirement("T-02")
def test_a_camera_that_goes_and_comes_back(tmp_path: Path) -> None:
    figures = campaigns.outages(tmp_path, 2)
    assert len(figures["reported_s"]) == len(figures["returned_s"]) == 2


@pytest.mark.requirement("T-03")
def test_a_process_that_was_stopped_decides_nothing_on_what_it_saw_before(tmp_path: Path) -> None:
    assert campaigns.stops(tmp_path, 1)["latency_ms"]


@pytest.mark.parametrize("where", [{"hang_engine": 40}, {"hang_disk": 5}], ids=["engine", "disk"])
@pytest.mark.requirement("T-04", "T-08")
def test_what_hangs_starves_the_watchdog(tmp_path: Path, where: dict[str, int]) -> None:
    assert campaigns.hang(tmp_path, **where)["rows"] > 0


@needs_mount
@pytest.mark.parametrize("kind", ["full", "read-only"])
@pytest.mark.requirement("T-08")
def test_a_bad_disk_costs_no_flag(tmp_path: Path, kind: str) -> None:
    assert campaigns.bad_disk(tmp_path, kind)["rows"] > 0


@pytest.mark.parametrize("days", [365, 20_000], ids=["a year", "no clock at boot"])
@pytest.mark.requirement("T-09")
def test_a_clock_that_jumps_costs_no_flag(tmp_path: Path, days: int) -> None:
    assert campaigns.clock(tmp_path, days)["rows"] >= 6


@pytest.mark.parametrize(
    ("limits", "needs_mb"), [("descriptors", 0), ("memory", 0), ("memory", 64)], ids=["descriptors", "memory", "much memory"]
)
@pytest.mark.requirement("T-10")
def test_running_out_costs_no_acknowledged_flag(tmp_path: Path, limits: str, needs_mb: int) -> None:
    assert campaigns.limited(tmp_path, limits, needs_mb=needs_mb)["rows"] > 0


@pytest.mark.parametrize(("frames", "screen"), [(4000, False), (150, True)], ids=["loop", "with screen reading"])
@pytest.mark.requirement("T-05")
def test_a_replay_decides_the_same_and_nothing_piles_up(tmp_path: Path, frames: int, screen: bool) -> None:
    figures = campaigns.soak(tmp_path, frames, screen)
    threads, descriptors = ({sample[i] for sample in figures["samples"][-50:]} for i in (2, 3))
    assert len(threads) == 1 and len(descriptors) == 1 and figures["events"] > 0
