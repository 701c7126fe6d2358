"""What the report draws of one form of a model: ROC curve, reliability, confusion table. JSON values only."""

from __future__ import annotations

import numpy as np

from export.report import metrics
from export.report.records import Bin, Reliability

BINS = 10  # of the reliability diagram, equal in probability: .1 wide
MAX_POINTS = 200  # of a drawn curve: more cannot be seen at its size


def roc_points(labels: np.ndarray, probability: np.ndarray) -> list[list[float]]:
    """labels bool [n], both classes -> points (1 - specificity, sensitivity) from (0, 0) to (1, 1), one a distinct probability,
    thinned to MAX_POINTS."""
    order = np.argsort(-probability, kind="stable")
    last_of_its_value = np.append(np.diff(probability[order]) != 0, True)
    hits = labels[order].astype(bool)
    x = np.append(0.0, np.cumsum(~hits)[last_of_its_value] / max(1, int((~hits).sum())))
    y = np.append(0.0, np.cumsum(hits)[last_of_its_value] / max(1, int(hits.sum())))
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
    return [[round(float(a), 4), round(float(b), 4)] for a, b in zip(x[keep], y[keep], strict=True)]


def reliability(labels: np.ndarray, probability: np.ndarray) -> Reliability:
    """Bins of the predicted probability that hold an image: mean prediction, share of positives with its exact 95 % interval,
    n; and the expected calibration error (Guo et al. 2017, arXiv 1706.04599): their mean distance, weighted by n."""
    which = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    bins: list[Bin] = []
    for number in range(BINS):
        keep = which == number
        if keep.any():
            share = metrics.proportion(int(labels[keep].sum()), int(keep.sum()))
            mean = float(probability[keep].mean())
            bins.append({"n": share.n, "mean": mean, "share": share.value, "low": share.low, "high": share.high})
    error = sum(b["n"] * abs(b["mean"] - b["share"]) for b in bins) / len(labels)
    return {"bins": bins, "expected_calibration_error": float(error)}


def confusion(labels: np.ndarray, decisions: np.ndarray) -> dict[str, int]:
    """Counts of labels bool [n] against decisions bool [n]."""
    return {
        "true_positive": int((labels & decisions).sum()),
        "false_negative": int((labels & ~decisions).sum()),
        "false_positive": int((~labels & decisions).sum()),
        "true_negative": int((~labels & ~decisions).sum()),
    }
