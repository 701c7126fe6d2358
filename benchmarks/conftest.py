"""pytest's front: every case of a suite is a test; what is one call repeated is timed by pytest-benchmark.

`pytest benchmarks --benchmark-enable` measures; without that flag each case runs once, shortly, to show that it works. One suite
alone: `-k models:`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.case import Bench, Case, Unavailable
from benchmarks.suites import MODULES, cases, run_case
from edge.bundle import load_bundle

SHORT: dict[str, Any] = {
    "calls": 10,
    "limit_s": 1.0,
    "events_max": 1000,
    "soak_frames": 200,
}  # of Bench, where nothing is measured


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        found = [case for suite in MODULES for case in cases(suite)]
        metafunc.parametrize("case", found, ids=[f"{case.suite}: {case.name}" for case in found])


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    measuring = request.config.getoption("benchmark_enable")
    return Bench(
        load_bundle(Path(__file__).parents[1] / "edge" / "data" / "bundle"), tmp_path, **({} if measuring else SHORT)
    )


@pytest.fixture
def measure(bench: Bench, benchmark: Callable) -> Callable[[Case], None]:
    """Runs a case under pytest-benchmark; what it says beside its times goes into `extra_info`."""

    def under(case: Case) -> None:
        if case.open is None:
            records = benchmark.pedantic(run_case, args=(case, bench), rounds=1)  # type: ignore[attr-defined]
            assert not (failed := [f"{record.key}: {record.failed}" for record in records if record.failed]), failed
            if why := [record.skipped for record in records if record.skipped]:
                if len(why) == len(records):
                    pytest.skip("; ".join(why))
                warnings.warn("; ".join(why), stacklevel=1)
            benchmark.extra_info.update({record.name: record.values for record in records})  # type: ignore[attr-defined]
            return
        try:
            with case.open(bench) as work:
                benchmark(work)
        except Unavailable as reason:
            pytest.skip(str(reason))

    return under
