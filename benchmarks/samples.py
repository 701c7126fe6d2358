"""From timed calls to the figures that are shown: percentiles with intervals, jitter, histogram.

A percentile has two marks. `enough`: as many samples as MLPerf asks for it (the inference rules' "early stopping" table: a margin
of (1 - p) / 20 at 99 % confidence, rounded up to a multiple of 8192; 24,576 for p90). `bounded`: the 95 % interval from order
statistics has an upper end at all; without one (p99 of fewer than 368 samples) the figure is little more than the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 90, 95, 99)
TAIL = 0.025  # of the intervals, each side: 95 %
MLPERF_Z = 2.5758293035489004  # standard normal quantile of 99 % confidence, two-sided
MLPERF_MULTIPLE = 8192  # samples
BINS = 24  # of the histogram: a line of text
DRAWS = 2000  # bootstrap draws: either end of a 95 % interval rests on 50


@dataclass(frozen=True)
class Percentile:
    """`value`, and the 95 % interval `low` to `high` from order statistics (None: these samples give no bound), in the samples'
    unit. See the module for `enough`."""

    value: float
    low: float | None
    high: float | None
    enough: bool

    @property
    def bounded(self) -> bool:
        return self.high is not None

    @property
    def mark(self) -> str:
        """ "" trustworthy by MLPerf's rule, "*" fewer samples than that, "?" not even bounded."""
        return "?" if not self.bounded else "" if self.enough else "*"


@dataclass(frozen=True)
class Histogram:
    """`counts` [B] of samples between `edges` [B+1], which grow by a constant factor."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Distribution:
    """Of `n` samples in one unit. `jitter`: mean absolute difference of neighbouring samples (RFC 3550's, unsmoothed)."""

    n: int
    mean: float
    sd: float
    min: float
    max: float
    jitter: float
    percentiles: dict[str, Percentile]
    histogram: Histogram

    @property
    def p50(self) -> float:
        return self.percentiles["p50"].value


def distribution(samples: np.ndarray) -> Distribution:
    """Samples [n], n >= 1, in the order in which they were taken. ValueError for none, or one that is not finite."""
    values = np.asarray(samples, np.float64).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"samples: found {len(values)}, all of which must be finite, and at least one")
    ordered = np.sort(values)
    return Distribution(
        n=len(values),
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        jitter=float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0,
        percentiles={f"p{p}": percentile(ordered, p / 100) for p in PERCENTILES},
        histogram=histogram(ordered),
    )


def percentile(ordered: np.ndarray, q: float) -> Percentile:
    """Sorted samples [n] -> the percentile q in (0,1), nearest rank, with its order-statistics interval."""
    n = len(ordered)
    value = float(ordered[min(n, math.ceil(q * n)) - 1])
    low, high = interval_ranks(n, q)
    return Percentile(
        value,
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= n else None,
        n >= samples_needed(q),
    )


def interval_ranks(n: int, q: float) -> tuple[int, int]:
    """1-based ranks whose samples hold the q-quantile with 95 %, whatever the distribution; 0 and n + 1 stand for "none".

    The number of samples below the quantile is binomial(n, q): exact, no normal approximation.
    """
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_p = log_factorial[n] - log_factorial - log_factorial[::-1] + k * math.log(q) + (n - k) * math.log1p(-q)
    below = np.cumsum(np.exp(log_p))  # P(B <= k)
    low = int(np.searchsorted(below, TAIL, side="right"))  # the largest rank with P(B <= rank - 1) <= TAIL
    high = int(np.searchsorted(below, 1 - TAIL, side="left")) + 1  # the smallest with P(B <= rank - 1) >= 1 - TAIL
    return low, high


def samples_needed(q: float) -> int:
    """How many samples MLPerf asks for percentile q in (0,1)."""
    margin = (1 - q) / 20
    return math.ceil(MLPERF_Z**2 * q * (1 - q) / margin**2 / MLPERF_MULTIPLE) * MLPERF_MULTIPLE


def histogram(ordered: np.ndarray, bins: int = BINS) -> Histogram:
    """Bins of equal ratio from the smallest to the largest sample; one bin when these are equal."""
    low, high = max(float(ordered[0]), 1e-6), max(float(ordered[-1]), 1e-6)
    if high <= low * (1 + 1e-9):
        return Histogram([low, high], [len(ordered)])
    edges = np.geomspace(low, high, bins + 1)
    edges[0], edges[-1] = min(low, float(ordered[0])), high  # geomspace rounds
    counts, _ = np.histogram(np.clip(ordered, edges[0], high), edges)
    return Histogram([float(e) for e in edges], [int(c) for c in counts])


def bootstrap(
    statistic: Callable[[np.ndarray], float], units: int, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of `statistic(indices [units])` over draws of units with replacement."""
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, units, units)) for _ in range(draws)]
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return float(low), float(high)


def ratio_of_medians(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """a [R,C], b [R,D]: C and D calls in each of the same R rounds -> (median a / median b, low, high).

    Rounds are drawn, both sides together: what slowed the machine for a while slowed both.
    """
    ratio = float(np.median(a) / np.median(b))
    low, high = bootstrap(lambda rows: float(np.median(a[rows]) / np.median(b[rows])), len(a), seed=seed)
    return ratio, low, high


def slope(x: np.ndarray, y: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Least-squares slope of y [n] over x [n] and its 95 % bootstrap interval (points drawn); n >= 3."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def fit(rows: np.ndarray) -> float:
        dx = x[rows] - x[rows].mean()
        spread = float(dx @ dx)
        return float(dx @ (y[rows] - y[rows].mean())) / spread if spread else 0.0

    low, high = bootstrap(fit, len(x), seed=seed)
    return fit(np.arange(len(x))), low, high
