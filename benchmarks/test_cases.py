from __future__ import annotations

from collections.abc import Callable

from benchmarks.case import Case


def test_case(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
