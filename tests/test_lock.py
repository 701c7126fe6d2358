"""A lock on a file: one holder at a time, waited for as long as asked, never through a link."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge.lock import open_lock, take


def test_a_second_waits_as_long_as_asked_and_no_longer(tmp_path: Path) -> None:
    first, second = open_lock(tmp_path / "lock"), open_lock(tmp_path / "lock")
    take(first)
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        take(second, wait_s=0.2)
    assert time.monotonic() - began >= 0.2
    threading.Timer(0.2, os.close, [first]).start()
    take(second, wait_s=30.0)
    os.close(second)


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from edge.lock import open_lock, take\n"
        "take(open_lock(Path(sys.argv[1]))); print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        fd = open_lock(tmp_path / "lock")
        with pytest.raises(BlockingIOError):
            take(fd)
        holder.kill()
        take(fd, wait_s=30.0)
        os.close(fd)


def test_a_lock_is_never_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        open_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
