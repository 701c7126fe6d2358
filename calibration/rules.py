"""Rules that turn an exam's frames into one flag, side by side: a threshold a frame, k of n, a moving average, and ours.

Every rule is a running figure over the frames that count (distinct, assessable, `min_interval_ms` apart) and a threshold: the
exam is flagged when the figure first reaches it. All thresholds are set in the same way, on the same exams.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from calibration.exams import Outcome, Points, at_threshold, evidence, threshold_for
from calibration.traces import Trace
from edge.decision.exam import P_EPSILON, ExamState, decide
from edge.decision.params import DecisionParams

KS_OF_NS = ((2, 3), (3, 5), (5, 10), (10, 20))
WINDOWS = (5, 10, 20, 40)  # frames, at most ten a second


@dataclass(frozen=True)
class Rule:
    """`figure`: of a trace, in [0,1], frame by frame. Rules of one `kind` differ in size alone."""

    kind: str
    name: str
    figure: Callable[[Trace], Points]


def usual_rules(params: DecisionParams) -> list[Rule]:
    """The three kinds in every size of the grids. `params` says which frames count."""
    return [
        Rule("frame", "threshold a frame", partial(_windowed, params=params, n=1, figure=max)),
        *(
            Rule("k of n", f"{k} of {n} frames", partial(_windowed, params=params, n=n, figure=partial(_kth, k=k)))
            for k, n in KS_OF_NS
        ),
        *(
            Rule(
                "average", f"average of {n} frames", partial(_windowed, params=params, n=n, figure=partial(_mean, n=n))
            )
            for n in WINDOWS
        ),
    ]


def compare(fitting: Sequence[Trace], measuring: Sequence[Trace], params: DecisionParams) -> list[tuple[str, Outcome]]:
    """Of each kind the size that flags the most hygromas of `fitting` (then the soonest), measured on `measuring`; last, ours
    with `params` as it ships."""
    best: dict[str, tuple[tuple[int, float], Rule, float]] = {}
    for rule in usual_rules(params):
        figures = [rule.figure(trace) for trace in fitting]
        threshold = max(threshold_for(figures, fitting), P_EPSILON)
        found = at_threshold(figures, fitting, threshold)
        wait = float(np.median(found.seconds_to_flag)) if found.seconds_to_flag else math.inf
        if rule.kind not in best or (found.flagged_hygroma, -wait) > best[rule.kind][0]:
            best[rule.kind] = (found.flagged_hygroma, -wait), rule, threshold
    rows = [
        (rule.name, at_threshold([rule.figure(trace) for trace in measuring], measuring, threshold))
        for _, rule, threshold in best.values()
    ]
    ours = [evidence(trace, params) for trace in measuring]
    return [*rows, ("accumulated evidence, as shipped", at_threshold(ours, measuring, params.flag_threshold))]


def _counted(trace: Trace, params: DecisionParams) -> Iterator[tuple[int, float]]:
    """(nanoseconds, probability) of the frames that the shipped decision counts."""
    state = ExamState(exam_id=1)
    for reading, scores in trace.steps:
        last_ns = state.last_counted_ns
        state, verdict = decide(state, reading, scores, params)
        if state.last_counted_ns not in (None, last_ns) and verdict.hygroma is not None:
            yield reading.t_mono_ns, verdict.hygroma


def _windowed(trace: Trace, params: DecisionParams, n: int, figure: Callable[[Sequence[float]], float]) -> Points:
    """`figure` of the newest `n` probabilities, or of as many as there are."""
    window: deque[float] = deque(maxlen=n)
    points = []
    for ns, probability in _counted(trace, params):
        window.append(probability)
        points.append((ns, figure(window)))
    return points


def _kth(window: Sequence[float], k: int) -> float:
    """The k-th largest; 0 while there are fewer."""
    return sorted(window, reverse=True)[k - 1] if len(window) >= k else 0.0


def _mean(window: Sequence[float], n: int) -> float:
    """Of the log-odds, back as a probability; 0 until the window is full."""
    if len(window) < n:
        return 0.0
    clipped = np.clip(window, P_EPSILON, 1 - P_EPSILON)
    return float(1 / (1 + np.exp(-np.log(clipped / (1 - clipped)).mean())))
