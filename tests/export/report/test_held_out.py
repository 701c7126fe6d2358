"""What the evidence says of folds: each has a model of its own, and an offset between two of them is no finding."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from calibration.bank import UNKNOWN, Entry  # noqa: E402
from export.model.heads import HEADS  # noqa: E402
from export.report.evidence import FORMS, HeldOut, evaluation_sets, increased_rows, thickness_rows  # noqa: E402
from export.report.validate import evaluate  # noqa: E402

EACH, FOLDS = 60, 3
N = EACH * FOLDS


def folds(said: np.ndarray, mm: np.ndarray, increased: np.ndarray) -> HeldOut:
    entries = [
        Entry(i, "real", i // EACH, 1.0, UNKNOWN if thick else 0.0, float(t), None)
        for i, (t, thick) in enumerate(zip(mm, increased, strict=True))
    ]
    parts = np.array([f"fold {i // EACH}" for i in range(N)])
    return HeldOut("folds", entries, [str(i) for i in range(N)], parts, {"qdq_hygroma": said}, {})


def test_an_offset_between_folds_changes_no_figure() -> None:
    rng = np.random.default_rng(0)
    mm = rng.uniform(0.8, 2.6, N)
    increased = np.zeros(N, bool)
    for fold in range(FOLDS):
        own = slice(fold * EACH, (fold + 1) * EACH)
        increased[own][np.argsort(mm[own])[-2:]] = True
    said = mm + rng.normal(0, 0.3, N)
    shifted = said + 10.0 * (np.arange(N) // EACH)
    (row,), (moved,) = (thickness_rows([folds(s, mm, increased)]) for s in (said, shifted))
    assert row == moved and 0.75 < row["low"] < row["rho"] < row["high"] < 1 and row["n"] == N
    (row,), (moved,) = (increased_rows([folds(s, mm, increased)]) for s in (said, shifted))
    assert row == moved and row["auc"] > 0.9 and (row["positives"], row["n"]) == (2 * FOLDS, N)


def test_one_fold_is_its_plain_rank_correlation() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    mm, said = rng.uniform(0.8, 2.6, N), rng.uniform(0, 1, N)
    data = folds(said, mm, np.zeros(N, bool))
    alone = HeldOut("validation", data.entries, data.ids, np.full(N, "validation"), data.probability, {})
    assert thickness_rows([alone])[0]["rho"] == pytest.approx(float(spearmanr(mm, said)[0]), abs=1e-9)


@pytest.mark.parametrize("copies", [1, 4])
def test_edits_of_a_still_are_one_patients_and_narrow_no_interval(copies: int) -> None:
    """As many lesions and shams again, each a copy: nothing more is known, and no interval says so."""
    rng, stills = np.random.default_rng(2), 60
    said = rng.uniform(0, 1, (3, stills))
    entries, probability = [], []
    for i in range(stills):
        entries.append(Entry(i, "real", i % 2, float(i % 3 > 0), UNKNOWN, UNKNOWN, None))
        probability.append(said[0, i])
        for source, label, p in (("lesion", 1.0, 0.3 + 0.7 * said[1, i]), ("sham", 0.0, 0.7 * said[2, i])):
            entries += [Entry(i, source, i % 2, 1.0, label, 3.0, None)] * copies
            probability += [p] * copies
    n = len(entries)
    shown = {f"{form}_{head.name}": np.array(probability) for form in FORMS for head in HEADS}
    sets = []
    for name in ("folds", "validation"):
        parts = np.array([f"fold {e.fold}" if name == "folds" else name for e in entries])
        sets.append(HeldOut(name, entries, [str(i) for i in range(n)], parts, shown, {}))
    report = {data.name: evaluate(data) for data in evaluation_sets(*sets)}
    area = report["hygroma, validation"]["steps"]["INT8"]["validation"]["ROC-AUC"]
    assert area["n"] == 2 * stills * copies and area["patients"] == stills
    assert area["value"] == pytest.approx(0.778, abs=1e-3)
    assert (area["low"], area["high"]) == pytest.approx((0.70, 0.85), abs=0.02)  # of 60, whatever the copies
    assert "patients" not in report["plane, validation"]["steps"]["INT8"]["validation"]["ROC-AUC"]
