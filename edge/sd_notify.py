"""What systemd is told (sd_notify): ready, alive, and a line of status. Silent when systemd did not start this
process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """`watchdog` is to be called by a finished loop and by nothing else: that is what makes the watchdog mean
    something."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace's null byte (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    def ready(self) -> None:
        self._send("READY=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Shown by `systemctl status`; sent when it changed."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.split()))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        # systemd that does not listen must not stop the watching; a lost WATCHDOG shows itself.
        with contextlib.suppress(OSError):
            self._socket.sendto(message.encode(), self._address)
