"""Parameters with which no exam could be flagged are refused: such a box watches for months and says nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge.config import DecisionConfig
from edge.decision import DecisionParams, Exam
from edge.decision.params import EXAM_S, LOG_ODDS_MAX
from edge.errors import BundleError, ConfigError
from edge.records import Reading, Scores, Signal

WORST = Scores(plane=1.0, hygroma=1.0, ood=0.0, nuchal_map=np.zeros((2, 2), np.float32))


def seconds_to_flag(params: DecisionParams, most_s: float) -> float | None:
    """How long an exam of the worst scores takes, as the decision itself says; None beyond `most_s`."""
    exam, step_ns = Exam(params), max(1, round(params.min_interval_ms * 1e6))
    for frame in range(1, round(most_s * 1e9 / step_ns) + 2):
        if exam.step(Reading(frame, frame * step_ns, Signal.OK, None, None), WORST).flagged:
            return (frame - 1) * step_ns / 1e9
    return None


@pytest.mark.requirement("T-16")
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"cap": 1.0, "leak": 0.25, "flag_threshold": 6.0}, "flag_threshold: found 6, and evidence stays below 4"),
        ({"cap": 1.0, "leak": 0.2, "flag_threshold": 5.0}, "evidence stays below 5"),  # never quite reached
        ({"gain": 0.01, "leak": 0.05}, "evidence stays below 2.76"),
        ({"logit_offset": 14.0}, "logit_offset: found 14"),
        ({"plane_threshold": 1.0}, "plane_threshold: found 1"),
        ({"ood_threshold": 0.0}, "ood_threshold: found 0"),
        ({"leak": 0.0, "flag_threshold": 1000.0, "min_interval_ms": 5000.0}, "takes 5000 s of the worst scores"),
        ({"min_frames": 1000, "min_interval_ms": 5000.0}, "takes 5000 s"),
    ],
)
def test_a_rule_that_can_never_flag_is_refused(parameters: dict[str, float], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        DecisionParams(**parameters)


@pytest.mark.requirement("T-16")
@settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0.05, 3), leak=st.floats(0, 0.5), gain=st.floats(0.01, 2), flag_threshold=st.floats(0.1, 20),
    logit_offset=st.floats(-3, 13.5), min_frames=st.integers(1, 20), min_interval_ms=st.sampled_from([1000.0, 5000.0]),
)  # fmt: skip
def test_what_is_accepted_can_flag_and_what_is_refused_cannot(**parameters: float) -> None:
    most = min(parameters["cap"], parameters["gain"] * (LOG_ODDS_MAX - parameters["logit_offset"]))
    assume(abs(most / max(parameters["leak"], 1e-9) - parameters["flag_threshold"]) > 1e-6)  # rounding decides there
    try:
        params = DecisionParams(**parameters)
    except BundleError:
        refused = object.__new__(DecisionParams)  # past the check
        for field in dataclasses.fields(DecisionParams):
            object.__setattr__(refused, field.name, parameters.get(field.name, field.default))
        assert seconds_to_flag(refused, EXAM_S) is None
    else:
        assert seconds_to_flag(params, EXAM_S + 10) is not None


@pytest.mark.requirement("T-16")
def test_an_override_that_makes_it_so_is_refused_with_its_key() -> None:
    params = DecisionParams()
    with pytest.raises(ConfigError, match="can never flag.*leave flag_threshold out of the configuration"):
        DecisionConfig(flag_threshold=60.0).apply(params)
    assert DecisionConfig(flag_threshold=4.0, gap_s=10.0).overrides(params) == ("flag_threshold 4.0 instead of 6.0",)
    assert DecisionConfig().overrides(params) == ()
