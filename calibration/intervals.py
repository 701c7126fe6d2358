"""Intervals over patients: images of one patient are not independent, so patients are drawn, never images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 1000  # bootstrap samples: the ends of a 95 % interval then rest on 25 each
CONFIDENCE = 0.95


def patient_interval(
    statistic: Callable[[np.ndarray], float], groups: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of `statistic(indices)` where `groups` [n] names each image's patient -> (low, high).

    A draw for which the statistic is NaN (a class is missing) is left out; (NaN, NaN) when no draw has a value.
    """
    names = np.asarray(groups)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        picked = rng.integers(0, len(members), len(members))
        value = statistic(np.concatenate([members[i] for i in picked]))
        if not np.isnan(value):
            values.append(value)
    if not values:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
