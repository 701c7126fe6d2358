"""pytest's front: every case is a test, its latencies are in pytest-benchmark's `stats`.

`pytest benchmarks --benchmark-json=F` measures the suites of `hygroma bench`; `--suite NAME` measures others.
`--benchmark-disable` runs each case once, shortly, to show that it works. docs/performance.md shows how two runs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.case import Bench, Case, Record, Unavailable, record
from benchmarks.environment import fingerprint
from benchmarks.suites import MODULES, cases, check_names, run_case
from edge.bundle import Bundle, load_bundle
from edge.config import Config
from edge.update.slots import bundle_path
from edge.watching import keep_at_home

SHORT: dict[str, Any] = {
    "calls": 10,
    "limit_s": 1.0,
    "events_max": 1000,
    "soak_frames": 200,
}  # of Bench, where nothing is measured


class RecordedClock:
    """pytest-benchmark's timer for what a case has measured itself: gives the durations out, one a round."""

    def __init__(self) -> None:
        self._ticks: Iterator[float] = iter(())

    def load(self, durations_s: Sequence[float]) -> None:
        self._ticks = (tick for duration in durations_s for tick in (0.0, duration))

    def __call__(self) -> float:
        return next(self._ticks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hygroma")
    names = f"{', '.join(MODULES)}, or all; may be given again (default: those of `hygroma bench`)"
    group.addoption("--suite", action="append", default=[], metavar="NAME", help=names)
    group.addoption("--calls", type=int, default=Bench.calls, metavar="N", help="timed calls a case (default %(default)s)")
    group.addoption(
        "--seconds", type=float, default=Bench.limit_s, metavar="S", help="seconds a case may take, about (default %(default)s)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    found = []
    for suite in check_names(metafunc.config.getoption("suite")):
        for case in cases(suite):
            own_clock = () if case.open else (pytest.mark.benchmark(timer=RecordedClock()),)
            found.append(pytest.param(case, id=f"{case.suite}: {case.name}", marks=own_clock))
    metafunc.parametrize("case", found)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The one that a daemon of this user runs."""
    return load_bundle(bundle_path(keep_at_home(Config())))


@pytest.fixture(scope="session")
def identity(bundle: Bundle) -> dict[str, Any]:
    """What was measured, and on what: part of every result."""
    environment = fingerprint(bundle, Bench.threads)
    return {"bundle": environment.pop("bundle"), "fingerprint": environment}


@pytest.fixture
def bench(bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest, benchmark: Any) -> Bench:
    if not benchmark.enabled:
        return Bench(bundle, tmp_path, **SHORT)
    option = request.config.getoption
    return Bench(bundle, tmp_path, calls=option("calls"), limit_s=option("seconds"))


@pytest.fixture
def measure(
    bench: Bench, benchmark: Any, identity: dict[str, Any], request: pytest.FixtureRequest
) -> Callable[[Case], None]:
    """Runs a case. A call that is repeated is timed by pytest-benchmark; another case's own latencies are handed to it."""

    def under(case: Case) -> None:
        if case.open is None:
            records = run_case(case, bench)
            _hand_over(records, benchmark, request)
        else:
            try:
                with case.open(bench) as work:
                    benchmark(work)
            except Unavailable as reason:
                pytest.skip(str(reason))
            if not benchmark.enabled:
                return
            records = [record(case.suite, case.name, np.array(benchmark.stats.stats.data) * 1000)]
        benchmark.extra_info.update(identity, records={r.name: _summary(r) for r in records})

    return under


def _hand_over(records: list[Record], benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Checks a case's records, and gives the first latencies among them to pytest-benchmark."""
    assert not (failed := [f"{record.key}: {record.failed}" for record in records if record.failed]), failed
    if all(record.skipped for record in records):
        benchmark.skipped = True
        pytest.skip("; ".join(record.skipped for record in records))
    timed = next((record for record in records if record.samples and record.unit == "ms"), None)
    if timed is None:  # a table or a curve: what `hygroma bench` shows, and no latency
        benchmark.skipped = True
        pytest.skip(f"{records[0].suite} measures no latency here; `hygroma bench {records[0].suite}` shows its figures")
    clock = request.node.get_closest_marker("benchmark").kwargs["timer"]
    clock.load([sample / 1000 for sample in timed.samples])
    benchmark.pedantic(lambda: None, rounds=len(timed.samples))


def _summary(record: Record) -> dict[str, Any]:
    """What pytest-benchmark has no field for: percentiles with intervals, histogram, the figures beside the latencies."""
    plain = {"unit": record.unit, "values": record.values, "notes": list(record.notes), "skipped": record.skipped}
    if record.distribution is None:
        return plain | {"table": record.table, "series": record.series}
    return plain | {"percentiles": asdict(record.distribution)["percentiles"], "histogram": asdict(record.distribution.histogram)}
