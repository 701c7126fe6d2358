"""Simulated exams as the device's own stages read and score them, frame by frame, kept so that a rule can be fitted on them
without rendering again.

Phantom exams only: no real cine exam of a fetus is at hand. Every figure from here is labelled "phantom".
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from calibration.phantom import render, sample_exam
from edge.engines.scorer import Scorer
from edge.records import Frame, Reading, Scores, Signal
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader

log = logging.getLogger("hygroma.calibration")

TRACE_FPS = 8  # frames a second: no more than the decision counts anyway (min_interval_ms), a third of the rendering
NO_MAP = np.zeros((0, 0), np.float32)  # the decision does not look at it


@dataclass(frozen=True)
class Plan:
    """One exam to render: what it shows ("hygroma", "normal", "other") and the seed that it comes from."""

    seed: int
    truth: str


@dataclass(frozen=True)
class Trace:
    """What reading and scoring made of one exam, frame by frame; crops, fans and maps are dropped. `standard_s`: when the
    standard plane was first shown, seconds from the start (None if never)."""

    truth: str
    steps: tuple[tuple[Reading, Scores | None], ...]
    standard_s: float | None
    seed: int = -1


def trace_exam(plan: Plan, scorer: Scorer, spec: Preprocessing) -> Trace:
    """Render one exam and pass its frames through screen reading and scoring."""
    exam = dataclasses.replace(sample_exam(plan.seed, plan.truth), fps=TRACE_FPS)
    reader, steps, standard_s = ScreenReader(spec), [], None
    for frame in render(exam):
        reading = reader.read(Frame(frame.index, frame.index * 1_000_000_000 // TRACE_FPS, frame.image))
        scores = scorer.score(reading.crop) if reading.crop is not None else None
        slim = dataclasses.replace(scores, nuchal_map=NO_MAP) if scores else None
        steps.append((dataclasses.replace(reading, crop=None, fan=None, fingerprint=None), slim))
        if frame.view == "standard" and standard_s is None:
            standard_s = frame.index / TRACE_FPS
    return Trace(plan.truth, tuple(steps), standard_s, plan.seed)


def trace_exams(
    plans: Sequence[Plan],
    bundle: Path,
    spec: Preprocessing,
    kept: Path,
    workers: int = 1,
    on_exam: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trace]:
    """A trace a plan, in their order, scored by the bundle at `bundle`. What `kept` (JSON lines) already holds is not rendered
    again, and every new one is added to it at once: a rerun after a kill goes on. `workers` processes share the work; each
    scores on one thread."""
    known = {(t.seed, t.truth): t for t in load_traces(kept)}
    todo = [plan for plan in plans if (plan.seed, plan.truth) not in known]
    kept.parent.mkdir(parents=True, exist_ok=True)
    on_exam(len(plans) - len(todo), len(plans))
    with kept.open("a", encoding="utf-8") as file:
        for trace in _traced(todo, bundle, spec, workers):
            file.write(json.dumps(_to_json(trace)) + "\n")
            file.flush()
            known[trace.seed, trace.truth] = trace
            on_exam(sum((p.seed, p.truth) in known for p in plans), len(plans))
    return [known[plan.seed, plan.truth] for plan in plans]


def load_traces(path: Path) -> list[Trace]:
    """Every whole trace of a file that `trace_exams` wrote; none when it is not there. A line that a kill cut short is left out
    and taken off the file, so that the next one does not begin in its middle."""
    if not path.is_file():
        return []
    whole, traces = 0, []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            log.warning("%s: the last exam was cut short; it is rendered again", path)
            with path.open("r+b") as file:
                file.truncate(whole)
            break
        whole += len(line)
        traces.append(_from_json(json.loads(line)))
    return traces


def _traced(plans: Sequence[Plan], bundle: Path, spec: Preprocessing, workers: int) -> Iterator[Trace]:
    if not plans:
        return
    if workers == 1:
        with Scorer.open(bundle) as scorer:
            yield from (trace_exam(plan, scorer, spec) for plan in plans)
        return
    # spawned: a forked child would inherit the locks of torch's threads
    with ProcessPoolExecutor(workers, get_context("spawn"), _open, (bundle, spec)) as pool:
        yield from pool.map(_work, plans)


_OF_WORKER: tuple[Scorer, Preprocessing]  # a worker process's own


def _open(bundle: Path, spec: Preprocessing) -> None:
    global _OF_WORKER
    _OF_WORKER = Scorer.open(bundle).__enter__(), spec  # left with the process


def _work(plan: Plan) -> Trace:
    return trace_exam(plan, *_OF_WORKER)


def _to_json(trace: Trace) -> dict[str, Any]:
    """Floats are written so that they come back to the last bit."""
    return {
        "seed": trace.seed,
        "truth": trace.truth,
        "standard_s": trace.standard_s,
        "steps": [
            [r.frame_id, r.t_mono_ns, r.signal.value, r.duplicate, r.layout_changed, r.settled]
            + ([s.plane, s.hygroma, s.ood] if s else [])
            for r, s in trace.steps
        ],
    }


def _from_json(row: dict[str, Any]) -> Trace:
    steps = []
    for frame_id, t_ns, signal, duplicate, layout_changed, settled, *scored in row["steps"]:
        reading = Reading(frame_id, t_ns, Signal(signal), None, None, duplicate, layout_changed, settled)
        steps.append((reading, Scores(scored[0], scored[1], scored[2], NO_MAP) if scored else None))
    return Trace(row["truth"], tuple(steps), row["standard_s"], row["seed"])
