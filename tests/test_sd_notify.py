"""systemd hears what it should, and its absence harms nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge.sd_notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_messages(tmp_path: Path, abstract: bool) -> None:
    name = f"@hygroma-{tmp_path.name}-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.ready()
        notifier.status("assessing\nexam 1")
        notifier.status("assessing\nexam 1")
        notifier.watchdog()
        notifier.stopping()
        heard = [systemd.recv(100).decode() for _ in range(4)]
    assert heard == ["READY=1", "STATUS=assessing exam 1", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_silence_is_no_error(environment: dict[str, str]) -> None:
    Notifier(environment).watchdog()
