"""What time it is for people, and how far that can be believed: a box without a network may not know the day.

A flag keeps, beside its wall time, how that was known, the boot, and the monotonic clock. Who learns later by how much the
clock of that boot was wrong can put its times right.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

log = logging.getLogger(__name__)

SYNCHRONISED = "synchronised"  # the kernel says that a time service keeps the clock
BY_HAND = "set by hand"  # it was set in this boot, and no time service keeps it
UNKNOWN = "unknown"  # as it was at the start: right, yesterday's, or 1970's
STEP_S = 1.0  # seconds by which a clock that is set jumps, at least; NTP steers a running one without any step
KEPT = "clock.json"  # in the event store's folder: what was known of the clock in this boot
TIMESYNCD = Path("/run/systemd/timesync/synchronized")  # there once systemd-timesyncd has had an answer in this boot
STA_UNSYNC = 0x40  # of timex.status: no time service keeps the clock (adjtimex(2))


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2) up to the field that is read; the rest is room."""

    _fields_ = [
        ("modes", ctypes.c_int),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    ]


def kernel_is_synchronised() -> bool:
    """Whether a time service keeps this machine's clock. Under a unit with ProtectClock=yes the kernel may not be asked; then
    systemd-timesyncd's word alone counts."""
    found = _Timex()
    with suppress(OSError, AttributeError):  # not Linux
        if ctypes.CDLL(None).adjtimex(ctypes.byref(found)) >= 0:
            return not found.status & STA_UNSYNC
    return TIMESYNCD.exists()


def boot_id() -> str:
    """Differs from boot to boot. "" when nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(64).strip().replace("-", "")
    except OSError:
        return ""


def _since_boot_s() -> float:
    """Seconds since the boot, suspensions included where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Stamp:
    """A moment for people: `t_wall` ISO 8601 in UTC, to the millisecond; `known`: how."""

    t_wall: str
    known: str
    boot: str


class WallClock:
    """Wall time, and how it is known. `folder`: where it is kept that the clock was set in this boot, so that a daemon which
    starts again still knows; None: nowhere."""

    def __init__(
        self,
        folder: Path | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        since_boot_s: Callable[[], float] = _since_boot_s,
        synchronised: Callable[[], bool] = kernel_is_synchronised,
        boot: str | None = None,
    ) -> None:
        self.boot = boot_id() if boot is None else boot
        self._wall, self._since_boot_s, self._synchronised = wall, since_boot_s, synchronised
        self._path = folder / KEPT if folder is not None else None
        self._offset_s, self._set_by_hand = self._remembered()

    def now(self) -> datetime:
        """UTC."""
        return self._wall()

    def stamp(self) -> Stamp:
        return Stamp(self.now().isoformat(timespec="milliseconds"), self.known(), self.boot)

    def known(self) -> str:
        """SYNCHRONISED, BY_HAND or UNKNOWN."""
        offset_s = self._wall().timestamp() - self._since_boot_s()
        if abs(offset_s - self._offset_s) > STEP_S:
            self._set_by_hand = True
            self._remember(offset_s)
        if self._synchronised():
            return SYNCHRONISED
        return BY_HAND if self._set_by_hand else UNKNOWN

    def _remembered(self) -> tuple[float, bool]:
        """(wall time at boot, whether it was set since) as they were when this boot's clock was last looked at."""
        offset_s = self._wall().timestamp() - self._since_boot_s()
        if self._path is None or not self.boot:
            return offset_s, False
        try:
            kept = json.loads(self._path.read_bytes()[:1000])
            if kept["boot"] == self.boot and math.isfinite(was := float(kept["offset_s"])):
                return was, bool(kept["set_by_hand"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            pass  # none of this boot, or damaged: what is not known stays unknown
        self._set_by_hand = False
        self._remember(offset_s)
        return offset_s, False

    def _remember(self, offset_s: float) -> None:
        self._offset_s = offset_s
        if self._path is None:
            return
        kept = {"boot": self.boot, "offset_s": offset_s, "set_by_hand": self._set_by_hand}
        unfinished = self._path.with_name(self._path.name + ".tmp")
        try:
            unfinished.write_text(json.dumps(kept))
            os.replace(unfinished, self._path)
        except OSError as error:  # the store says louder what is wrong with its folder
            log.info("%s: cannot be written (%s); what is known of the clock ends with this run", self._path, error.strerror)
