"""Evidence comes from distinct, assessable frames only; an exam is flagged once; boundaries end it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from edge.decision import REASONS, DecisionParams, Exam, ExamState, assess, decide
from edge.errors import BundleError
from edge.records import Reading, Scores, Signal, Verdict

PARAMS = DecisionParams()
MAP = np.zeros((2, 2), np.float32)
STEP_NS = 100_000_000  # nanoseconds: the shortest interval at which frames count
SICK = Scores(plane=0.9, hygroma=0.99, ood=0.1, nuchal_map=MAP)
WELL = Scores(plane=0.9, hygroma=0.01, ood=0.1, nuchal_map=MAP)


class Screen:
    """Feeds an exam frame by frame with a clock of its own."""

    def __init__(self, params: DecisionParams = PARAMS) -> None:
        self.exam, self.now, self.frame = Exam(params), 0, -1

    def show(
        self,
        count: int = 1,
        scores: Scores | None = SICK,
        signal: Signal = Signal.OK,
        step_ns: int = STEP_NS,
        **reading: bool,
    ) -> list[Verdict]:
        verdicts = []
        for _ in range(count):
            self.now += step_ns
            self.frame += 1
            shown = Reading(self.frame, self.now, signal, None, None, **reading)
            verdicts.append(self.exam.step(shown, scores if signal is Signal.OK else None))
        return verdicts


@pytest.mark.requirement("T-07")
def test_a_sick_exam_is_flagged_exactly_once() -> None:
    verdicts = Screen().show(200)
    assert sum(verdict.newly_flagged for verdict in verdicts) == 1
    first = next(i for i, verdict in enumerate(verdicts) if verdict.newly_flagged)
    assert all(verdict.flagged for verdict in verdicts[first:])
    assert verdicts[first].evidence >= PARAMS.flag_threshold


def test_a_well_exam_is_not() -> None:
    assert not any(verdict.flagged for verdict in Screen().show(500, WELL))


def test_a_flag_stays_when_the_rest_looks_well() -> None:
    screen = Screen()
    screen.show(20)
    assert all(verdict.flagged and not verdict.newly_flagged for verdict in screen.show(100, WELL))


@pytest.mark.parametrize(
    "shown",
    [
        {"duplicate": True},
        {"signal": Signal.FROZEN},
        {"signal": Signal.DOPPLER},
        {"signal": Signal.DUAL},
        {"signal": Signal.NO_SIGNAL},
        {"scores": replace(SICK, plane=0.1)},
        {"scores": replace(SICK, ood=5.0)},
        {"scores": replace(SICK, hygroma=math.nan)},
        {"scores": None},
    ],
)
def test_these_give_no_evidence(shown: dict) -> None:
    screen = Screen()
    before = screen.show(3)[-1].evidence
    assert {verdict.evidence for verdict in screen.show(50, **shown)} == {before}


def test_frames_faster_than_the_interval_count_no_more() -> None:
    slow, fast = Screen(), Screen()
    slow.show(4)
    fast.show(40, step_ns=STEP_NS // 10)
    assert fast.exam.state.counted == slow.exam.state.counted == 4


def test_no_single_frame_gives_more_than_the_cap_and_evidence_is_never_negative() -> None:
    random.seed(1)
    state, before = ExamState(1), 0.0
    for index in range(2000):
        scores = Scores(random.random(), random.choice([0.0, 1.0, random.random()]), random.random() * 2, MAP)
        reading = Reading(index, index * STEP_NS, random.choice(list(Signal)), None, duplicate=random.random() < 0.3)
        state, verdict = decide(state, reading, scores, PARAMS)
        assert 0 <= verdict.evidence <= before + PARAMS.cap or verdict.exam_started
        assert set(verdict.reasons) <= set(REASONS) and verdict.assessable == (not verdict.reasons)
        before = verdict.evidence


def test_decide_is_pure() -> None:
    state, reading = ExamState(1), Reading(0, 5, Signal.OK, None)
    assert decide(state, reading, SICK, PARAMS) == decide(state, reading, SICK, PARAMS)
    assert state == ExamState(1)


def test_min_frames_holds_a_flag_back() -> None:
    verdicts = Screen(replace(PARAMS, cap=100.0, gain=100.0, min_frames=8)).show(10)
    assert [verdict.newly_flagged for verdict in verdicts].index(True) == 7


def boundary_button(screen: Screen) -> None:
    screen.exam.new_exam()


def boundary_menu(screen: Screen) -> None:
    screen.show(12, signal=Signal.MENU)


def boundary_gap(screen: Screen) -> None:
    screen.show(110, signal=Signal.NO_SIGNAL)


def boundary_silent_gap(screen: Screen) -> None:
    screen.now += 11 * 10**9


def test_another_layout_starts_the_evidence_again_but_keeps_exam_and_flag() -> None:
    screen = Screen()
    screen.show(4)
    reset = screen.show(1, layout_changed=True, scores=None)[0]
    assert (reset.exam_id, reset.evidence) == (1, 0.0)
    assert screen.show(20)[-1].flagged
    after = screen.show(20, layout_changed=True)
    assert all(verdict.flagged and verdict.exam_id == 1 for verdict in after)
    assert not any(verdict.newly_flagged for verdict in after)


@pytest.mark.parametrize("boundary", [boundary_button, boundary_menu, boundary_gap, boundary_silent_gap])
def test_a_boundary_begins_an_exam_without_evidence_that_can_be_flagged_again(boundary) -> None:
    screen = Screen()
    first = screen.show(20)
    boundary(screen)
    second = screen.show(20)
    assert (first[-1].flagged, second[0].flagged) == (True, False)
    assert {verdict.exam_id for verdict in second} == {first[0].exam_id + 1}
    assert sum(verdict.newly_flagged for verdict in second) == 1


@pytest.mark.parametrize(("count", "signal"), [(8, Signal.MENU), (90, Signal.NO_SIGNAL), (300, Signal.FROZEN)])
def test_short_interruptions_and_a_freeze_do_not_end_an_exam(count: int, signal: Signal) -> None:
    screen = Screen()
    screen.show(3)
    screen.show(count, signal=signal)
    assert screen.show()[0].exam_id == 1


def hold_frozen(screen: Screen) -> None:
    screen.show(10, duplicate=True)
    screen.show(600, signal=Signal.FROZEN)


def hold_repeats(screen: Screen) -> None:
    screen.show(610, repeats=True)


def hold_dark(screen: Screen) -> None:
    screen.show(400, signal=Signal.MENU, doubtful=True)


def hold_mixed(screen: Screen) -> None:
    for signal in (Signal.FROZEN, Signal.DUAL, Signal.NO_SIGNAL, Signal.FROZEN, Signal.DUAL):
        screen.show(80, signal=signal)


UNSURE = [boundary_gap, boundary_silent_gap, hold_frozen, hold_repeats, hold_dark, hold_mixed]


@pytest.mark.requirement("H-03")
@pytest.mark.parametrize("between", UNSURE)
def test_after_an_unsure_boundary_nothing_of_one_patient_is_the_next_ones_and_the_operator_is_asked(between) -> None:
    screen = Screen()
    assert screen.show(20)[-1].flagged
    between(screen)
    after = screen.show(30, WELL)
    assert {(verdict.exam_id, verdict.flagged, verdict.evidence) for verdict in after} == {(2, False, 0.0)}
    assert all("same patient as exam 1?" in verdict.question and "before exam 2" in verdict.boundary for verdict in after)
    assert screen.show(20)[-1].flagged and screen.exam.state.boundary  # an event raised now says so


@pytest.mark.requirement("H-03")
@pytest.mark.parametrize("between", UNSURE)
def test_the_operator_says_same_patient(between) -> None:
    screen = Screen()
    screen.show(20)
    between(screen)
    screen.show(5, WELL)
    assert screen.exam.same_exam() == 1
    after = screen.show(5, WELL)
    assert {(verdict.exam_id, verdict.flagged, verdict.question) for verdict in after} == {(1, True, "")}
    assert "the same patient, said the operator" in after[-1].boundary and not any(v.newly_flagged for v in after)
    assert screen.exam.same_exam() == 1  # nothing is asked any more
    assert screen.exam.new_exam() == 3  # no number is given twice
    assert screen.show()[0].boundary == ""


@pytest.mark.requirement("H-03")
def test_the_operator_says_new_exam_to_the_question() -> None:
    screen = Screen()
    screen.show(20)
    hold_frozen(screen)
    screen.show(5, WELL)
    screen.exam.new_exam()
    assert {(v.exam_id, v.question, v.boundary) for v in screen.show(5, WELL)} == {(3, "", "")}


@pytest.mark.requirement("H-03")
@pytest.mark.parametrize(("held", "asked"), [(50, False), (120, True)])
def test_another_layout_after_a_hold_is_asked_about(held: int, asked: bool) -> None:
    screen = Screen()
    screen.show(20)
    screen.show(held, signal=Signal.FROZEN)
    screen.show(10, WELL)
    after = screen.show(1, WELL, layout_changed=True)[0]
    assert (bool(after.question), after.flagged) == (asked, not asked)


def test_a_dual_view_is_no_hold_after_which_another_layout_is_asked_about() -> None:
    """The way back from two pictures to one is another layout always."""
    screen = Screen()
    screen.show(20)
    screen.show(125, signal=Signal.DUAL)
    after = screen.show(10, WELL, layout_changed=True)
    assert not any(verdict.question for verdict in after) and all(verdict.exam_id == 1 for verdict in after)


def test_evidence_goes_on_when_the_patient_is_the_same() -> None:
    screen = Screen()
    before = screen.show(4)[-1].evidence
    hold_frozen(screen)
    assert screen.show(1)[0].evidence < before
    screen.exam.same_exam()
    assert screen.show(1, duplicate=True)[0].evidence == before


@pytest.mark.requirement("H-04")
def test_a_doubtful_menu_ends_no_exam() -> None:
    screen = Screen()
    screen.show(20)
    assert all(verdict.flagged for verdict in screen.show(200, signal=Signal.MENU, doubtful=True))
    assert screen.show()[0].exam_id == 1


def test_live_colour_is_no_hold() -> None:
    screen = Screen()
    screen.show(20)
    screen.show(600, signal=Signal.DOPPLER)
    assert not screen.show()[0].question


def test_the_flag_stays_up_in_the_menu_until_the_next_picture() -> None:
    screen = Screen()
    screen.show(20)
    assert all(verdict.flagged for verdict in screen.show(30, signal=Signal.MENU))
    assert not screen.show()[0].flagged


def test_an_exam_without_a_picture_is_not_counted() -> None:
    screen = Screen()
    screen.show(30, signal=Signal.MENU)
    assert screen.show(1, layout_changed=True)[0].exam_id == 1


def test_exam_started_is_said_once_with_the_first_picture() -> None:
    screen = Screen()
    verdicts = screen.show(3, signal=Signal.NO_SIGNAL) + screen.show(5)
    assert [verdict.exam_started for verdict in verdicts] == [False] * 3 + [True] + [False] * 4


@pytest.mark.parametrize(
    ("signal", "plane", "ood", "expected"),
    [
        (Signal.OK, 0.9, 0.1, ()),
        (Signal.OK, 0.5, 1.0, ()),
        (Signal.OK, 0.4, 3.0, ("not the nuchal plane", "unfamiliar image")),
        (Signal.OK, None, None, ("no model answer",)),
        (Signal.OK, math.nan, 0.1, ("not the nuchal plane",)),
        (Signal.OK, 0.9, math.nan, ("unfamiliar image",)),
        (Signal.DOPPLER, 0.9, 0.1, ("doppler",)),
    ],
)
def test_assess(signal: Signal, plane: float | None, ood: float | None, expected: tuple[str, ...]) -> None:
    assert assess(signal, plane, ood, PARAMS) == (not expected, expected)


@pytest.mark.requirement("T-12")
def test_a_window_over_the_picture_is_the_reason_and_no_failure_of_the_model() -> None:
    assert assess(Signal.OK, None, None, PARAMS, covered=True) == (False, ("window over the picture",))
    covered = Reading(0, 0, Signal.OK, None, covered=True)
    assert Exam(PARAMS).step(covered, None).reasons == ("window over the picture",)


class FakeManifest:
    class operating_point:  # noqa: N801  (stands for the manifest's section)
        plane_threshold = 0.7

    class ood:  # noqa: N801
        threshold = 2.5

    def __init__(self, **changes: float | None) -> None:
        merged = {**PARAMS.to_manifest(), **changes}
        self.decision = {key: value for key, value in merged.items() if value is not None}


def test_params_travel_in_the_manifest() -> None:
    params = DecisionParams.from_manifest(FakeManifest(gap_s=7.0))  # type: ignore[arg-type]
    assert params == replace(PARAMS, plane_threshold=0.7, ood_threshold=2.5, gap_s=7.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gain": None}, "decision.gain: missing"),
        ({"gian": 1.0}, "decision.gian: unknown"),
        ({"leak": 0.9}, "decision.leak: found 0.9"),
        ({"cap": math.inf}, "decision.cap: found inf"),
        ({"min_frames": 2.5}, "decision.min_frames: found 2.5"),
    ],
)
def test_a_wrong_manifest_is_refused(changes: dict[str, float | None], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        DecisionParams.from_manifest(FakeManifest(**changes))  # type: ignore[arg-type]
