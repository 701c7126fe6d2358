"""Latency histograms with a fixed memory, small enough to read on every page refresh."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

LOW_MS = 0.01  # milliseconds; faster than a clock read is worth telling apart
HIGH_MS = 60_000.0  # milliseconds; a frame older than a minute is an outage, not a latency
STEP = 1.05  # ratio between neighbouring bounds: a quantile is at most 5 % too high, with 321 counters
_BOUNDS = [LOW_MS * STEP**i for i in range(math.ceil(math.log(HIGH_MS / LOW_MS) / math.log(STEP)) + 1)]


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds; zeros when nothing was recorded. `total` is the sum of all records."""

    count: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    total: float = 0.0


class Latency:
    """One stage's times since the start. Written by one thread."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._count, self._total, self._max = 0, 0.0, 0.0

    def record(self, ms: float) -> None:
        """ms >= 0; a negative one, as from a clock that was set back, counts as 0."""
        ms = max(0.0, ms)
        self._counts[bisect.bisect_left(_BOUNDS, ms)] += 1
        self._count += 1
        self._total += ms
        self._max = max(self._max, ms)

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that holds quantile q in [0,1], never above the largest record."""
        wanted, seen = max(1, math.ceil(q * self._count)), 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(_BOUNDS[index] if index < len(_BOUNDS) else self._max, self._max)
        return 0.0

    def summary(self) -> LatencySummary:
        if not self._count:
            return LatencySummary()
        p50, p95, p99 = (self.quantile(q) for q in (0.5, 0.95, 0.99))
        return LatencySummary(self._count, p50, p95, p99, self._max, self._total)
