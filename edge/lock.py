"""A file that one process at a time holds. The kernel lets go of it however the process ends (flock)."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

POLL_S = 0.05  # seconds between two tries: short beside the seconds that anybody waits


def open_lock(path: Path) -> int:
    """A descriptor of the file, made where it is missing, never through a link. Whoever closes it lets go of the lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def take(fd: int, wait_s: float = 0.0) -> None:
    """Hold what `open_lock` opened. BlockingIOError when another holds it for `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
