"""The paper's table: figures, thresholds and tests by hand, and where it stands in the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
stats = pytest.importorskip("scipy.stats")

from test_validate import evaluation

from edge.errors import InputError
from export.report.figures import METRICS
from export.report.html import render
from export.report.paper import (
    NAMES,
    QDQ,
    REAL,
    SIMULATED,
    STUDENT,
    Answers,
    choose_threshold,
    paper,
    read_answers,
    thresholds,
    write_answers,
)
from export.report.validate import validation_report

N = 48


def answers(forms: tuple[str, ...] = ("baseline", "teacher"), each: int = 1, **changes: object) -> Answers:
    """N images, each patient with `each`; a later form misses the truth by less."""
    rng = np.random.default_rng(len(forms))
    labels, folds = np.arange(N) // each % 2, np.arange(N) // each // 2 % 4
    said = {}
    for number, form in enumerate(forms):
        missed = np.clip(0.5 - 0.1 * number + rng.normal(0, 0.2, N), 0.01, 0.99)
        said[form] = np.where(labels == 1, 1 - missed, missed)
    limits = thresholds(labels, folds, said)
    groups = [f"p{i // each}" for i in range(N)]
    made = Answers([f"{i}.png" for i in range(N)], labels, groups, [""] * N, folds, REAL, said, limits)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_the_threshold_is_the_best_and_nearest_to_even_odds() -> None:
    assert choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])) == 0.5
    assert choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9])) == pytest.approx(0.25)


@pytest.mark.parametrize("fold", range(4))
def test_a_folds_own_images_never_decide_its_threshold(fold: int) -> None:
    found = answers()
    own = found.folds == fold
    swapped = np.where(own, 1 - found.labels, found.labels)
    said = {form: np.where(own, 0.5, p) for form, p in found.probability.items()}
    for form, limits in thresholds(swapped, found.folds, said).items():
        assert limits[own].tolist() == found.threshold[form][own].tolist()
        assert len(set(limits[own].tolist())) == 1


def test_a_conversion_is_judged_at_its_sources_threshold() -> None:
    found = answers((STUDENT, QDQ))
    assert found.threshold[QDQ].tolist() == found.threshold[STUDENT].tolist()


def test_folds_of_one_class_choose_no_threshold() -> None:
    labels, folds = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    with pytest.raises(InputError, match="fold 0: the other folds hold one class only"):
        thresholds(labels, folds, {"teacher": np.array([0.1, 0.2, 0.8, 0.9])})


def test_figures_are_those_of_the_answers_per_fold_and_pooled() -> None:
    found = answers()
    record = paper(found, {"teacher": "c.pt"})
    assert (record["images"], record["positives"], record["patients"], record["folds"]) == (N, N // 2, N, [0, 1, 2, 3])
    assert [form["form"] for form in record["forms"]] == ["baseline", "teacher"]
    assert [form["start"] for form in record["forms"]] == ["", "c.pt"]
    for form in record["forms"]:
        right = found.decisions(form["form"]) == found.labels
        assert list(form["figures"]) == ["pooled", "fold 0", "fold 1", "fold 2", "fold 3"]
        for part, figures in form["figures"].items():
            keep = np.ones(N, bool) if part == "pooled" else found.folds == int(part[-1])
            assert list(figures) == list(METRICS)
            expected = {
                "accuracy": right[keep].mean(),
                "sensitivity": right[keep & (found.labels == 1)].mean(),
                "specificity": right[keep & (found.labels == 0)].mean(),
            }
            for name, value in expected.items():
                figure = figures[name]
                assert figure and figure["value"] == pytest.approx(value) and figure["low"] <= value <= figure["high"]
            area, accuracy = figures["roc_auc"], figures["accuracy"]
            assert area and area["interval"] == "DeLong" and accuracy and accuracy["n"] == keep.sum()


@pytest.mark.parametrize("each", [1, 3])
def test_any_two_forms_are_tested_by_patient(each: int) -> None:
    found = answers(("baseline", "teacher", "student", "qdq"), each)
    record = paper(found)
    pairs = [(test["first"], test["second"]) for test in record["tests"]]
    assert len(pairs) == len(set(pairs)) == 6 and all(first != second for first, second in pairs)
    for test in record["tests"]:
        gain = (found.losses(test["first"]) - found.losses(test["second"])).reshape(-1, each).mean(1)
        assert test["n"] == N // each and test["ties"] == 0 and test["second_better"] == (gain > 0).sum()
        assert test["p"] == pytest.approx(stats.wilcoxon(gain, method="exact").pvalue, rel=1e-9)
        assert test["smallest_p"] == 2.0 ** (1 - N // each)


def test_intervals_are_over_patients_where_they_have_several_images() -> None:
    figure = paper(answers(each=3))["forms"][0]["figures"]["pooled"]["accuracy"]
    assert figure and figure["patients"] == N // 3 and figure["interval"] == "bootstrap over patients"


def test_a_site_of_one_class_has_the_figures_of_that_class() -> None:
    found = answers()
    record = paper(dataclasses.replace(found, sites=[("ill", "")[1 - label] for label in found.labels]))
    for form in record["forms"]:
        nobody, ill = form["by site"]
        assert (nobody["site"], nobody["positives"], ill["site"], ill["positives"]) == ("", 0, "ill", N // 2)
        assert ill["figures"]["specificity"] is ill["figures"]["roc_auc"] is nobody["figures"]["sensitivity"] is None
        assert ill["figures"]["sensitivity"] and nobody["figures"]["specificity"]
    assert all(form["by site"] == [] for form in paper(found)["forms"])


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    found = answers(("baseline", "teacher", "student", "qdq"), names=[f"ä,{i}\"x.png" for i in range(N)], kind=SIMULATED)
    write_answers(found, tmp_path / "p.csv")
    back = read_answers(tmp_path / "p.csv")
    assert (back.names, back.groups, back.sites, back.kind) == (found.names, found.groups, found.sites, SIMULATED)
    assert back.labels.tolist() == found.labels.tolist() and back.folds.tolist() == found.folds.tolist()
    for form in found.forms:
        np.testing.assert_allclose(back.probability[form], found.probability[form], rtol=1e-8)
        assert back.decisions(form).tolist() == found.decisions(form).tolist()


def test_it_is_the_reports_first_table_and_says_what_it_is_of() -> None:
    found = answers(tuple(NAMES))
    for kind, words in ((REAL, "Images with a real finding"), (SIMULATED, "no figure of real hygromas")):
        html = render(validation_report([evaluation()]) | {"paper": paper(dataclasses.replace(found, kind=kind))})
        first = html.partition("<table")[2].partition("</table>")[0]
        assert all(name in first for name in NAMES.values()) and first.count("<td>fold 0") == 5
        assert first.count("all folds") == 5 and words in html.partition("<table")[0]
    assert 'id="paper"' not in render(validation_report([evaluation()]))
    second = html.split("<table")[2].partition("</table>")[0]
    assert second.count(" against ") == 10 and "Smallest p possible" in second
