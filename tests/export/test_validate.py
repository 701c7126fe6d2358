"""The gate on hand-made arrays, and the report made of it."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge.errors import InputError  # noqa: E402
from export.gate import gate  # noqa: E402
from export.report_html import render  # noqa: E402
from export.validate import EvaluationSet, Step, evidence_tables, validation_report, write_report  # noqa: E402

N = 400
LABELS = np.tile([0, 1], N // 2)
CLEAN = np.where(LABELS == 1, 0.9, 0.1) + np.linspace(-0.05, 0.05, N)
IDS = [f"image-{i}" for i in range(N)]


def changed(**values: float) -> np.ndarray:
    """CLEAN with image number n set to a probability: changed(n3=.4)."""
    out = CLEAN.copy()
    for name, value in values.items():
        out[int(name[1:])] = value
    return out


def test_nothing_changed_passes() -> None:
    result = gate(LABELS, CLEAN, CLEAN, 0.5, IDS)
    assert result.passed and result.flips == result.positives_lost == 0 and result.max_dp == 0.0
    assert (result.n, result.positives) == (400, 200)


def test_one_lost_positive_fails_and_is_named() -> None:
    result = gate(LABELS, CLEAN, changed(n3=0.49), 0.5, IDS)
    assert not result.passed and result.positives_lost == 1 and result.flipped == ("image-3",)
    assert "1 positives lost" in result.reasons[0]


def test_a_positive_that_was_missed_before_cannot_be_lost() -> None:
    missed = changed(n3=0.4)
    assert gate(LABELS, missed, changed(n3=0.3), 0.5, IDS).positives_lost == 0


def test_flips_up_to_the_limit_pass_and_one_more_fails() -> None:
    two = gate(LABELS, CLEAN, changed(n0=0.51, n2=0.51), 0.5, IDS)  # 2 of 400: .5 %
    assert two.passed and two.flips == 2
    three = gate(LABELS, CLEAN, changed(n0=0.51, n2=0.51, n4=0.51), 0.5, IDS)  # .75 %
    assert not three.passed and three.flipped == ("image-0", "image-2", "image-4")


def test_an_auc_drop_fails_without_any_flip() -> None:
    result = gate(LABELS, CLEAN, changed(n0=0.99, n2=0.99), 0.0, IDS)
    assert not result.passed and result.flips == 0 and result.auc_drop == pytest.approx(2 / 200)
    assert "ROC-AUC fell" in result.reasons[0]


def test_thresholds_may_differ_per_image() -> None:
    thresholds = np.where(np.arange(N) < 200, 0.5, 0.95)
    assert gate(LABELS, CLEAN, changed(n1=0.6), thresholds, IDS).flips == 0
    assert gate(LABELS, CLEAN, changed(n201=0.96), thresholds, IDS).flips == 1


def test_one_class_shows_nothing() -> None:
    assert not gate(np.ones(N), CLEAN, CLEAN, 0.5, IDS).passed
    with pytest.raises(InputError):
        gate(LABELS[:0], CLEAN[:0], CLEAN[:0], 0.5, [])
    with pytest.raises(InputError):
        gate(LABELS, CLEAN, CLEAN[:-1], 0.5, IDS)


def evaluation(**changes: Any) -> EvaluationSet:
    base = EvaluationSet(
        name="lesions <A & B>",
        kind="simulated_lesion",
        task="thickened",
        description="Made by hand.",
        ids=IDS,
        labels=LABELS,
        splits=[f"fold {i // 100}" for i in range(N)],
        steps=[
            Step("teacher", changed(n1=0.2), 0.5),
            Step("student FP32", CLEAN, 0.5),
            Step("INT8", changed(n0=0.6), 0.5),
        ],
        reference="student FP32",
    )
    return dataclasses.replace(base, **changes)


def test_report_holds_every_step_fold_and_conversion() -> None:
    report = validation_report([evaluation()])
    part = report["sets"][0]
    assert report["passed"] and list(part["steps"]) == ["teacher", "student FP32", "INT8"]
    assert list(part["steps"]["INT8"]) == ["all folds", "fold 0", "fold 1", "fold 2", "fold 3"]
    assert part["steps"]["teacher"]["all folds"]["sensitivity"]["value"] == pytest.approx(199 / 200)
    assert list(part["conversions"]) == ["INT8"]  # the teacher is not a conversion
    losses = part["conversions"]["INT8"]
    assert (losses["fold 0"]["flips_to_positive"], losses["fold 1"]["flips_to_positive"]) == (1, 0)
    assert losses["all folds"]["positives_lost_bound"] == pytest.approx(1 - 0.05 ** (1 / 200))
    assert [v["one_in"] for v in part["predictive_values"]] == [100, 285, 800]


def test_a_fold_with_one_class_gives_what_it_can() -> None:
    report = validation_report([evaluation(splits=[f"fold {label}" for label in LABELS])])
    figures = report["sets"][0]["steps"]["INT8"]["fold 0"]
    assert figures["sensitivity"] is None and figures["ROC-AUC"] is None and figures["specificity"]["value"] < 1


def test_a_set_of_one_part_shows_it_once_under_its_own_name() -> None:
    report = validation_report([evaluation(splits=["validation"] * N)])
    part = report["sets"][0]
    assert list(part["steps"]["INT8"]) == ["validation"]
    assert list(part["conversions"]["INT8"]) == ["validation", "gate"]
    assert part["predictive_values"][0]["ppv"] > 0
    assert {row.split for row in evidence_tables(report)[0].rows} == {"validation"}
    html = render(report)
    assert "all folds" not in html and "fold 4" not in html


class Tags(HTMLParser):
    """Checks that tags are balanced, and collects headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "link", "img")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def test_written_report_is_json_and_self_contained_html(tmp_path: Path) -> None:
    real = evaluation(name="planes", kind="real", screening=False)
    as_json, as_html = write_report(validation_report([real, evaluation()]), tmp_path / "out")
    assert sorted(p.name for p in as_json.parent.iterdir()) == ["validation.html", "validation.json"]
    assert json.loads(as_json.read_text())["passed"] is True
    text = as_html.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and [t.split()[0] for t in tags.titles] == ["Simulated", "Real"]  # kinds apart
    assert "lesions &lt;A &amp; B&gt;" in text and "1 in 285" in text and "http" not in text


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_json, _ = write_report(validation_report([evaluation()]), tmp_path)
    before = as_json.read_text()

    def dies(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        write_report(validation_report([evaluation(name="another")]), tmp_path)
    assert as_json.read_text() == before


def test_evidence_is_of_the_last_step() -> None:
    table = evidence_tables(validation_report([evaluation()]))[0]
    assert table.kind == "simulated_lesion" and "INT8" in table.description
    row = next(r for r in table.rows if r.metric == "specificity" and r.split == "all folds")
    assert (row.value, row.n) == (pytest.approx(199 / 200), 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "paper"}, "kind: found 'paper'"),
        ({"reference": "nobody"}, "reference: found 'nobody'"),
        ({"splits": ["fold 0"] * 3}, "splits: found 3 entries; there are 400"),
        ({"labels": np.zeros(N)}, "found one class only"),
    ],
)
def test_a_wrong_evaluation_set_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validation_report([evaluation(**changes)])
