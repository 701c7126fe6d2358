"""Evidence over an exam: a one-sided cumulative sum with a leak, restarted at exam boundaries, and one latched flag.

Frames of one exam are correlated and specificity counts per exam: at .98 per frame and 10 independent frames a second,
87 % of healthy exams would be flagged within 10 s (computed). So only distinct, assessable frames count, no faster than
one per `min_interval_ms`, none for more than `cap`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edge.decision.assess import assess
from edge.decision.params import DecisionParams
from edge.records import Reading, Scores, Signal, Verdict

P_EPSILON = 1e-6  # probability; a saturated sigmoid would have infinite log-odds


@dataclass(frozen=True)
class ExamState:
    """All that the decision remembers. Times are monotonic nanoseconds; None is "not yet"."""

    exam_id: int
    evidence: float = 0.0
    counted: int = 0  # frames that changed the evidence
    flagged: bool = False
    announced: bool = False  # a verdict has carried exam_started
    has_picture: bool = False  # an empty exam is not ended: nothing in it could be anybody's
    boundary: bool = False  # the next picture belongs to another exam
    last_counted_ns: int | None = None
    last_signal_ns: int | None = None  # last time that the screen showed anything
    menu_since_ns: int | None = None


def decide(
    state: ExamState, reading: Reading, scores: Scores | None, params: DecisionParams
) -> tuple[ExamState, Verdict]:
    """One frame's step; a pure function. `scores` is None for a frame that was not scored."""
    state = _boundaries(state, reading, params)
    plane = scores.plane if scores else None
    ood = scores.ood if scores else None
    assessable, reasons = assess(reading.signal, plane, ood, params)

    newly_flagged = False
    if assessable and scores is not None and _counts(state, reading, scores, params):
        evidence = max(0.0, state.evidence * (1.0 - params.leak) + _increment(scores.hygroma, params))
        state = replace(state, evidence=evidence, counted=state.counted + 1, last_counted_ns=reading.t_mono_ns)
        reached = evidence >= params.flag_threshold and state.counted >= params.min_frames
        newly_flagged = reached and not state.flagged
        state = replace(state, flagged=state.flagged or reached)

    verdict = Verdict(
        frame_id=reading.frame_id,
        t_mono_ns=reading.t_mono_ns,
        exam_id=state.exam_id,
        signal=reading.signal,
        assessable=assessable,
        reasons=reasons,
        plane=plane,
        hygroma=scores.hygroma if scores else None,
        ood=ood,
        evidence=state.evidence,
        threshold=params.flag_threshold,
        flagged=state.flagged,
        newly_flagged=newly_flagged,
        exam_started=state.has_picture and not state.announced,
    )
    return replace(state, announced=state.has_picture), verdict


def _boundaries(state: ExamState, reading: Reading, params: DecisionParams) -> ExamState:
    """Where one exam ends and the next begins. The flag stays up until another exam's first picture is there."""
    now, signal = reading.t_mono_ns, reading.signal
    if _seconds(state.last_signal_ns, now) > params.gap_s:
        state = replace(state, boundary=True)
    menu_since = (state.menu_since_ns if state.menu_since_ns is not None else now) if signal is Signal.MENU else None
    if _seconds(menu_since, now) >= params.menu_s:
        state = replace(state, boundary=True)
    state = replace(
        state,
        menu_since_ns=menu_since,
        last_signal_ns=state.last_signal_ns if signal is Signal.NO_SIGNAL else now,
    )
    if signal in (Signal.NO_SIGNAL, Signal.MENU):
        return state
    if state.boundary and state.has_picture:
        state = ExamState(state.exam_id + 1, last_signal_ns=state.last_signal_ns)
    if (
        reading.layout_changed
    ):  # another depth or zoom: the same patient, so a flag stays, but the evidence starts again
        state = replace(state, evidence=0.0, counted=0, last_counted_ns=None)
    return replace(state, has_picture=True, boundary=False)


def _counts(state: ExamState, reading: Reading, scores: Scores, params: DecisionParams) -> bool:
    """Distinct, far enough from the last counted frame, and a number."""
    if reading.duplicate or not math.isfinite(scores.hygroma):
        return False
    since_ms = _seconds(state.last_counted_ns, reading.t_mono_ns) * 1000
    return state.last_counted_ns is None or since_ms >= params.min_interval_ms


def _increment(hygroma: float, params: DecisionParams) -> float:
    p = min(max(hygroma, P_EPSILON), 1.0 - P_EPSILON)
    log_odds = math.log(p / (1.0 - p))
    return min(max(params.gain * (log_odds - params.logit_offset), -params.cap), params.cap)


def _seconds(since_ns: int | None, now_ns: int) -> float:
    return 0.0 if since_ns is None else (now_ns - since_ns) / 1e9


class Exam:
    """The running exam: `decide` with its state kept, and the operator's button."""

    def __init__(self, params: DecisionParams, first_exam_id: int = 1) -> None:
        self.params = params
        self.state = ExamState(first_exam_id)

    def step(self, reading: Reading, scores: Scores | None) -> Verdict:
        self.state, verdict = decide(self.state, reading, scores, self.params)
        return verdict

    def new_exam(self) -> int:
        """The operator says that another patient is on the table: evidence and flag end now. Returns the exam's id."""
        self.state = ExamState(self.state.exam_id + 1, last_signal_ns=self.state.last_signal_ns)
        return self.state.exam_id
