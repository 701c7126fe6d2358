"""The figures that judge a classifier and a conversion of it, each with an interval. Sources stand with the functions.

Labels and decisions are bool or {0,1} arrays [n]; scores are probabilities [n]. Intervals are two-sided 95 % unless
said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from edge.errors import InputError
from export.report.records import Bracket, Figured

CONFIDENCE = 0.95
ROUNDING = 1e-9  # of a share times a whole number
# Which interval it is, in words.
EXACT, DELONG = "exact", "DeLong"
SMALLER = "exact, smaller class"
ALIKE = "all scores alike; exact, smaller class"


@dataclass(frozen=True)
class Figure:
    """A value with its interval [low, high], over n images; interval: which one it is."""

    value: float
    low: float
    high: float
    n: int
    interval: str = EXACT

    def bracket(self) -> Bracket:
        return {"value": self.value, "low": self.low, "high": self.high}

    def row(self) -> Figured:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "interval": self.interval}


def proportion(successes: int, n: int) -> Figure:
    """k of n with the exact interval (Clopper, Pearson 1934). InputError for n = 0: a proportion of nothing is not
    0."""
    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"proportion: found {successes} of {n}; expected 0 <= k <= n, n >= 1")
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return Figure(successes / n, low, high, n)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The interval of a share of n, which need not be a whole number of them: exact from the whole numbers on either side."""
    low = proportion(math.floor(share * n + ROUNDING), n).low
    return low, proportion(math.ceil(share * n - ROUNDING), n).high


def upper_bound(events: int, n: int) -> float:
    """One-sided 95 % exact upper bound of a rate after `events` of n: the non-inferiority bound. 0 of n gives about
    3/n."""
    if n < 1 or not 0 <= events <= n:
        raise InputError(f"upper bound: found {events} of {n}; expected 0 <= k <= n, n >= 1")
    return 1.0 if events == n else float(stats.beta.ppf(CONFIDENCE, events + 1, n - events))


def sensitivity(labels: np.ndarray, decisions: np.ndarray) -> Figure:
    """Share of the positives called positive."""
    positive = labels.astype(bool)
    return proportion(int(decisions.astype(bool)[positive].sum()), int(positive.sum()))


def specificity(labels: np.ndarray, decisions: np.ndarray) -> Figure:
    """Share of the negatives called negative."""
    negative = ~labels.astype(bool)
    return proportion(int((~decisions.astype(bool))[negative].sum()), int(negative.sum()))


def accuracy(labels: np.ndarray, decisions: np.ndarray) -> Figure:
    """Share called what they are."""
    return proportion(int((labels.astype(bool) == decisions.astype(bool)).sum()), len(labels))


def auc(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Area under the ROC curve, ties counted half, with DeLong's variance (DeLong, DeLong, Clarke-Pearson 1988) on the
    logit scale.

    At an area of exactly 0 or 1, and where all scores are alike, that variance is 0 and says nothing; then the exact interval
    of a share of the smaller class is given, which is wider than the truth. InputError unless both classes occur.
    """
    positive = labels.astype(bool)
    a, b = scores[positive].astype(np.float64), scores[~positive].astype(np.float64)
    m, n = len(a), len(b)
    if m == 0 or n == 0:
        raise InputError(f"ROC-AUC: found {m} positives and {n} negatives; expected some of both")
    everything = stats.rankdata(np.concatenate([a, b]))
    above = (everything[:m] - stats.rankdata(a)) / n  # per positive: share of negatives below it
    below = 1 - (everything[m:] - stats.rankdata(b)) / m  # per negative: share of positives above it
    area = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if variance == 0 or area in (0.0, 1.0):
        return Figure(area, *share_interval(area, min(m, n)), m + n, SMALLER if area in (0.0, 1.0) else ALIKE)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * np.sqrt(variance) / (area * (1 - area))
    logit = np.log(area / (1 - area))
    low, high = (1 / (1 + np.exp(-(logit + side * half))) for side in (-1, 1))
    return Figure(area, float(low), float(high), m + n, DELONG)


def mcnemar(labels: np.ndarray, reference: np.ndarray, other: np.ndarray) -> float:
    """Exact two-sided McNemar p: do two sets of decisions on the same images err equally often? 1.0 when they never
    disagree."""
    right_a, right_b = reference.astype(bool) == labels.astype(bool), other.astype(bool) == labels.astype(bool)
    return mcnemar_of(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))


def mcnemar_of(only_a: int, only_b: int) -> float:
    """`mcnemar` of the images that only one of them has right."""
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def kappa(reference: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two sets of decisions; 1.0 when both are constant and equal."""
    a, b = reference.astype(bool), other.astype(bool)
    observed = float((a == b).mean())
    expected = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return 1.0 if expected == 1.0 else (observed - expected) / (1 - expected)


def wilcoxon_losses(labels: np.ndarray, reference: np.ndarray, other: np.ndarray) -> float:
    """Two-sided Wilcoxon signed-rank p over per-image log losses of two sets of probabilities; 1.0 when no image's loss
    differs."""
    target = labels.astype(bool)

    def loss(p: np.ndarray) -> np.ndarray:
        return np.asarray(-np.log(np.clip(np.where(target, p, 1 - p), 1e-12, 1.0)))

    gap = loss(other) - loss(reference)
    return float(stats.wilcoxon(gap).pvalue) if np.any(gap) else 1.0


def predictive_value(sens: float, spec: float, prevalence: float) -> float:
    """Positive predictive value at a prevalence in (0,1); 0.0 when nothing at all would be flagged."""
    flagged = sens * prevalence + (1 - spec) * (1 - prevalence)
    return sens * prevalence / flagged if flagged > 0 else 0.0
