"""Whether a driver's stamps can be right, and what is taken in their place.

Evidence rests on the time of each picture, and a picture that is too old must not be shown. A stamp that cannot be is
therefore replaced, counted and named; one that says "old" and may be right is believed.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

FUTURE_NS = 1_000_000  # nanoseconds; a stamp is taken before the picture is handed out, on the same clock: rounding only
# Nanoseconds. No picture is taken before its buffer was given to the driver; exposure may begin one picture earlier, at 10 a
# second.
EARLY_NS = 200_000_000
KEEP_NS = 1_000_000_000  # nanoseconds for which a replaced stamp stays a problem, so that one which comes and goes is shown


class DriverStamps:
    """Checks the stamps of one device. `restamped` counts those replaced since the start; `trouble` names what is wrong with
    them now, "" when nothing is. Monotonic nanoseconds throughout."""

    def __init__(self, name: str) -> None:
        self.restamped = 0
        self._name = name
        self._said: set[str] = set()  # kinds of wrong stamps that the log has: two that take turns would fill the disk
        self._trouble, self._trouble_ns = "", 0
        self.begin()

    def begin(self) -> None:
        """A stream was started."""
        self._last_ns: int | None = None

    def trouble(self, now_ns: int) -> str:
        return self._trouble if now_ns - self._trouble_ns < KEEP_NS else ""

    def captured_ns(self, stamp_ns: int | None, filled_after_ns: int, queued_ns: int, now_ns: int) -> int:
        """When the picture was captured.

        `stamp_ns`: the driver's; None when it is of another clock. `filled_after_ns`: the picture was not there yet.
        `queued_ns`: its buffer was given to the driver.
        """
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if stamp_ns is None:
            wrong = "are of another clock than this machine's monotonic one"
        elif stamp_ns > now_ns + FUTURE_NS:
            wrong = f"lie {(stamp_ns - now_ns) / 1e9:.2f} s in the future"
        elif last_ns is not None and stamp_ns == last_ns:
            wrong = "do not change from picture to picture"
        elif last_ns is not None and stamp_ns < last_ns:
            wrong = "run backwards"
        elif stamp_ns < queued_ns - EARLY_NS:
            wrong = f"are {(now_ns - stamp_ns) / 1e9:.2f} s old, older than the buffer that the picture lies in"
        else:
            return min(stamp_ns, now_ns)
        self.restamped += 1
        self._trouble = f"the driver's stamps {wrong}; the time at which each picture came is taken instead"
        self._trouble_ns = now_ns
        kind = wrong.translate(_NO_DIGITS)
        if kind not in self._said:
            self._said.add(kind)
            log.warning("%s: %s", self._name, self._trouble)
        return filled_after_ns


_NO_DIGITS = str.maketrans("", "", "0123456789.")
