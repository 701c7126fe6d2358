"""How the wall time of a flag was known, on boxes that no network tells the time."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.clock import BY_HAND, KEPT, SYNCHRONISED, UNKNOWN, WallClock, boot_id, kernel_is_synchronised

HUGE = b'{"boot": "first", "set_by_hand": false, "offset_s": 1' + b"0" * 400 + b"}"
NAN = b'{"boot": "first", "set_by_hand": false, "offset_s": NaN}'
START = datetime(1970, 1, 1, 0, 0, 30, tzinfo=timezone.utc)  # a dead battery


class Box:
    """A machine whose clock is set, whose time goes by, and which is booted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wall, self.up_s, self.boot, self.synchronised = folder, START, 30.0, "first", False

    def clock(self) -> WallClock:
        return WallClock(self.folder, lambda: self.wall, lambda: self.up_s, lambda: self.synchronised, self.boot)

    def wait(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.up_s += seconds


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.requirement("T-13")
def test_a_clock_that_nobody_vouches_for_is_unknown(box: Box) -> None:
    clock = box.clock()
    box.wait(9 * 3600)
    stamp = clock.stamp()
    assert (stamp.known, stamp.boot, stamp.t_wall) == (UNKNOWN, "first", "1970-01-01T09:00:30.000+00:00")


@pytest.mark.requirement("T-13")
@pytest.mark.parametrize("step", [timedelta(days=20800), timedelta(seconds=-90), timedelta(seconds=2)])
def test_a_clock_that_is_set_while_it_runs_is_set_by_hand(box: Box, step: timedelta) -> None:
    clock = box.clock()
    assert clock.known() == UNKNOWN
    box.wall += step
    assert clock.known() == BY_HAND
    box.wait(3600)
    assert clock.known() == BY_HAND  # for the rest of this boot
    assert box.clock().known() == BY_HAND  # and for a daemon that starts again
    box.boot, box.up_s, box.wall = "second", 5.0, START
    assert box.clock().known() == UNKNOWN  # the battery is still dead


@pytest.mark.requirement("T-13")
def test_a_clock_that_was_set_while_no_daemon_ran_is_set_by_hand(box: Box) -> None:
    box.clock()
    box.wait(60)
    box.wall += timedelta(days=1)
    assert box.clock().known() == BY_HAND


@pytest.mark.requirement("T-13")
def test_a_time_service_is_believed_while_it_keeps_the_clock(box: Box) -> None:
    clock = box.clock()
    box.synchronised, box.wall = True, box.wall + timedelta(days=20800)  # its first answer sets the clock
    assert clock.known() == SYNCHRONISED
    box.synchronised = False
    assert clock.known() == BY_HAND


@pytest.mark.requirement("T-13")
def test_a_clock_that_is_steered_has_not_been_set(box: Box) -> None:
    clock = box.clock()
    for _ in range(100):
        box.wait(600)
        box.wall += timedelta(milliseconds=5)  # what rounding makes of two clocks that are read one after the other
    assert clock.known() == UNKNOWN


@pytest.mark.requirement("T-13")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot": "first"}', b'{"boot": "first", "offset_s": "x"}', HUGE, NAN])
def test_a_damaged_memory_is_none(box: Box, content: bytes) -> None:
    (box.folder / KEPT).write_bytes(content)
    assert box.clock().known() == UNKNOWN
    assert json.loads((box.folder / KEPT).read_text())["boot"] == "first"


@pytest.mark.requirement("T-13")
def test_a_folder_that_cannot_be_written_stops_nothing(box: Box, tmp_path: Path) -> None:
    box.folder = tmp_path / "none"
    clock = box.clock()
    box.wall += timedelta(days=1)
    assert clock.known() == BY_HAND


@pytest.mark.requirement("T-13")
def test_this_machine_answers() -> None:
    assert kernel_is_synchronised() in (True, False)
    assert boot_id() == boot_id()
    assert WallClock().stamp().known in (SYNCHRONISED, BY_HAND, UNKNOWN)
