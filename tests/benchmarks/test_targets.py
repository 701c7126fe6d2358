"""The table of what the student was asked to reach: each figure from the right records, judged by its interval's worse end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import Record
from benchmarks.limits import FLOOR, RATE_INT8, RATES, THREADS
from benchmarks.peers import (
    DYNAMIC,
    FLOAT,
    NNCF,
    OURS,
    OURS_OPENVINO,
    STATIC,
    TEACHER,
    ratios,
    ratios_name,
    with_threads,
)
from benchmarks.performance import write_page
from benchmarks.results import Run, read_run, write_run
from benchmarks.samples import bootstrap
from benchmarks.targets import ABSENT, TARGETS, Figure, figure, targets_markdown, verdict

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "x86_64-2-cores.json"
MS = {OURS: 10.0, OURS_OPENVINO: 8.0, FLOAT: 32.0, DYNAMIC: 12.0, STATIC: 15.0, NNCF: 8.0, TEACHER: 400.0}
FLOAT_TARGET, DYNAMIC_TARGET, STATIC_TARGET, NNCF_TARGET, PEAK_TARGET, TEACHER_TARGET = TARGETS


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """All times of a system are one value here, and so is each draw's ratio; test_samples.py holds the intervals."""
    monkeypatch.setattr(bootstrap, "__defaults__", (20, 0))


def run_of(ms: dict[str, float], threads: int = 1, with_limits: bool = True) -> Run:
    """A made-up run: `ms` at one thread, half of that at two; 3 GOP at 500 and 1000 GOP/s."""
    records = []
    for name, factor in ((lambda n: n, 1.0), (lambda n: with_threads(n, 2), 0.5)):
        taken = {system: np.full((3, 5), factor * value) for system, value in ms.items()}
        for base in (OURS, OURS_OPENVINO):
            if base in ms:
                records.append(Record("peers", name(ratios_name(base)), table=ratios(taken, base, {})))
    if with_limits:
        rates: list[dict[str, float | str]] = [{THREADS: n, RATE_INT8: 500.0 * n} for n in (1.0, 2.0)]
        values = {"int8_gop": 2.5, "float_gop": 0.5}
        records += [Record("limits", RATES, table=rates), Record("limits", FLOOR, values=values)]
    old = read_run(RESULT)
    return dataclasses.replace(old, records=records, environment={**old.environment, "threads": threads})


@pytest.mark.parametrize(
    ("target", "runner", "threads", "wanted"),
    [
        (FLOAT_TARGET, OURS, 1, 3.2),
        (FLOAT_TARGET, OURS_OPENVINO, 2, 4.0),
        (DYNAMIC_TARGET, OURS, 1, 10 / 12),
        (STATIC_TARGET, OURS, 1, 10 / 15),
        (NNCF_TARGET, OURS, 2, 1.25),
        (NNCF_TARGET, OURS_OPENVINO, 1, 1.0),
        (PEAK_TARGET, OURS, 1, 10.0 / 6.0),
        (PEAK_TARGET, OURS, 2, 5.0 / 3.0),
        (PEAK_TARGET, OURS_OPENVINO, 1, 8.0 / 6.0),
        (TEACHER_TARGET, OURS, 1, 40.0),
    ],
)
def test_a_figure_is_of_its_peer_runner_and_threads(target: object, runner: str, threads: int, wanted: float) -> None:
    found = figure(run_of(MS), target, runner, threads)  # type: ignore[arg-type]
    assert found is not None and found.value == found.low == found.high == pytest.approx(wanted)


def test_an_interval_is_turned_round_with_its_ratio() -> None:
    run = run_of(MS)
    (table,) = (r.table for r in run.records if r.name == "ratios")
    (row,) = (row for row in table if row["system"] == DYNAMIC)
    row.update({"times ours": 1.25, "low": 1.0, "high": 2.0})
    assert figure(run, DYNAMIC_TARGET, OURS, 1) == Figure(0.8, 0.5, 1.0)


@pytest.mark.parametrize(
    ("target", "found", "wanted"),
    [
        (FLOAT_TARGET, Figure(3.1, 3.0, 3.2), "aim met"),
        (FLOAT_TARGET, Figure(3.1, 2.9, 3.3), "known beaten"),
        (FLOAT_TARGET, Figure(2.2, 2.0, 2.4), "missed"),
        (DYNAMIC_TARGET, Figure(0.7, 0.6, 0.8), "aim met"),
        (DYNAMIC_TARGET, Figure(0.79, 0.7, 0.85), "known beaten"),
        (DYNAMIC_TARGET, Figure(0.85, 0.8, 0.95), "missed"),
        (STATIC_TARGET, Figure(0.1, 0.1, 0.1), "known beaten"),  # has no aim
        (STATIC_TARGET, Figure(1.1, 1.1, 1.1), "missed"),
    ],
)
def test_the_worse_end_of_the_interval_decides(target: object, found: Figure, wanted: str) -> None:
    assert verdict(target, found) == wanted  # type: ignore[arg-type]


def test_what_was_not_measured_is_said() -> None:
    run = run_of({name: ms for name, ms in MS.items() if name not in (NNCF, OURS_OPENVINO)}, with_limits=False)
    lines = {line.split(" | ")[0]: line.split(" | ")[3:] for line in targets_markdown(run) if line.startswith("| ")}
    for target in TARGETS:
        cells = [cell.strip(" |") for cell in lines[f"| {target.what}"]]
        absent = [cell == ABSENT for cell in cells]
        assert absent == [target.peer in (None, NNCF)] * 2 + [
            True,
            True,
        ]  # ONNX Runtime at 1 and 2 threads, then OpenVINO


def test_a_run_with_two_threads_has_one_column_a_runner_and_one_without_peers_no_table() -> None:
    run = run_of(MS, threads=2)
    assert any("ONNX Runtime, 2 threads | OpenVINO, 2 threads |" in line for line in targets_markdown(run))
    assert figure(run, FLOAT_TARGET, OURS, 2) == Figure(
        *[pytest.approx(3.2)] * 3
    )  # the first pass: the threads asked for
    assert targets_markdown(dataclasses.replace(run, records=[r for r in run.records if r.suite != "peers"])) == []


def test_the_page_has_the_table_of_every_machine(tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "box.json", run_of(MS))
    write_page(tmp_path / "results", tmp_path / "p.md")
    page = (tmp_path / "p.md").read_text()
    assert "| times less than its float graph, ONNX Runtime | 2.1 | 3 | 3.2: aim met |" in page
    assert "| times less than a ViT-B/16 in PyTorch FP32 | 33 | 100 | 40: known beaten |" in page
    assert "- ONNX Runtime on two threads: idle threads busy-wait" in page and "the daemon never turns that on" in page


def test_the_committed_result_is_judged() -> None:
    found = figure(read_run(RESULT), FLOAT_TARGET, OURS, 1)
    assert found is not None and 0 < found.low <= found.value <= found.high
    peak = figure(read_run(RESULT), PEAK_TARGET, OURS, 1)
    assert peak is not None and peak.value > 1  # faster than the machine can multiply would be a mistake
