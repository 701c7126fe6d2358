"""Simulated lesions against each kind of negative by itself."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from calibration.bank import UNKNOWN, Entry  # noqa: E402
from export.model.heads import HYGROMA  # noqa: E402
from export.report.controls import control_rows, controls_table  # noqa: E402
from export.report.evidence import HeldOut  # noqa: E402
from export.report.html import render  # noqa: E402
from export.report.validate import validation_report  # noqa: E402

STILLS = 40
SAID = {"sham": 0.6, "real": 0.2, "cleaned": 0.9, "lesion": 0.8}  # a head that sees the edit, and misses the calipers
SHAMS = 2  # a still


def judged(name: str, said: dict[str, float]) -> HeldOut:
    """Every still untouched, painted out, sham operated twice and with a lesion; the last one's untouched pictures look
    thickened by eye, so that they have no label. Two folds."""
    entries, probability = [], []
    for i in range(STILLS):
        for source, p in said.items():
            label = 1.0 if source == "lesion" else UNKNOWN if source != "sham" and i == STILLS - 1 else 0.0
            for copy in range(SHAMS if source == "sham" else 1):
                entries.append(Entry(i, source, i % 2, 1.0, label, 2.0, None))
                probability.append(p + 0.001 * i + 0.0001 * copy)
    n = len(entries)
    parts = np.array([f"fold {e.fold}" if name == "folds" else name for e in entries])
    shown = {f"{form}_hygroma": np.array(probability) for form in ("student", "qdq")}
    return HeldOut(name, entries, [str(i) for i in range(n)], parts, shown, {})


def rows(said: dict[str, float]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    found = control_rows(judged("folds", said), judged("validation", said), HYGROMA)
    return {(r["split"], r["negatives"]): r for r in found}


def test_each_kind_of_negative_stands_by_itself() -> None:
    found = rows(SAID)
    for split in ("folds", "validation"):
        sham, real, cleaned = (found[split, k] for k in ("shams only", "untouched stills only", "calipers painted out"))
        assert (sham["roc_auc"]["n"], real["roc_auc"]["n"]) == (STILLS + SHAMS * STILLS, 2 * STILLS - 1)
        assert sham["specificity"]["n"] == SHAMS * STILLS and real["specificity"]["n"] == STILLS - 1
        assert sham["roc_auc"]["value"] == real["roc_auc"]["value"] == 1.0
        # .9 to .938 of negatives, .8 to .839 of lesions: a painted-out still is never below a lesion
        assert cleaned["roc_auc"]["value"] == 0.0 and cleaned["specificity"]["value"] == 0.0
        assert real["specificity"]["value"] == 1.0 and 0.9 < sham["specificity"]["value"] < 1.0
        assert real["specificity"]["low"] < 1.0


def test_painted_out_stills_choose_no_threshold() -> None:
    before, after = rows(SAID), rows(SAID | {"cleaned": 0.1})
    for split in ("folds", "validation"):
        for kind in ("shams only", "untouched stills only"):
            assert before[split, kind] == after[split, kind]
        assert after[split, "calipers painted out"]["specificity"]["value"] == 1.0


@pytest.mark.parametrize("lacking", ["sham", "lesion"])
def test_what_is_not_there_has_no_row(lacking: str) -> None:
    """A lesion is needed for every row, a kind of negative for its own."""
    kept = {source: p for source, p in SAID.items() if source != lacking}
    found = {kind for _, kind in rows(kept)}
    assert found == (set() if lacking == "lesion" else {"untouched stills only", "calipers painted out"})


def test_the_report_and_the_card_show_the_same_figures() -> None:
    from test_validate import evaluation

    found = list(rows(SAID).values())
    html = render(validation_report([evaluation()]) | {"controls": found})
    lesions = html.partition('<section id="evidence">')[2].partition("</section>")[0]
    assert "By what they are told from" in lesions and lesions.count("<td>shams only</td>") == 2
    table = controls_table(found)
    assert table is not None and table.kind == "simulated_lesion" and len(table.rows) == 2 * 3 * 2
    sham = found[0]["specificity"]
    row = next(r for r in table.rows if r.split == "folds, shams only" and r.metric == "specificity")
    assert (row.n, row.value, row.low, row.high) == (sham["n"], sham["value"], sham["low"], sham["high"])
    assert f"{sham['value']:.3f} [{sham['low']:.3f}, {sham['high']:.3f}]" in lesions


def test_where_nothing_was_measured_there_is_no_table() -> None:
    from test_validate import evaluation

    assert controls_table([]) is None
    assert "By what they are told from" not in render(validation_report([evaluation()]))
