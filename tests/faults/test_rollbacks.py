"""A new bundle that fails on a real device goes back by itself. tests/update has the same on a fake clock, with every case."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")
import rollbacks


@pytest.mark.requirement("U-02")
def test_a_start_that_takes_too_long_ends_and_the_next_is_the_old_bundles(tmp_path: Path) -> None:
    assert rollbacks.too_slow(tmp_path, ready_s=3)["ended_after_s"] >= 3


@pytest.mark.parametrize("how", ["error", "SIGKILL"])  # `make torture` has SIGSEGV too
@pytest.mark.requirement("U-03")
def test_the_third_crash_brings_the_old_bundle_back(tmp_path: Path, how: str) -> None:
    assert "9.0.0" in rollbacks.crashing(tmp_path, how)["said"]
