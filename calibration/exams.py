"""The decision over traced exams: what it flags and when, and its parameters fitted for a rate of false flags."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.traces import Trace
from edge.decision.exam import ExamState, decide
from edge.decision.params import DecisionParams
from edge.records import Verdict

GAINS = (0.15, 0.3, 0.6, 1.0)
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # log-odds
FALSE_FLAGS_IN = 200  # healthy exams for one false flag at most
# One in 200 lies beyond what 200 healthy exams show. Letting one of them pass flagged 9 of 600 others; letting none pass flagged
# 0, but lost 13 of 126 hygromas of 150. So an exponential tail is fitted to the highest TAIL of the healthy exams' peaks (peaks
# over threshold), and the rate is asked for twice over, since gain and offset are chosen on the same exams: 2 of 600, 121 of 150.
TAIL, ASKED = 0.05, 0.5
LEAST_TAIL = 5  # peaks that a tail can be fitted to; with fewer, none is let pass
MARGIN = 1.1  # of a threshold over the highest healthy figure below it: exams that the fit has not seen reach higher
LOWEST, HIGHEST = 0.1, 1000.0  # of a flag threshold, as DecisionParams allows

Points = list[tuple[int, float]]  # (nanoseconds, running figure), frame by frame


@dataclass(frozen=True)
class Outcome:
    """Exam-level result of a set of traces: counts, and seconds from the first standard plane to the flag."""

    hygroma: int
    flagged_hygroma: int
    healthy: int
    flagged_healthy: int
    seconds_to_flag: tuple[float, ...]


def replay(trace: Trace, params: DecisionParams) -> list[Verdict]:
    """The decision over a trace."""
    state, verdicts = ExamState(exam_id=1), []
    for reading, scores in trace.steps:
        state, verdict = decide(state, reading, scores, params)
        verdicts.append(verdict)
    return verdicts


def outcome(traces: Iterable[Trace], params: DecisionParams) -> Outcome:
    """What the decision with `params` does to the traces."""
    return count(
        (trace, next((v.t_mono_ns for v in replay(trace, params) if v.newly_flagged), None)) for trace in traces
    )


def count(flags: Iterable[tuple[Trace, int | None]]) -> Outcome:
    """From each exam and the time of its flag (None: not flagged). Healthy here is every exam without a hygroma: normal
    anatomy, other anatomy, frozen screens."""
    counts = {True: [0, 0], False: [0, 0]}
    seconds = []
    for trace, flag_ns in flags:
        sick = trace.truth == "hygroma"
        counts[sick][0] += 1
        counts[sick][1] += flag_ns is not None
        if sick and flag_ns is not None:
            seconds.append(flag_ns / 1e9 - (trace.standard_s or 0.0))
    (hygroma, flagged), (healthy, false_flags) = counts[True], counts[False]
    return Outcome(hygroma, flagged, healthy, false_flags, tuple(seconds))


def evidence(trace: Trace, params: DecisionParams) -> Points:
    """The evidence at every frame, 0 until `min_frames` have counted."""
    state, points = ExamState(exam_id=1), []
    for reading, scores in trace.steps:
        state, verdict = decide(state, reading, scores, params)
        points.append((reading.t_mono_ns, verdict.evidence if state.counted >= params.min_frames else 0.0))
    return points


def threshold_for(figures: Sequence[Points], traces: Sequence[Trace]) -> float:
    """The threshold that one healthy exam in FALSE_FLAGS_IN reaches at most, by the tail of their peaks; where they are too few
    for one, a MARGIN above the highest."""
    peaks = sorted(
        (
            max((v for _, v in points), default=0.0)
            for points, trace in zip(figures, traces, strict=True)
            if trace.truth != "hygroma"
        ),
        reverse=True,
    )
    if not peaks:
        return 0.0
    tail = int(TAIL * len(peaks))
    if tail < LEAST_TAIL:
        return peaks[0] * MARGIN
    start = peaks[tail]
    spread = sum(peaks[:tail]) / tail - start  # of an exponential: the mean excess
    return max(start + spread * math.log(tail / len(peaks) * FALSE_FLAGS_IN / ASKED), start * MARGIN)


def at_threshold(figures: Sequence[Points], traces: Sequence[Trace], threshold: float) -> Outcome:
    """What a threshold on the running figures does to the traces that they were taken of."""
    return count(
        (trace, next((ns for ns, value in points if value >= threshold), None))
        for points, trace in zip(figures, traces, strict=True)
    )


def fit_decision(traces: Sequence[Trace], base: DecisionParams) -> DecisionParams:
    """Gain and offset that flag the most hygromas, then the soonest, each with the threshold that the rate of false flags
    asks for."""
    best, best_key = base, (-1, 0.0)
    for gain, offset in itertools.product(GAINS, OFFSETS):
        params = dataclasses.replace(base, gain=gain, logit_offset=offset)
        figures = [evidence(trace, params) for trace in traces]
        threshold = float(np.clip(threshold_for(figures, traces), LOWEST, HIGHEST))
        found = at_threshold(figures, traces, threshold)
        wait = float(np.median(found.seconds_to_flag)) if found.seconds_to_flag else 1e9
        if (found.flagged_hygroma, -wait) > best_key:
            best, best_key = dataclasses.replace(params, flag_threshold=threshold), (found.flagged_hygroma, -wait)
    return best
