"""The unit file: as tight as promised, and still able to do its work."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "hygroma@.service"
EXPOSURE_MAX = 1.2  # budget, with a camera and the daemon's own loopback socket


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_exposure_is_within_the_budget() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)], capture_output=True, text=True, timeout=30
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found.group(1)) <= EXPOSURE_MAX


def test_watchdog_notify_and_a_restart_that_does_not_spin() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["WatchdogSec"] == "10s"
    assert unit["Service"]["Restart"] == "on-failure"
    assert int(unit["Unit"]["StartLimitBurst"]) <= 5
    assert {"78", "65", "2"} <= set(unit["Service"]["RestartPreventExitStatus"].split())


def test_two_instances_are_told_to_take_two_ports() -> None:
    assert "status.port" in UNIT.read_text(encoding="utf-8")
