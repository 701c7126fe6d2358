"""What are the simulated lesions told from?

The hygroma head's figures are against two kinds of negatives at once. A sham went through the same edit as a lesion, so that a
trace of editing tells nothing; an untouched still did not, and keeps its own calipers. So each kind also stands by itself, and
beside them the same stills with their calipers painted out, which the main figures leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edge.bundle.manifest import EvidenceRow, EvidenceTable
from export.model.heads import HYGROMA, Head
from export.report.evidence import HeldOut, fold_thresholds, shipped_threshold
from export.report.figures import figures
from export.report.records import Controls

NEGATIVES = {"sham": "shams only", "real": "untouched stills only", "cleaned": "calipers painted out"}
METRICS: dict[Literal["roc_auc", "specificity"], str] = {"roc_auc": "ROC-AUC", "specificity": "specificity"}


def control_rows(folds: HeldOut, validation: HeldOut | None, decides: Head) -> list[Controls]:
    """Area under the ROC curve and specificity of the INT8 hygroma head, split by split and kind by kind, as `figures` gives
    them. Thresholds as in the main figures: a fold's from the other folds, the validation split's the shipped one. A kind
    that a split lacks, or a split without lesions, gives no row. decides: the hygroma head on what its thresholds are chosen
    on."""
    rows = []
    for data in filter(None, (folds, validation)):
        labels, said = data.labels(HYGROMA), data.said("qdq", HYGROMA)
        if data is folds:
            limit = fold_thresholds(folds, "student", decides)
        else:
            limit = np.full(len(labels), shipped_threshold(folds, "student", decides))
        sources = np.array([e.source for e in data.entries])
        stills = np.array([e.owner for e in data.entries])
        drawn = (labels == 1) & (sources == "lesion")
        for source, negatives in NEGATIVES.items():
            of_kind = (labels == 0) & (sources == source)
            keep = of_kind | drawn
            if not of_kind.any() or not drawn.any():
                continue
            found = figures(labels[keep], said[keep] >= limit[keep], said[keep], stills[keep].tolist(), list(METRICS))
            row: Controls = {
                "split": data.name,
                "negatives": negatives,
                "roc_auc": found["roc_auc"],
                "specificity": found["specificity"],
            }
            rows.append(row)
    return rows


def controls_table(rows: Sequence[Controls]) -> EvidenceTable | None:
    """The bundle's evidence table; None where nothing was measured."""
    if not rows:
        return None
    return EvidenceTable(
        "simulated lesions, by what they are told from",
        "simulated_lesion",
        "Simulated lesions against each kind of negative by itself: shams, which went through the same edit; untouched stills, "
        "with their own calipers; the same stills with the calipers painted out. Specificity at the operating point. Intervals "
        "are drawn over stills where one gives several images. Model form: INT8.",
        tuple(
            EvidenceRow(name, f"{r['split']}, {r['negatives']}", r[key]["n"], r[key]["value"], r[key]["low"], r[key]["high"])
            for r in rows
            for key, name in METRICS.items()
        ),
    )
