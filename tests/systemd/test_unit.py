"""The unit file: as tight as promised, and still able to do its work."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT, UPDATE, INBOX, ENGINE = (
    SYSTEMD / f"hygroma{name}" for name in ("@.service", "-update@.service", "-update@.path", "-engine@.service")
)
EXPOSURE_MAX = 1.2  # budget, with a camera and the daemon's own loopback socket


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", [UNIT, UPDATE, ENGINE], ids=lambda path: path.name)
@pytest.mark.requirement("S-06")
def test_exposure_is_within_the_budget(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(path)], capture_output=True, text=True, timeout=30
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found.group(1)) <= EXPOSURE_MAX


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", [UNIT, UPDATE], ids=lambda path: path.name)
def test_openvinos_drop_in_keeps_within_the_budget(tmp_path: Path, path: Path) -> None:
    (tmp_path / path.name).write_text(path.read_text() + (SYSTEMD / "openvino.conf").read_text())
    test_exposure_is_within_the_budget(tmp_path / path.name)
    assert read(tmp_path / path.name)["Service"]["MemoryDenyWriteExecute"] == "no"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_documented_drop_in_for_a_network_keeps_within_the_budget(tmp_path: Path) -> None:
    (drop_in,) = re.findall(r"^```ini\n(.*?)^```", (SYSTEMD.parent / "docs/install.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / UNIT.name).write_text(UNIT.read_text() + drop_in)
    test_exposure_is_within_the_budget(tmp_path / UNIT.name)
    assert "192.168.1.20" in read(tmp_path / UNIT.name)["Service"]["IPAddressAllow"]
    assert read(UNIT)["Service"]["IPAddressDeny"] == "any"  # and stays: who is allowed is asked first


def read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit


def test_watchdog_notify_and_a_restart_that_does_not_spin() -> None:
    unit = read(UNIT)
    assert unit["Service"]["Type"] == "notify"
    assert "hygroma run -v " in unit["Service"]["ExecStart"]  # what was negotiated with a camera is in the journal
    assert unit["Service"]["WatchdogSec"] == "10s"
    assert unit["Service"]["Restart"] == "on-failure"
    assert int(unit["Unit"]["StartLimitBurst"]) <= 5
    assert {"78", "65", "2"} <= set(unit["Service"]["RestartPreventExitStatus"].split())


def test_a_daemon_that_runs_wild_leaves_the_machine_to_others() -> None:
    service = read(UNIT)["Service"]
    assert service["MemoryMax"] == "700M" and service["MemoryHigh"] == "500M" and int(service["TasksMax"]) <= 64
    assert service["CPUQuota"] == "400%"  # a spinning thread more than that is held back


def test_two_instances_are_told_to_take_two_ports() -> None:
    assert "status.port" in UNIT.read_text(encoding="utf-8")


def test_the_update_works_on_what_its_daemon_works_on() -> None:
    daemon, update = read(UNIT)["Service"], read(UPDATE)["Service"]
    for key in ("User", "DynamicUser", "StateDirectory", "StateDirectoryMode", "CacheDirectory", "UMask"):
        assert daemon[key] == update[key], key
    shared = "--config /etc/hygroma/%i.yaml --events %S/hygroma/%i"
    assert shared in daemon["ExecStart"] and shared in update["ExecStart"]
    assert update["PrivateNetwork"] == "yes" and update["Type"] == "oneshot"


def test_what_is_watched_is_the_inbox_that_is_worked_on() -> None:
    assert read(INBOX)["Path"]["PathExistsGlob"] == "/var/lib/hygroma/%i/inbox/*.[tT][aA][rR]"
    assert read(UPDATE)["Unit"]["ConditionPathExistsGlob"] == "/var/lib/hygroma/%i/inbox/*.[tT][aA][rR]"
    assert read(UPDATE)["Service"]["ExecStart"].endswith("--inbox %S/hygroma/%i/inbox")
    assert read(UNIT)["Service"]["ExecStartPre"] == "/bin/mkdir -p %S/hygroma/%i/inbox"


def test_a_new_bundle_that_crashes_reaches_its_rollback_before_systemd_gives_up() -> None:
    from edge.update.trial import CRASHES_MAX

    unit = read(UNIT)
    assert int(unit["Unit"]["StartLimitBurst"]) > CRASHES_MAX
    assert "70" not in unit["Service"]["RestartPreventExitStatus"].split()  # an engine that fails


def test_engines_are_built_before_the_daemon_starts_and_their_failure_does_not_stop_it() -> None:
    daemon, engine = read(UNIT), read(ENGINE)
    assert "hygroma-engine@%i.service" in daemon["Unit"]["After"] and engine["Unit"]["Before"] == "hygroma@%i.service"
    assert daemon["Unit"]["Wants"] == "hygroma-engine@%i.service" and "Requires" not in daemon["Unit"]
    assert engine["Service"]["Type"] == "oneshot" and "tensorrt" in engine["Service"]["ExecCondition"]
    for key in ("User", "DynamicUser", "CacheDirectory", "StateDirectory", "UMask"):
        assert daemon["Service"][key] == engine["Service"][key], key


def test_without_a_tensorrt_nothing_is_built_and_the_journal_shows_no_traceback(tmp_path: Path) -> None:
    program, *words = shlex.split(read(ENGINE)["Service"]["ExecCondition"])
    assert program == "/opt/hygroma/bin/python"
    (tmp_path / "there/tensorrt").mkdir(parents=True)
    for there, code in (("there", 0), ("not there", 1)):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / there)}
        # -S: without this machine's own packages, of which TensorRT may be one.
        done = subprocess.run([sys.executable, "-S", *words], env=environment, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("path", [UNIT, UPDATE, ENGINE], ids=lambda path: path.name)
def test_the_processors_flags_can_be_read_in_every_unit(path: Path) -> None:
    """Where /proc/cpuinfo is hidden, `has_vnni` says no and a frame takes 1.6 times as long (measured under systemd 252)."""
    assert read(path)["Service"].get("ProcSubset", "all") == "all"
