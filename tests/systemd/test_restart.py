"""The daemon is restarted on a new bundle once nobody scans, and not in mid-exam."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "systemd" / "restart-when-idle"
FAKE = """#!/bin/sh
# Answers for systemd: each question about the status takes the next line of $ANSWERS.
case "$*" in
  *is-active*) [ -z "${STOPPED:-}" ] ;;
  *StatusText*) n=$(cat "$COUNT"); echo $((n + 1)) >"$COUNT"; sed -n "$((n + 1))p" "$ANSWERS" ;;
  *) echo "$*" >>"$CALLS" ;;
esac
"""
SCANS = ["assessing, exam 3, assessable", "not assessing, exam 3, not the nuchal plane", "FLAGGED, exam 3, doppler"]
QUIET = ["not assessing, exam 3, no signal", "FLAGGED, exam 3, frozen", "not assessing, exam 3, menu"]
QUIET += ["waiting for the first picture"]


def run(tmp_path: Path, answers: list[str], limit: int = 3600, **more: str) -> tuple[int, str, str]:
    """(questions asked, what systemd was told, what was printed)"""
    fake = tmp_path / "systemctl"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    (tmp_path / "answers").write_text("\n".join(answers) + "\n")
    (tmp_path / "count").write_text("0")
    places = {name.upper(): str(tmp_path / name) for name in ("answers", "count", "calls")}
    environment = {**os.environ, **places, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STEP_S": "0", **more}
    done = subprocess.run([str(SCRIPT), "room1", str(limit)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int((tmp_path / "count").read_text()), (tmp_path / "calls").read_text(), done.stdout


RESTART = "--no-block try-restart hygroma@room1.service\n"


@pytest.mark.requirement("U-11")
def test_it_waits_for_half_a_minute_without_a_live_picture(tmp_path: Path) -> None:
    asked, told, _ = run(tmp_path, [*SCANS * 4, *QUIET, SCANS[0], *QUIET * 4])
    assert asked == 12 + 4 + 1 + 15 and told == RESTART  # the pause in between was too short


@pytest.mark.requirement("U-11")
def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    asked, told, said = run(tmp_path, SCANS * 30, limit=60)
    assert asked == 30 and told == RESTART and "waited for its whole limit" in said


def test_a_daemon_that_does_not_run_is_not_waited_for(tmp_path: Path) -> None:
    assert run(tmp_path, SCANS, STOPPED="1")[:2] == (0, RESTART)
