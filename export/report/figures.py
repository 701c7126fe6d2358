"""The paper's four figures of a classifier on a user's images: accuracy, sensitivity, specificity, ROC-AUC, each with an interval
that knows when a patient has several images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy import stats

from calibration.intervals import patient_interval
from export.report import metrics
from export.report.records import FiguredByPatient

METRICS = ("accuracy", "sensitivity", "specificity", "roc_auc")
_OF_DECISIONS = {"accuracy": metrics.accuracy, "sensitivity": metrics.sensitivity, "specificity": metrics.specificity}


def figures(
    labels: np.ndarray,
    decisions: np.ndarray,
    probability: np.ndarray,
    groups: Sequence[str],
    wanted: Sequence[str] = METRICS,
) -> dict[str, FiguredByPatient]:
    """Each of `wanted`: value, low, high, n images, patients, and which interval (95 %) it is. Exact (DeLong for the area)
    where every image is a patient's only one; else a bootstrap over patients, since their images are not independent."""
    out = {}
    for name in wanted:
        figure = metrics.auc(labels, probability) if name == "roc_auc" else _OF_DECISIONS[name](labels, decisions)
        judged = _judged(name, labels)
        patients = _patients(groups, judged)
        row: FiguredByPatient = {**figure.row(), "patients": patients}
        if patients < int(judged.sum()):
            low, high = patient_interval(partial(value, name, labels, decisions, probability), groups)
            row["low"], row["high"], row["interval"] = low, high, "bootstrap over patients"
        if not row["high"] > row["low"]:  # every draw alike: no width, which would say certainty
            n = min(_patients(groups, labels == kind) for kind in (0, 1)) if name == "roc_auc" else patients
            low, high = metrics.share_interval(figure.value, n)
            row["low"], row["high"], row["interval"] = low, high, "exact, patients counted"
        out[name] = row
    return out


def value(
    name: str,
    labels: np.ndarray,
    decisions: np.ndarray,
    probability: np.ndarray,
    keep: np.ndarray | slice = slice(None),
) -> float:
    """One of METRICS on the images `keep`; NaN when a class that it needs is missing."""
    labels, decisions, probability = labels[keep], decisions[keep], probability[keep]
    if name == "roc_auc":
        positive = labels == 1
        m, n = int(positive.sum()), int((~positive).sum())
        if m == 0 or n == 0:
            return math.nan
        return float((stats.rankdata(probability)[positive].sum() - m * (m + 1) / 2) / (m * n))
    judged = _judged(name, labels)
    return float((decisions[judged] == labels[judged]).mean()) if judged.any() else math.nan


def _judged(name: str, labels: np.ndarray) -> np.ndarray:
    """bool [n]: the images that a figure counts."""
    return {"sensitivity": labels == 1, "specificity": labels == 0}.get(name, np.ones(len(labels), bool))


def _patients(groups: Sequence[str], keep: np.ndarray) -> int:
    return len(set(np.asarray(groups)[keep]))
