"""Figures against values worked out elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge.errors import InputError  # noqa: E402
from export.report import metrics  # noqa: E402

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
CALLS = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])


def test_exact_intervals() -> None:
    # the interval's definition: at either end, what was seen or worse has probability .025
    figure = metrics.proportion(8, 10)
    assert (figure.value, figure.n) == (0.8, 10)
    assert sum(math.comb(10, k) * figure.low**k * (1 - figure.low) ** (10 - k) for k in range(8, 11)) == pytest.approx(
        0.025
    )
    assert sum(math.comb(10, k) * figure.high**k * (1 - figure.high) ** (10 - k) for k in range(9)) == pytest.approx(
        0.025
    )
    none, every = metrics.proportion(0, 10), metrics.proportion(10, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert (every.low, every.high) == pytest.approx((0.025**0.1, 1.0))
    for bad in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(InputError):
            metrics.proportion(*bad)


def test_no_loss_in_129_bounds_it_at_2_3_per_cent() -> None:
    assert metrics.upper_bound(0, 129) == pytest.approx(0.0230, abs=5e-5)
    assert metrics.upper_bound(5, 5) == 1.0


def test_sensitivity_specificity_accuracy() -> None:
    assert metrics.sensitivity(LABELS, CALLS).value == 0.75
    assert metrics.specificity(LABELS, CALLS).value == pytest.approx(5 / 6)
    assert metrics.accuracy(LABELS, CALLS).value == 0.8
    with pytest.raises(InputError):
        metrics.sensitivity(np.zeros(3), np.zeros(3))


def test_auc_counts_pairs_and_halves_ties() -> None:
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.1])
    assert metrics.auc(labels, scores).value == 3.5 / 4
    figure = metrics.auc(labels, scores)
    assert 0 < figure.low < figure.value < figure.high < 1
    perfect = metrics.auc(labels, np.array([0.9, 0.8, 0.2, 0.1]))
    assert (perfect.value, perfect.high) == (1.0, 1.0) and perfect.low < 0.2  # two of each prove little
    with pytest.raises(InputError):
        metrics.auc(np.ones(4), scores)


@pytest.mark.parametrize(("positives", "least"), [(20, 0.4), (3, 0.8), (1, 1.0)])
def test_scores_that_are_all_alike_prove_little_and_say_so(positives: int, least: float) -> None:
    figure = metrics.auc(np.arange(40) < positives, np.full(40, 0.3))
    assert figure.value == 0.5 and figure.low == pytest.approx(1 - figure.high) and figure.high - figure.low >= least
    assert "all scores alike" in figure.interval
    assert metrics.auc(LABELS, np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8])).interval == "DeLong"


def test_auc_interval_covers_the_truth() -> None:
    """Normal scores one deviation apart have area Phi(1/sqrt 2) = .760; of 400 samples' intervals about 380 hold it."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    held = 0
    for _ in range(400):
        figure = metrics.auc(labels, rng.normal(labels, 1.0))
        held += figure.low <= 0.7602 <= figure.high
    assert 365 <= held <= 395


def test_mcnemar_is_the_exact_binomial() -> None:
    labels = np.ones(20)
    a, b = np.ones(20), np.ones(20)
    b[:6] = 0  # 6 to 0: 2 * .5^6
    assert metrics.mcnemar(labels, a, b) == pytest.approx(2 * 0.5**6)
    assert metrics.mcnemar(labels, a, a) == 1.0


def test_kappa() -> None:
    a = np.array([1] * 25 + [0] * 25)
    b = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)  # Cohen's textbook table: 20, 5, 10, 15
    assert metrics.kappa(a, b) == pytest.approx(0.4)
    assert metrics.kappa(np.ones(3), np.ones(3)) == 1.0


def test_wilcoxon_over_losses() -> None:
    labels = np.tile([0, 1], 20)
    p = np.linspace(0.2, 0.8, 40)
    worse = np.where(labels == 1, p - 0.1, p + 0.1)
    assert metrics.wilcoxon_losses(labels, p, p) == 1.0
    assert metrics.wilcoxon_losses(labels, p, worse) < 1e-6


def test_predictive_values_of_the_design() -> None:
    assert metrics.predictive_value(0.94, 0.98, 1 / 285) == pytest.approx(0.14, abs=0.005)
    assert metrics.predictive_value(0.94, 0.997, 1 / 285) == pytest.approx(0.52, abs=0.005)
    assert metrics.predictive_value(0.0, 1.0, 0.01) == 0.0
