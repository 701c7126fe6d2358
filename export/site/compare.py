"""Two systems, cross-validated on the same images and folds: Wilcoxon signed-rank over paired differences.

The paper (arXiv 2512.22730) gives p = .0057 and not what it paired. Units: `image` and `patient` pair log losses; `fold` pairs
each figure over the four folds (n = 4 can give no p below .125); `fold-metric` pairs folds x figures as if they were
independent, which they are not. Every p stands beside its n, the smallest p that this n allows, and what both started from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.errors import InputError
from export.report.figures import METRICS, value
from export.report.paper import POOLED
from export.report.signed_rank import SignedRank, by_group, log_losses, signed_rank
from export.site.crossed import Crossed

UNITS = ("image", "patient", "fold", "fold-metric")


def compare(a: Crossed, b: Crossed, unit: str = "image") -> dict[str, Any]:
    """Rows of p by what was paired, with both starts and what must be said of them. InputError unless images, labels and
    folds are the same."""
    if unit not in UNITS:
        raise InputError(f"--unit: found {unit!r}; expected one of {', '.join(UNITS)}")
    _check_same(a, b)
    a_start, b_start = ("pretrained" if run.pretrained else "random start" for run in (a, b))
    starts = f"A {a_start}, B {b_start}"
    rows = [{"paired": name, **_row(signed_rank(gain)), "starts": starts} for name, gain in _gains(a, b, unit).items()]
    remarks = []
    if a_start != b_start:
        remarks.append(
            "A pretrained start against a random one: the difference may be the pretraining's and not the architecture's; "
            "vit-random is the control."
        )
    if unit == "image" and len(set(a.answers.groups)) < len(a.answers.names):
        remarks.append("Images of one patient are not independent: this p is too small; see --unit patient.")
    if unit == "fold-metric":
        remarks.append("Figures of one fold are not independent: this p is too small.")
    return _result(a, b, unit, rows, remarks)


def _gains(a: Crossed, b: Crossed, unit: str) -> dict[str, np.ndarray]:
    """What was paired -> b's gain over a, one a pair; positive where b is better."""
    if unit in ("image", "patient"):
        gain = _losses(a) - _losses(b)
        return {f"log loss, {unit}": by_group(gain, np.array(a.answers.groups)) if unit == "patient" else gain}
    folds = np.unique(a.answers.folds)
    by_metric = {name: np.array([_value(b, name, f) - _value(a, name, f) for f in folds]) for name in METRICS}
    if unit == "fold":
        return {f"{name}, fold": gain for name, gain in by_metric.items()}
    return {"fold x figure": np.concatenate(list(by_metric.values()))}


def _losses(run: Crossed) -> np.ndarray:
    return log_losses(run.answers.labels, run.probability)


def _value(run: Crossed, name: str, fold: int) -> float:
    return value(name, run.answers.labels, run.decisions, run.probability, run.answers.folds == fold)


def _row(test: SignedRank) -> dict[str, Any]:
    return {"n": test.n, "ties": test.ties, "second_better": test.greater, "p": test.p, "smallest_p": test.smallest_p}


def _result(a: Crossed, b: Crossed, unit: str, rows: list[dict[str, Any]], remarks: list[str]) -> dict[str, Any]:
    return {
        "systems": [
            {
                "folder": str(run.folder),
                "system": run.title,
                "form": run.form,
                "start": run.row["start"],
                "pooled": run.row["figures"][POOLED],
                "by site": run.row["by site"],
            }
            for run in (a, b)
        ],
        "unit": unit,
        "images": len(a.answers.names),
        "patients": len(set(a.answers.groups)),
        "tests": rows,
        "remarks": remarks,
    }


def _check_same(a: Crossed, b: Crossed) -> None:
    first, second = a.answers, b.answers
    for what, one, other in (
        ("kind of images", [first.kind], [second.kind]),
        ("images", list(first.names), list(second.names)),
        ("labels", first.labels.tolist(), second.labels.tolist()),
        ("patients", list(first.groups), list(second.groups)),
        ("folds", first.folds.tolist(), second.folds.tolist()),
    ):
        if one != other:
            raise InputError(
                f"{a.folder} and {b.folder}: not the same {what} ({len(one)} and {len(other)} images); cross-validate both on "
                "the same data and --seed"
            )
