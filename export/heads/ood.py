"""Fitting the out-of-distribution distance: a shrunk Gaussian on the embeddings of training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.bundle.arrays import OodStats
from edge.errors import InputError

KEPT = 0.99  # chosen: one good frame in a hundred is lost to the distance
MIN_IMAGES = 16  # below this not even the mean means anything


def distance_limit(
    ood: OodStats, typical: Sequence[np.ndarray], quantile: float = KEPT, left_out: np.ndarray | None = None
) -> float:
    """The distance that `quantile` of every source stay under: float [N,D] embeddings of held-out images, an array a source.
    left_out: distances of a source that the statistics were fitted on (`left_out_distances`)."""
    sources = [ood.distance(embeddings) for embeddings in typical] + ([] if left_out is None else [left_out])
    return max(float(np.quantile(distances, quantile)) for distances in sources)


def left_out_distances(embeddings: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The distances [M] of those of embeddings [N,D] that are in a fold (int [N], 0 or more), each by statistics of the others:
    where no image was held out, those that the statistics were fitted on would all seem near."""
    parts = [
        fit_ood(embeddings[folds != fold]).distance(embeddings[folds == fold]) for fold in np.unique(folds[folds >= 0])
    ]
    return np.concatenate(parts)


def fit_ood(embeddings: np.ndarray) -> OodStats:
    """float [N,D] embeddings of assessable training images -> OodStats with full-rank whitening [D,D].

    The covariance is shrunk towards a multiple of the identity by the oracle-approximating amount (Chen, Wiesel, Eldar,
    Hero 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23), since N is often not much larger than D.
    InputError for N < 16.
    """
    n, dim = embeddings.shape
    if n < MIN_IMAGES:
        raise InputError(f"embeddings for out-of-distribution statistics: found {n}; give at least {MIN_IMAGES}")
    x = embeddings.astype(np.float64)
    mean = x.mean(0)
    covariance = np.cov(x, rowvar=False, bias=True).reshape(dim, dim)
    trace, trace2 = np.trace(covariance), float(np.sum(covariance * covariance))
    spread = (n + 1 - 2 / dim) * (trace2 - trace**2 / dim)
    rho = 1.0 if spread <= 0 else min(1.0, ((1 - 2 / dim) * trace2 + trace**2) / spread)
    shrunk = (1 - rho) * covariance + rho * trace / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(shrunk)
    values = np.maximum(values, max(values.max(), 1e-12) * 1e-8)  # rounding may leave tiny negatives
    return OodStats(mean.astype(np.float32), (vectors / np.sqrt(values)).T.astype(np.float32))
