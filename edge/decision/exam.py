"""Evidence over an exam: a one-sided cumulative sum with a leak, restarted at exam boundaries, and one latched flag.

Frames of one exam are correlated and specificity counts per exam: at .98 per frame and 10 independent frames a second,
87 % of healthy exams would be flagged within 10 s (computed). So only distinct, assessable frames count, no faster than
one per `min_interval_ms`, none for more than `cap`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edge.decision.assess import assess
from edge.decision.memory import Layouts
from edge.decision.params import P_EPSILON, DecisionParams
from edge.records import Reading, Scores, Signal, Verdict

HELD_S = 31.0  # seconds without a live picture after which another patient may be there: past half a minute of measuring (chosen)
AFTER_HOLD_S = 5.0  # seconds after a hold in which another layout makes the patient doubtful: a layout takes two to be sure


@dataclass(frozen=True)
class ExamState:
    """All that the decision remembers. Times are monotonic nanoseconds; None is "not yet"."""

    exam_id: int
    evidence: float = 0.0
    counted: int = 0  # frames that changed the evidence
    flagged: bool = False
    announced: bool = False  # a verdict has carried exam_started
    has_picture: bool = False  # an empty exam is not ended: nothing in it could be anybody's
    ended: bool = False  # for sure: the next picture belongs to another exam
    doubt: str = ""  # why the next picture may belong to another exam, "" when nothing says so
    last_counted_ns: int | None = None
    last_signal_ns: int | None = None  # last time that the screen showed anything
    last_live_ns: int | None = None  # last time that it showed a picture which was not there before
    last_dual_ns: int | None = None  # last time that it showed two pictures, held or live: that cannot be told
    held_ns: int | None = None  # when the last long hold of one picture ended
    menu_since_ns: int | None = None
    highest: int = 0  # exam number ever given, when it is above `exam_id`
    boundary: str = ""  # what was not sure of this exam's boundaries
    question: str = ""  # what the operator is asked: is this still the patient of `before`?
    before: ExamState | None = None


def decide(
    state: ExamState, reading: Reading, scores: Scores | None, params: DecisionParams
) -> tuple[ExamState, Verdict]:
    """One frame's step; a pure function. `scores` is None for a frame that was not scored."""
    state = _boundaries(state, reading, params)
    plane = scores.plane if scores else None
    ood = scores.ood if scores else None
    assessable, reasons = assess(reading.signal, plane, ood, params, reading.covered)

    newly_flagged = False
    if assessable and scores is not None and counts(state, reading, scores, params):
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
        repeats=reading.repeats,
        boundary=state.boundary,
        question=state.question,
    )
    return replace(state, announced=state.has_picture), verdict


def _boundaries(state: ExamState, reading: Reading, params: DecisionParams) -> ExamState:
    """Where one exam ends and the next begins (docs/exams.md). The flag stays up until another exam's first picture is there."""
    now, signal = reading.t_mono_ns, reading.signal
    doubt = state.doubt
    if (silent_s := _seconds(state.last_signal_ns, now)) > params.gap_s:
        doubt = f"no signal for {silent_s:.0f} s"
    is_menu = signal is Signal.MENU and not reading.doubtful
    menu_since = (state.menu_since_ns if state.menu_since_ns is not None else now) if is_menu else None
    state = replace(
        state,
        ended=state.ended or _seconds(menu_since, now) >= params.menu_s,
        doubt=doubt,
        menu_since_ns=menu_since,
        last_signal_ns=state.last_signal_ns if signal is Signal.NO_SIGNAL else now,
    )
    if signal in (Signal.NO_SIGNAL, Signal.MENU):
        return state
    state = _holds(state, reading, params)
    if state.has_picture and state.ended:
        state = _next(state)
    elif state.has_picture and state.doubt:
        note = f"before exam {_next(state).exam_id}: {state.doubt}"
        question = f"same patient as exam {state.exam_id}? {state.doubt}; new evidence counts for exam {_next(state).exam_id}"
        state = replace(_next(state), boundary=note, question=question, before=replace(state, before=None, question=""))
    if (
        reading.layout_changed
    ):  # another depth or zoom: the same patient, so a flag stays, but the evidence starts again
        state = replace(state, evidence=0.0, counted=0, last_counted_ns=None)
    return replace(state, has_picture=True, ended=False, doubt="")


def _holds(state: ExamState, reading: Reading, params: DecisionParams) -> ExamState:
    """Doubt after a long time without a live picture, and after another layout that follows a hold."""
    now = reading.t_mono_ns
    if reading.signal is Signal.DUAL:
        state = replace(state, last_dual_ns=now)
    if reading.signal is Signal.DOPPLER or (reading.signal is Signal.OK and not (reading.duplicate or reading.repeats)):
        held_s = _seconds(state.last_live_ns, now)
        doubt = state.doubt or (f"no live picture for {held_s:.0f} s" if held_s >= HELD_S else "")
        one_s = min(held_s, _seconds(state.last_dual_ns, now)) if state.last_dual_ns is not None else held_s
        held_ns = now if one_s >= params.gap_s else state.held_ns
        state = replace(state, last_live_ns=now, held_ns=held_ns, doubt=doubt)
    after_hold = state.held_ns is not None and _seconds(state.held_ns, now) <= AFTER_HOLD_S
    if reading.layout_changed and after_hold and not state.doubt:
        state = replace(state, doubt="another layout after the picture was held", held_ns=None)
    return state


def _next(state: ExamState) -> ExamState:
    """The exam after this one, before its first picture."""
    last = max(state.exam_id, state.highest)
    return ExamState(last + 1, last_signal_ns=state.last_signal_ns, last_live_ns=state.last_live_ns)


def counts(state: ExamState, reading: Reading, scores: Scores, params: DecisionParams) -> bool:
    """Distinct, far enough from the last counted frame, and a number."""
    if reading.duplicate or reading.repeats or not math.isfinite(scores.hygroma):
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
    """The running exam: `decide` with its state and its pictures kept, and the operator's answers."""

    def __init__(self, params: DecisionParams, first_exam_id: int = 1) -> None:
        self.params = params
        self.state = ExamState(first_exam_id)
        self._seen = Layouts()
        self._repeating = False  # whether the last picture that could count was there before

    def step(self, reading: Reading, scores: Scores | None) -> Verdict:
        before = self.state
        reading = self._compared(reading, scores)
        self.state, verdict = decide(before, reading, scores, self.params)
        if verdict.exam_id != before.exam_id and not verdict.question:
            self._forget()  # for sure another patient's
        if reading.fingerprint is not None and verdict.assessable and not (reading.duplicate or reading.repeats):
            if self.state.last_counted_ns == reading.t_mono_ns:
                self._seen.seen.counted(reading.fingerprint)
            else:
                self._seen.seen.passed(reading.fingerprint)
        return verdict

    def _compared(self, reading: Reading, scores: Scores | None) -> Reading:
        """The reading with what the exam knows of its picture. Only what would count is looked up: it takes some tenths of
        a millisecond. What comes between goes on as the picture before."""
        taken = reading.fingerprint
        if taken is None:
            return reading
        if reading.layout_changed or not self._seen.seen.fits(taken):
            self._seen.enter(taken)
            self._repeating = False
            reading = replace(reading, layout_changed=True)
        if scores is None or not assess(reading.signal, scores.plane, scores.ood, self.params)[0]:
            return reading
        if reading.layout_changed or counts(self.state, reading, scores, self.params):
            self._repeating = self._seen.seen.repeats(taken)
        return replace(reading, repeats=self._repeating)

    def _forget(self) -> None:
        self._seen = Layouts()
        self._repeating = False

    def new_exam(self) -> int:
        """The operator says that another patient is on the table: evidence and flag end now. Returns the exam's id."""
        self.state = _next(self.state)
        self._forget()
        return self.state.exam_id

    def same_exam(self) -> int:
        """The operator says that the patient is still the one before the boundary in question: that exam goes on, flag and all,
        with what was found since. Returns the exam's id; nothing happens when there is no question."""
        now, before = self.state, self.state.before
        if before is not None:
            notes = (before.boundary, f"{now.boundary} (the same patient, said the operator)")
            self.state = replace(
                now,
                exam_id=before.exam_id,
                highest=max(now.exam_id, now.highest),
                evidence=max(now.evidence, before.evidence),
                counted=now.counted + before.counted,
                flagged=now.flagged or before.flagged,
                boundary="; ".join(filter(None, notes)),
                question="",
                before=None,
            )
        return self.state.exam_id
