"""Which suites there are, and the running of their cases."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.case import Bench, Case, Record, Unavailable
from edge.errors import ConfigError

log = logging.getLogger(__name__)

DEFAULT = ("models", "pipeline", "startup")  # what `hygroma bench` runs by itself: a few minutes
MODULES = {
    "layers": "what the optimised graph spends where",
    "models": "teacher, student and baseline on each runtime",
    "pipeline": "each stage, and end to end at the camera's rate",
    "startup": "process start to READY, its parts, and memory",
    "streams": "how many sources this machine holds",
    "soak": "the promise of a long run: nothing lost, the loop's overhead, memory flat",
    "growth": "cost against picture size, batch, exams and events stored",
    "limits": "what the machine could do at best, and how far the model is from it",
    "peers": "other runtimes, side by side in one interleaved run",
}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """ConfigError for a suite that is none; all of them for "all"."""
    if "all" in names:
        return tuple(MODULES)
    if wrong := [name for name in names if name not in MODULES]:
        raise ConfigError(f"bench: found suite {wrong[0]!r}; expected any of {', '.join(MODULES)}, or all")
    return tuple(dict.fromkeys(names)) or DEFAULT


def cases(suite: str) -> list[Case]:
    """A suite's cases, in the order in which they run."""
    return list(importlib.import_module(f"benchmarks.{suite}").CASES)


def run_suites(names: Sequence[str], bench: Bench, keep: Callable[[Record], None]) -> None:
    """Every case of every suite; `keep` is handed each record once its case has ended. A case that cannot run here, or breaks, is
    a record that says so; the others still run."""
    for suite in names:
        for case in cases(suite):
            for record in run_case(case, bench):
                keep(record)


def run_case(case: Case, bench: Bench) -> list[Record]:
    """A case's records, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        try:
            return case.run(dataclasses.replace(bench, folder=Path(folder)))
        except Unavailable as reason:
            return [Record(case.suite, case.name, skipped=str(reason))]
        except Exception as error:  # the other cases must still run
            log.info("%s: %s", case.suite, case.name, exc_info=True)  # for `hygroma -v bench`
            return [Record(case.suite, case.name, failed=f"{type(error).__name__}: {error}")]
