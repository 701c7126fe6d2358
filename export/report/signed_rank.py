"""Wilcoxon's signed-rank test of paired differences, exact, with what its n allows."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_P = 1e-12  # of the probability of the truth: keeps a log loss finite
DIGITS = 12  # decimals: differences of equal figures are not always exactly 0 or exactly tied
EXACT_UP_TO = 1000  # differences; beyond, the normal approximation is as good and the exact sum slow


@dataclass(frozen=True)
class SignedRank:
    """n: pairs; ties: those without a difference, which the test leaves out; p: two-sided; smallest_p: that the other n - ties
    allow; greater: pairs in which the second system is better."""

    n: int
    ties: int
    p: float
    smallest_p: float
    greater: int


def signed_rank(gain: np.ndarray) -> SignedRank:
    """Two-sided Wilcoxon signed-rank test of differences [n] (Wilcoxon 1945): zeros left out, tied sizes share their mean rank,
    the exact distribution of the rank sum up to EXACT_UP_TO differences, ties included."""
    gain = gain.round(DIGITS)
    kept = gain[gain != 0]
    n = len(kept)
    if n == 0:
        return SignedRank(len(gain), len(gain), 1.0, 1.0, 0)
    p = _exact(kept) if n <= EXACT_UP_TO else float(stats.wilcoxon(kept, method="asymptotic").pvalue)
    smallest = max(2.0 ** (1 - n), sys.float_info.min)  # beyond 1,023 differences it is smaller than a float can be, never 0
    return SignedRank(len(gain), len(gain) - n, p, smallest, int((kept > 0).sum()))


def log_losses(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Of labels {0,1} [n] and probabilities [n]: [n]."""
    truth = np.where(labels == 1, probability, 1 - probability)
    return np.asarray(-np.log(np.clip(truth, LEAST_P, 1.0)))


def by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean of each group's values, groups in their order."""
    return np.array([values[groups == name].mean() for name in np.unique(groups)])


def _exact(kept: np.ndarray) -> float:
    """Each difference's sign is + or - with equal odds: the distribution of the positive ranks' sum, rank by rank."""
    doubled = np.round(2 * stats.rankdata(np.abs(kept))).astype(int)  # mean ranks are halves
    odds = np.zeros(doubled.sum() + 1)
    odds[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(odds)
        shifted[rank:] = odds[: len(odds) - rank]
        odds = (odds + shifted) / 2
    found = int(doubled[kept > 0].sum())
    return float(min(1.0, 2 * min(odds[: found + 1].sum(), odds[found:].sum())))
