"""Two systems, cross-validated on the same images and folds: Wilcoxon signed-rank over paired differences.

The paper (arXiv 2512.22730) gives p = .0057 and not what it paired. Units: `image` and `patient` pair log losses; `fold` pairs
each figure over the four folds (n = 4 can give no p below .125); `fold-metric` pairs folds x figures as if they were
independent, which they are not. Every p stands beside its n, the smallest p that this n allows, and what both started from.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from edge.errors import InputError
from export.report.figures import METRICS, value
from export.site.crossval import Run
from export.training.systems import RANDOM

UNITS = ("image", "patient", "fold", "fold-metric")
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


def compare(a: Run, b: Run, unit: str = "image") -> dict[str, Any]:
    """Rows of p by what was paired, with both starts and what must be said of them. InputError unless images, labels and
    folds are the same."""
    if unit not in UNITS:
        raise InputError(f"--unit: found {unit!r}; expected one of {', '.join(UNITS)}")
    _check_same(a, b)
    a_start, b_start = ("pretrained" if run.report["start"] != RANDOM else "random start" for run in (a, b))
    starts = f"A {a_start}, B {b_start}"
    rows = [{"paired": name, **_row(signed_rank(gain)), "starts": starts} for name, gain in _gains(a, b, unit).items()]
    remarks = []
    if a_start != b_start:
        remarks.append(
            "A pretrained start against a random one: the difference may be the pretraining's and not the architecture's; "
            "vit-random is the control."
        )
    if unit == "image" and len(set(a.groups)) < len(a.paths):
        remarks.append("Images of one patient are not independent: this p is too small; see --unit patient.")
    if unit == "fold-metric":
        remarks.append("Figures of one fold are not independent: this p is too small.")
    return _result(a, b, unit, rows, remarks)


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


def _gains(a: Run, b: Run, unit: str) -> dict[str, np.ndarray]:
    """What was paired -> b's gain over a, one a pair; positive where b is better."""
    if unit in ("image", "patient"):
        gain = _losses(a) - _losses(b)
        if unit == "patient":
            names = np.array(a.groups)
            gain = np.array([gain[names == name].mean() for name in np.unique(names)])
        return {f"log loss, {unit}": gain}
    folds = np.unique(a.folds)
    by_metric = {name: np.array([_value(b, name, f) - _value(a, name, f) for f in folds]) for name in METRICS}
    if unit == "fold":
        return {f"{name}, fold": gain for name, gain in by_metric.items()}
    return {"fold x figure": np.concatenate(list(by_metric.values()))}


def _losses(run: Run) -> np.ndarray:
    truth = np.where(run.labels == 1, run.probability, 1 - run.probability)
    return np.asarray(-np.log(np.clip(truth, LEAST_P, 1.0)))


def _value(run: Run, name: str, fold: int) -> float:
    return value(name, run.labels, run.decisions, run.probability, run.folds == fold)


def _row(test: SignedRank) -> dict[str, Any]:
    return {"n": test.n, "ties": test.ties, "second_better": test.greater, "p": test.p, "smallest_p": test.smallest_p}


def _result(a: Run, b: Run, unit: str, rows: list[dict[str, Any]], remarks: list[str]) -> dict[str, Any]:
    return {
        "systems": [
            {
                "folder": str(run.folder),
                "system": run.report["system"],
                "start": run.report["start"],
                "seed": run.report["seed"],
                "pooled": run.report["pooled"],
                "by site": run.report.get("by site", []),  # reports of older versions have none
            }
            for run in (a, b)
        ],
        "unit": unit,
        "images": len(a.paths),
        "patients": len(set(a.groups)),
        "tests": rows,
        "remarks": remarks,
    }


def _check_same(a: Run, b: Run) -> None:
    for what, one, other in (
        ("images", a.paths, b.paths),
        ("labels", a.labels.tolist(), b.labels.tolist()),
        ("patients", a.groups, b.groups),
        ("folds", a.folds.tolist(), b.folds.tolist()),
    ):
        if one != other:
            raise InputError(
                f"{a.folder} and {b.folder}: not the same {what} ({len(one)} and {len(other)} images); cross-validate both on "
                "the same data, CSV and --seed"
            )
