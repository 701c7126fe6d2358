"""A head fitted anew on few pictures, anchored on what it said before: log-odds = gain x before + a linear reading of the
features + bias. With nothing to learn from, or nothing new, it stays what it was.

A hospital has a few hundred pictures (289 in arXiv 2512.22730), a trunk shows its heads 768 numbers: a head fitted on the
pictures alone would forget what thousands of others taught it. How far it may move is chosen on patients set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.leakage import grouped_folds
from export.heads.fit import HYGROMA_ROUNDING, Reading, blown_up, either_way

# L2 strengths a picture that are tried on the standardised features, from "nothing new" to about what pictures alone would
# give (export/heads/fit.py's ridges have .025 and .07).
STRENGTHS = (np.inf, 3.0, 1.0, 0.3, 0.1, 0.03)
GAIN_STRENGTH = 0.01  # L2 a picture on gain - 1 and on the bias: finite where the pictures are told apart without an error
PARTS = 4  # of the training patients, each set aside once to choose the strength
STEPS = 300  # of L-BFGS at most: from the strength before, a few dozen are enough
LEAST_SPREAD = 1e-4  # of a feature: one that never varies is left alone


@dataclass(frozen=True)
class Samples:
    """before [N]: log-odds of the head as it was, in float; features and rounding [N,D]; labels {0,1} [N]; weights [N];
    groups [N]: patients."""

    before: np.ndarray
    features: np.ndarray
    rounding: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    groups: Sequence[str]

    def part(self, keep: np.ndarray) -> Samples:
        """keep: indices."""
        return Samples(
            self.before[keep],
            self.features[keep],
            self.rounding[keep],
            self.labels[keep],
            self.weights[keep],
            [self.groups[i] for i in keep],
        )


@dataclass(frozen=True)
class Anchored:
    """strength: the L2 strength it was fitted with; infinite: gain and bias alone."""

    gain: float
    reading: Reading
    strength: float

    def __call__(self, before: np.ndarray, features: np.ndarray) -> np.ndarray:
        return self.gain * before + self.reading(features)


def fit_anchored(samples: Samples, seed: int) -> Anchored:
    """At the strongest strength whose log loss on patients set aside is within one standard error of the least (Breiman 1984):
    what a few hundred pictures do not clearly show, a head does not learn. Deterministic."""
    present = [len({g for g, y in zip(samples.groups, samples.labels, strict=True) if y == kind}) for kind in (0, 1)]
    if min(present) < 2:
        return _path(samples, STRENGTHS[:1])[0]
    parts = grouped_folds(samples.labels.astype(int), samples.groups, min(PARTS, *present), seed)
    losses = np.zeros((len(STRENGTHS), len(samples.labels)))
    for part in range(parts.max() + 1):
        held = np.flatnonzero(parts == part)
        aside = samples.part(held)
        for number, fitted in enumerate(_path(samples.part(np.flatnonzero(parts != part)), STRENGTHS)):
            said = fitted(aside.before, aside.features)
            losses[number, held] = aside.weights * (np.logaddexp(0, said) - aside.labels * said)
    more = losses - losses[losses.sum(1).argmin()]
    _, patients = np.unique(samples.groups, return_inverse=True)
    by_patient = np.stack([np.bincount(patients, weights=own) for own in more])
    error = np.sqrt(by_patient.shape[1] * by_patient.var(1))
    return _path(samples, STRENGTHS[: int(np.argmax(by_patient.sum(1) <= error)) + 1])[-1]


def _path(samples: Samples, strengths: Sequence[float]) -> list[Anchored]:
    """A fit at each strength, from the strongest on: each starts where the last one ended."""
    from scipy.optimize import minimize
    from scipy.special import expit

    spread = samples.features.std(0)
    middle, alive = samples.features.mean(0), spread > LEAST_SPREAD
    scale = np.where(alive, 1 / np.where(alive, spread, 1.0), 0.0)
    moved = np.zeros_like(samples.rounding)
    moved[:, alive] = blown_up(samples.rounding[:, alive], samples.features[:, alive], HYGROMA_ROUNDING)
    x = (either_way(samples.features, moved) - middle) * scale
    before, labels = np.tile(samples.before, 2), np.tile(samples.labels, 2)
    weights = np.tile(samples.weights, 2) / (2 * samples.weights.sum())

    def loss(p: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        gain, bias, w = p[0], p[1], p[2:]
        free = np.isfinite(strength)
        said = gain * before + bias + (x @ w if free else 0.0)
        kept = GAIN_STRENGTH * ((gain - 1) ** 2 + bias**2) + (strength * w @ w if free else 0.0)
        slope = weights * (expit(said) - labels)
        own = [slope @ before + GAIN_STRENGTH * (gain - 1), slope.sum() + GAIN_STRENGTH * bias]
        value = (weights * (np.logaddexp(0, said) - labels * said)).sum() + kept / 2
        return float(value), np.concatenate([own, slope @ x + strength * w if free else np.zeros_like(w)])

    out, p = [], np.concatenate([[1.0, 0.0], np.zeros(x.shape[1])])
    for strength in strengths:
        p = minimize(loss, p, (strength,), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
        own = p[2:] * scale
        out.append(Anchored(float(p[0]), Reading(own, float(p[1] - own @ middle)), strength))
    return out
