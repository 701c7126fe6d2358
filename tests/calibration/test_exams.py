"""Fitting the decision on traces made by hand."""

from __future__ import annotations

import numpy as np

from calibration.exams import Trace, fit_decision, outcome
from edge.decision.params import DecisionParams
from edge.records import Reading, Scores, Signal


def trace(truth: str, hygroma: float, noise: float, seed: int, plane: float = 0.95) -> Trace:
    rng = np.random.default_rng(seed)
    steps = []
    for i in range(60):
        p = float(np.clip(hygroma + noise * rng.standard_normal(), 0.001, 0.999))
        scores = Scores(plane=plane, hygroma=p, ood=0.5, nuchal_map=np.zeros((4, 4), np.float32))
        steps.append((Reading(i, i * 125_000_000, Signal.OK, None), scores))
    return Trace(truth, tuple(steps), 0.0)


TRACES = [trace("hygroma", 0.8, 0.15, i) for i in range(8)] + [trace("normal", 0.55, 0.1, 50 + i) for i in range(8)]


def test_the_fit_separates_what_can_be_separated() -> None:
    assert outcome(TRACES, DecisionParams()).flagged_healthy > 0  # the defaults would cry wolf here
    result = outcome(TRACES, fit_decision(TRACES, DecisionParams()))
    assert (result.flagged_hygroma, result.hygroma) == (8, 8)
    assert (result.flagged_healthy, result.healthy) == (0, 8)
    assert all(0 < seconds < 7.5 for seconds in result.seconds_to_flag)


def test_an_exam_that_is_never_assessable_is_never_flagged() -> None:
    hidden = [trace("hygroma", 0.99, 0.0, 1, plane=0.1)]
    assert outcome(hidden, DecisionParams()).flagged_hygroma == 0
