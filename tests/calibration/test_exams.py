"""Fitting the decision on traces made by hand; the usual rules beside it; traces kept and gone on with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration import traces as tracing
from calibration.exams import (
    ASKED,
    FALSE_FLAGS_IN,
    MARGIN,
    at_threshold,
    evidence,
    fit_decision,
    outcome,
    threshold_for,
)
from calibration.rules import compare, usual_rules
from calibration.traces import NO_MAP, Plan, Trace, load_traces, trace_exams
from edge.bundle import ANYONE, Bundle, load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.decision.params import DecisionParams
from edge.records import Reading, Scores, Signal
from edge.screen.preprocess import Preprocessing


def trace(truth: str, hygroma: float, noise: float, seed: int, plane: float = 0.95) -> Trace:
    told = np.clip(hygroma + noise * np.random.default_rng(seed).standard_normal(60), 0.001, 0.999)
    steps = []
    for i, p in enumerate(told.tolist()):
        scores = Scores(plane=plane, hygroma=p, ood=0.5, nuchal_map=NO_MAP)
        steps.append((Reading(i, i * 125_000_000, Signal.OK, None), scores))
    return Trace(truth, tuple(steps), 0.0, seed)


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


def test_the_threshold_lies_where_one_healthy_exam_in_two_hundred_would_reach_it() -> None:
    few = [trace("normal", 0.5, 0.0, i) for i in range(99)]
    assert threshold_for([[(0, float(i))] for i in range(99)], few) == pytest.approx(98 * MARGIN)  # no tail to speak of
    rng = np.random.default_rng(0)
    found = []
    healthy = [replace(few[0], seed=i) for i in range(200)]
    for _ in range(50):  # exponential peaks, whose tail is known: one in 400 lies above log(400)
        found.append(threshold_for([[(0, float(v))] for v in rng.exponential(1.0, 200)], healthy))
    assert np.median(found) == pytest.approx(math.log(FALSE_FLAGS_IN / ASKED), rel=0.1)
    assert threshold_for([[(0, 3.0)]] * 200, healthy) == pytest.approx(3.0 * MARGIN)  # peaks without a spread
    sick = [trace("hygroma", 0.5, 0.0, 1)]
    assert threshold_for([[(0, 1e9)]], sick) == 0.0  # no healthy exam says anything


def test_the_running_evidence_flags_when_the_decision_does() -> None:
    params = DecisionParams(flag_threshold=4.0)
    by_figure = at_threshold([evidence(t, params) for t in TRACES], TRACES, params.flag_threshold)
    assert by_figure == outcome(TRACES, params)


def test_the_usual_rules_by_hand() -> None:
    one = trace("normal", 0.5, 0.0, 0)
    values = [0.2, 0.9, 0.4, 0.8, 0.6, 0.3]
    steps = [(r, replace(s, hygroma=p)) for (r, s), p in zip(one.steps, values, strict=False) if s]
    steps[3] = replace(steps[3][0], duplicate=True), steps[3][1]  # does not count
    hand = replace(one, steps=tuple(steps))
    rules = {rule.name: rule.figure for rule in usual_rules(DecisionParams())}
    assert [v for _, v in rules["threshold a frame"](hand)] == [0.2, 0.9, 0.4, 0.6, 0.3]
    assert [v for _, v in rules["2 of 3 frames"](hand)] == [0.0, 0.2, 0.4, 0.6, 0.4]
    average = [v for _, v in rules["average of 5 frames"](hand)]
    odds = np.log(np.array([0.2, 0.9, 0.4, 0.6, 0.3]) / (1 - np.array([0.2, 0.9, 0.4, 0.6, 0.3])))
    assert average == [0, 0, 0, 0, pytest.approx(1 / (1 + np.exp(-odds.mean())))]
    assert [ns for ns, _ in rules["threshold a frame"](hand)] == [i * 125_000_000 for i in (0, 1, 2, 4, 5)]


def test_accumulating_beats_a_threshold_where_frames_are_noisy() -> None:
    noisy = [trace("hygroma", 0.6, 0.25, i) for i in range(20)] + [
        trace("normal", 0.4, 0.25, 50 + i) for i in range(20)
    ]
    fitting, measuring = noisy[::2], noisy[1::2]
    rows = dict(compare(fitting, measuring, fit_decision(fitting, DecisionParams())))
    assert len(rows) == 4 and list(rows)[-1] == "accumulated evidence, as shipped"
    assert rows["accumulated evidence, as shipped"].flagged_hygroma > rows["threshold a frame"].flagged_hygroma


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch, fake_bundle: Bundle) -> list[Plan]:
    """Exams are made by hand; what was asked for is written down."""
    asked: list[Plan] = []

    def make(plan: Plan, scorer: object, spec: Preprocessing) -> Trace:
        if plan.seed == 13:
            raise KeyboardInterrupt
        asked.append(plan)
        return trace(plan.truth, 0.3 + plan.seed / 100, 0.2, plan.seed)

    class NoScorer:
        @staticmethod
        def open(path: Path) -> NoScorer:
            return NoScorer()

        def __enter__(self) -> NoScorer:
            return self

        def __exit__(self, *exc: object) -> None: ...

    monkeypatch.setattr(tracing, "trace_exam", make)
    monkeypatch.setattr(tracing, "Scorer", NoScorer)
    return asked


def test_a_killed_run_goes_on_and_gives_the_same_traces(rendered: list[Plan], tmp_path: Path) -> None:
    plans, kept = [Plan(i, "normal") for i in (1, 2, 13, 4)], tmp_path / "exams/fitting.jsonl"
    with pytest.raises(KeyboardInterrupt):
        trace_exams(plans, tmp_path, Preprocessing(size=48), kept)
    with kept.open("a") as file:
        file.write(json.dumps({"seed": 13})[:5])  # and the kill came in the middle of a line
    plans[2] = Plan(3, "hygroma")
    found = trace_exams(plans, tmp_path, Preprocessing(size=48), kept)
    assert [p.seed for p in rendered] == [1, 2, 3, 4]
    whole = [trace(p.truth, 0.3 + p.seed / 100, 0.2, p.seed) for p in plans]
    assert found == whole == load_traces(kept)  # floats to the last bit
    assert trace_exams(plans[::-1], tmp_path, Preprocessing(size=48), kept) == whole[::-1]


def test_two_processes_trace_what_one_does(tmp_path: Path) -> None:
    spec = load_bundle(SHIPPED_BUNDLE, ANYONE).manifest.preprocessing
    plans = [Plan(1, "frozen"), Plan(2, "frozen")]  # of eight seconds these are rendered and scored while they live
    alone = trace_exams(plans, SHIPPED_BUNDLE, spec, tmp_path / "one.jsonl")
    assert any(scores for t in alone for _, scores in t.steps)  # something was scored
    together = trace_exams(plans, SHIPPED_BUNDLE, spec, tmp_path / "two.jsonl", workers=2)
    assert [what_was_seen(t) for t in together] == [what_was_seen(t) for t in alone]


def what_was_seen(trace: Trace) -> list[object]:
    """All of a trace but the milliseconds that scoring took."""
    return [trace.seed, *((r, s and (s.plane, s.hygroma, s.ood)) for r, s in trace.steps)]
