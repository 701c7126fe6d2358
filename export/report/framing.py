"""Does the plane head judge the picture, or how the still was cut?

Whoever cut the data's stills out of their screens cut standard planes otherwise than others: the aspect alone tells them apart. A
scanner's screen, and another hospital's stills, are cut in other ways, so the head is also judged on the same held-out stills
cut anew at random, and beside it stands what the aspect alone gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.bank import Bank
from edge.bundle.manifest import EvidenceRow, EvidenceTable
from edge.screen.preprocess import Preprocessing, letterbox
from export.model.heads import PLANE
from export.report import metrics
from export.report.evidence import EXTRAS, HeldOut
from export.report.records import Area
from export.training.augment import content, cut_anew

CUT, ASPECT = EXTRAS[:2]  # keys of HeldOut.probability; NaN but for untouched stills
IMAGES = {"qdq_plane": "as they are", CUT: "cut anew", ASPECT: "by their aspect alone"}


def cut_stills(bank: Bank, stills: Sequence[int], spec: Preprocessing, seed: Sequence[int]) -> np.ndarray:
    """uint8 [N,S,S]: each of the bank's entries `stills`, cut anew once."""
    return np.stack([
        letterbox(cut_anew(bank.crops[i], np.random.default_rng([*seed, int(i)])), spec) for i in stills
    ])  # fmt: skip


def aspects(bank: Bank, stills: Sequence[int]) -> np.ndarray:
    """Width over height, float [N], of the picture in each entry's letterboxed square."""
    sizes = np.array([high - low for low, high in (content(bank.crops[i]) for i in stills)])
    return np.asarray(sizes[:, 0] / sizes[:, 1])


def framing_rows(splits: Sequence[HeldOut]) -> list[Area]:
    """Areas under the ROC curve, standard against non-standard planes, of the INT8 plane head on untouched held-out stills: as
    they are, and cut anew; and of the aspect alone, whichever way it points."""
    rows: list[Area] = []
    for data in splits:
        keep = data.known(PLANE)
        labels = data.labels(PLANE)[keep]
        if CUT not in data.probability or not 0 < labels.sum() < len(labels):
            continue
        for key, images in IMAGES.items():
            said = data.probability[key][keep]
            area = metrics.auc(labels, said)
            if key == ASPECT and area.value < 0.5:
                area = metrics.auc(labels, -said)
            rows.append({
                "split": f"{data.name}, {images}", "n": area.n, "auc": area.value, "low": area.low, "high": area.high
            })  # fmt: skip
    return rows


def framing_table(rows: Sequence[Area]) -> EvidenceTable | None:
    """The bundle's evidence table; None where nothing was measured."""
    if not rows:
        return None
    return EvidenceTable(
        "planes, however they are cut",
        "real",
        "Untouched real stills, standard against non-standard planes: as they are; the same stills, cut anew to a random "
        "aspect, mirrored or not, at another gain; and what their aspect alone tells, which says how much of the first figure "
        "could be the way in which whoever collected them cut them. Model form: INT8.",
        tuple(EvidenceRow("ROC-AUC", r["split"], r["n"], r["auc"], r["low"], r["high"]) for r in rows),
    )
