"""What a suite is made of: cases, which give records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.loops import Work, closed_loop
from benchmarks.samples import Distribution, distribution
from edge.bundle import Bundle


class Unavailable(Exception):
    """This machine lacks what a case needs; the message says what, and goes into the result."""


@dataclass(frozen=True)
class Bench:
    """What every case is handed. `folder` is empty and removed afterwards; `note(what, done, total)` moves the progress bar."""

    bundle: Bundle
    folder: Path
    threads: int = 1
    calls: int = 1000  # timed calls a case
    limit_s: float = 30.0  # seconds a case may take, about
    rate_hz: float = 30.0  # of the camera, frames per second
    events_max: int = 1_000_000  # rows the event store grows to
    soak_frames: int = 18_000  # ten minutes at 30 fps
    soak_hours: float = 0.0  # instead of frames, when above 0
    note: Callable[[str, int, int], None] = lambda what, done, total: None

    def calls_at(self, rate_hz: float) -> int:
        """Calls at a rate, within the time a case may take."""
        return max(2, min(self.calls, round(self.limit_s * rate_hz)))


@dataclass(frozen=True)
class Record:
    """One figure, or a distribution and the figures beside it.

    `values`: name -> number, units in the name (`rss_mb`). `better`: which of them a comparison judges, and in which direction.
    `series`: what -> [(x, y)], for plots, with `axes` (x, y) in words. `skipped`, `failed`: why there is nothing else.
    `samples`: what the distribution is of, in `unit`; a written run leaves them out.
    """

    suite: str
    name: str
    unit: str = "ms"
    distribution: Distribution | None = None
    values: dict[str, float] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    table: list[dict[str, float | str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    skipped: str = ""
    failed: str = ""
    samples: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"{self.suite}: {self.name}"


@dataclass(frozen=True)
class Case:
    """`run` measures. `open`, for cases that are one call repeated, gives that call: pytest-benchmark times it itself. Of several
    records with a distribution, the first is the case's own latency."""

    suite: str
    name: str
    run: Callable[[Bench], list[Record]]
    open: Callable[[Bench], AbstractContextManager[Work]] | None = None


def timed(
    suite: str, name: str, open: Callable[[Bench], AbstractContextManager[Work]], notes: tuple[str, ...] = ()
) -> Case:
    """A case that is one call, repeated without pause."""

    def run(bench: Bench) -> list[Record]:
        with open(bench) as work:
            taken = closed_loop(
                work, bench.calls, bench.limit_s, tick=lambda done, total: bench.note(f"{suite}: {name}", done, total)
            )
        return [record(suite, name, taken, notes=notes)]

    return Case(suite, name, run, open)


def record(
    suite: str,
    name: str,
    samples: np.ndarray,
    values: dict[str, float] | None = None,
    better: dict[str, str] | None = None,
    notes: tuple[str, ...] = (),
    unit: str = "ms",
) -> Record:
    """Samples [n] -> Record; n = 0 is a failure, not a figure."""
    if not len(samples):
        return Record(
            suite, name, unit, values=values or {}, notes=notes, failed="nothing was measured: no sample came"
        )
    kept = tuple(float(sample) for sample in samples)
    return Record(suite, name, unit, distribution(samples), values or {}, better or {}, notes=notes, samples=kept)
