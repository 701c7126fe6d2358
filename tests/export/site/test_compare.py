"""Wilcoxon signed-rank: against scipy and by hand, and what stands beside each p."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
stats = pytest.importorskip("scipy.stats")

from calibration.intervals import patient_interval
from edge.errors import InputError
from export.report import signed_rank as module
from export.report.figures import figures
from export.report.paper import REAL, TEACHER, Answers
from export.report.signed_rank import signed_rank
from export.site.compare import UNITS, compare
from export.site.crossed import Crossed

LABELS = np.tile([0, 1], 20)
FOLDS = np.repeat(np.arange(4), 10)


def run(error: float, start: str = "c.pt (SHA-256 1)", each: int = 1, **changes: Any) -> Crossed:
    """Probabilities that miss the truth by about `error`."""
    rng = np.random.default_rng(round(100 * error))
    missed = np.clip(error + rng.normal(0, 0.1, 40), 0.01, 0.99)
    probability = {TEACHER: np.where(LABELS == 1, 1 - missed, missed)}
    names, groups = [f"{i}.png" for i in range(40)], [f"p{i // each}" for i in range(40)]
    answers = Answers(names, LABELS, groups, [""] * 40, FOLDS, REAL, probability, {TEACHER: np.full(40, 0.5)})
    row: Any = {"form": TEACHER, "name": "teacher", "start": start, "figures": {"pooled": {}}, "by site": []}
    return Crossed(Path("a"), TEACHER, dataclasses.replace(answers, **changes), row)


@pytest.mark.parametrize("n", [5, 12, 25])
def test_p_is_scipys_exact_p(n: int) -> None:
    gain = np.random.default_rng(n).normal(0.3, 1, n)
    found = signed_rank(gain)
    assert found.p == pytest.approx(stats.wilcoxon(gain, method="exact").pvalue, rel=1e-9)
    assert (found.n, found.ties, found.smallest_p) == (n, 0, 2.0 ** (1 - n))


def test_tied_sizes_are_counted_exactly() -> None:
    # by hand: |1|, |1|, |1|, |2|: ranks 2, 2, 2, 4. All positive: 2 of 16 sign patterns are as extreme
    assert signed_rank(np.array([1.0, 1, 1, 2])).p == pytest.approx(2 / 16)
    # -1 once: positive ranks sum 8; patterns with a sum of 8 or more: 10 (1), 8 (3): 4; both sides: 8 of 16
    assert signed_rank(np.array([-1.0, 1, 1, 2])).p == pytest.approx(8 / 16)


def test_four_folds_cannot_reach_a_twentieth() -> None:
    best = signed_rank(np.array([0.1, 0.2, 0.3, 0.4]))
    assert best.p == best.smallest_p == 0.125
    with_tie = signed_rank(np.array([0.0, 0.2, 0.3, 0.4]))
    assert (with_tie.n, with_tie.ties, with_tie.smallest_p) == (4, 1, 0.25)
    assert signed_rank(np.zeros(4)).p == 1.0


def test_many_differences_take_the_normal_approximation(monkeypatch: pytest.MonkeyPatch) -> None:
    gain = np.random.default_rng(0).normal(0.1, 1, 300)
    exact = signed_rank(gain).p
    monkeypatch.setattr(module, "EXACT_UP_TO", 299)
    assert signed_rank(gain).p != exact and signed_rank(gain).p == pytest.approx(exact, rel=0.02)


def test_a_better_system_is_better_in_every_unit() -> None:
    worse, better = run(0.45), run(0.2)
    for unit in UNITS:
        rows = compare(worse, better, unit)["tests"]
        assert all(row["p"] >= row["smallest_p"] for row in rows) and rows[0]["second_better"] > rows[0]["n"] / 3
    assert [row["n"] for row in compare(worse, better, "fold")["tests"]] == [4] * 4
    assert compare(worse, better, "fold-metric")["tests"][0]["n"] == 16
    image = compare(worse, better)["tests"][0]
    assert image["n"] == 40 and image["p"] < 0.001
    assert compare(better, worse)["tests"][0]["p"] == pytest.approx(image["p"])


def test_starts_stand_beside_every_p_and_unlike_ones_are_remarked() -> None:
    result = compare(run(0.2), run(0.1, start="random"))
    assert all(row["starts"] == "A pretrained, B random start" for row in result["tests"])
    assert any("pretraining's and not the architecture's" in remark for remark in result["remarks"])
    assert compare(run(0.2), run(0.1))["remarks"] == []


def test_dependent_pairs_are_remarked() -> None:
    several = compare(run(0.2, each=2), run(0.1, each=2))
    assert any("--unit patient" in remark for remark in several["remarks"])
    assert compare(run(0.2, each=2), run(0.1, each=2), "patient")["tests"][0]["n"] == 20
    assert any("not independent" in r for r in compare(run(0.2), run(0.1), "fold-metric")["remarks"])


def test_other_images_or_folds_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="not the same folds"):
        compare(run(0.1), run(0.1, folds=FOLDS[::-1]))
    with pytest.raises(InputError, match="not the same images"):
        compare(run(0.1), run(0.1, names=["x"] * 40))
    with pytest.raises(InputError, match="--unit: found 'pixel'"):
        compare(run(0.1), run(0.1), "pixel")


def test_figures_know_when_a_patient_has_several_images() -> None:
    one = run(0.4)
    alone = figures(LABELS, one.decisions, one.probability, one.answers.groups)
    assert alone["accuracy"]["interval"] == "exact" and alone["roc_auc"]["interval"] == "DeLong"
    pairs = [f"p{i // 2}" for i in range(40)]
    together = figures(LABELS, one.decisions, one.probability, pairs)
    assert together["accuracy"]["interval"] == "bootstrap over patients" and together["accuracy"]["patients"] == 20
    assert together["accuracy"]["value"] == alone["accuracy"]["value"]


def test_copies_of_an_image_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    low, high = patient_interval(lambda keep: float(values[keep].mean()), [str(i) for i in range(30)])
    many = np.repeat(values, 10)
    low10, high10 = patient_interval(lambda keep: float(many[keep].mean()), [str(i // 10) for i in range(300)])
    assert high10 - low10 == pytest.approx(high - low, rel=0.15) and low < values.mean() < high


def test_the_smallest_p_of_many_pairs_is_small_and_not_zero() -> None:
    assert 0 < signed_rank(np.arange(1.0, 1500.0)).smallest_p < 1e-300


def test_an_interval_has_width_when_every_patient_is_alike() -> None:
    """Each patient has one image right and one wrong: every draw of patients gives .5 again. And one score for all."""
    half = np.arange(40) // 2 % 2
    alike = figures(half, np.arange(40) % 2, np.tile([0.2, 0.8], 20), [f"p{i // 2}" for i in range(40)])
    for figure in alike.values():
        assert figure["value"] == 0.5 and figure["low"] < 0.4 and figure["high"] > 0.6
        assert figure["interval"] == "exact, patients counted"
    constant = figures(LABELS, np.ones(40, int), np.full(40, 0.5), [str(i) for i in range(40)])["roc_auc"]
    assert constant["low"] < 0.4 and constant["high"] > 0.6 and "all scores alike" in constant["interval"]


def test_an_interval_of_a_certain_figure_has_width() -> None:
    certain = figures(LABELS, LABELS, LABELS.astype(float), [f"p{i // 2}" for i in range(40)])
    assert certain["accuracy"]["low"] < 1 and certain["roc_auc"]["low"] < 1
