"""How long a source may give nothing before that is a stall, by its own rate: between two pictures a slow one is not lost."""

from __future__ import annotations

from collections import deque
from statistics import median

STALL_PERIODS = 2.5  # of a source's own: from 4 pictures a second on, .6 s is more, and is what counts
PERIODS_KEPT = 5  # the last of them; their median outlasts two outages
PERIOD_MAX_NS = 4_000_000_000  # ns; a slower source is reported after STALL_PERIODS of this, 10 s


class Rhythm:
    """Arrivals of one source's pictures, ns of one monotonic clock; not thread-safe."""

    def __init__(self, stall_ns: int) -> None:
        """`stall_ns`: ns without a picture that are a stall whatever the rate; a source that is slower has more."""
        self._stall_ns = stall_ns
        self._last_ns: int | None = None
        self._periods: deque[int] = deque(maxlen=PERIODS_KEPT)

    def see(self, now_ns: int) -> None:
        """A picture came."""
        if self._last_ns is not None:
            self._periods.append(now_ns - self._last_ns)
        self._last_ns = now_ns

    @property
    def stall_ns(self) -> int:
        """ns since the last picture from which on the source gives nothing."""
        if not self._periods:
            return self._stall_ns
        return max(self._stall_ns, round(STALL_PERIODS * min(median(self._periods), PERIOD_MAX_NS)))
