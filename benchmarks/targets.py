"""What the student was asked to reach on a CPU, held against what a run measured: a table for docs/performance.md.

All but one are ratios of medians in one interleaved run of the suite `peers`. The other holds the student's time there against
the time that all its products, attention's too, would take at the INT8 rate that the suite `limits` measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Record
from benchmarks.limits import FLOOR, RATE_INT8, RATES, THREADS
from benchmarks.limits import SUITE as LIMITS
from benchmarks.models import SPINNING
from benchmarks.peers import DYNAMIC, FLOAT, NNCF, OURS, OURS_OPENVINO, STATIC, TEACHER, TWO, ratios_name, with_threads
from benchmarks.peers import RATIOS as COLUMNS
from benchmarks.peers import SUITE as PEERS
from benchmarks.results import Run
from benchmarks.text import figures_table

HEADING = "targets: the INT8 student against other ways of running it, on this CPU"
RUNNERS = {OURS: "ONNX Runtime", OURS_OPENVINO: "OpenVINO"}  # the two that a device may use
ABSENT = "not measured"


@dataclass(frozen=True)
class Target:
    """`known`: the figure to beat, reached before with ViT-Ti/16 at 224 pixels on one thread; `aim`: as near as possible to it;
    None where beating is all. `peer`: whom the figure is a ratio to, None for the products' time at the INT8 rate. `faster`:
    the figure is the peer's time over ours, the more the better; else ours over the peer's."""

    what: str
    known: float
    aim: float | None
    peer: str | None
    faster: bool


TARGETS = (
    Target("times less than its float graph, ONNX Runtime", 2.1, 3.0, FLOAT, True),
    Target("of the time of quantize_dynamic, ONNX Runtime", 0.9, 0.8, DYNAMIC, False),
    Target("of the time of quantize_static with defaults, ONNX Runtime", 1.0, None, STATIC, False),
    Target("of the time of NNCF INT8, OpenVINO", 1.3, 1.0, NNCF, False),
    Target("of the time of its products at the INT8 rate", 2.4, 1.6, None, False),
    Target("times less than a ViT-B/16 in PyTorch FP32", 33.0, 100.0, TEACHER, True),
)


@dataclass(frozen=True)
class Figure:
    """A ratio and its 95 % interval; without one the ends are the value."""

    value: float
    low: float
    high: float


def figure(run: Run, target: Target, runner: str, threads: int) -> Figure | None:
    """What a run says of a target; None where it did not measure it. runner: one of RUNNERS."""
    if target.peer is None:
        return _of_peak(run, runner, threads)
    row = _row(run, runner, threads, target.peer)
    if row is None:
        return None
    column = COLUMNS[runner]
    value, low, high = (float(row[name]) for name in (column, "low", "high"))
    return Figure(value, low, high) if target.faster else Figure(1 / value, 1 / high, 1 / low)


def verdict(target: Target, found: Figure) -> str:
    """ "aim met", "known beaten" or "missed": by the end of the interval that is the worse one."""

    def reached(limit: float) -> bool:
        return found.low >= limit if target.faster else found.high <= limit

    if target.aim is not None and reached(target.aim):
        return "aim met"
    return "known beaten" if reached(target.known) else "missed"


def targets_markdown(run: Run) -> list[str]:
    """The table, one column a runner and number of threads; nothing for a run without the suite `peers`."""
    measured = {record.suite for record in run.records if not (record.skipped or record.failed)}
    if PEERS not in measured:
        return []
    columns = [(runner, threads) for runner in RUNNERS for threads in dict.fromkeys((run.environment["threads"], TWO))]
    head = ["one picture takes", "known", "aim", *(f"{RUNNERS[runner]}, {_threads(threads)}" for runner, threads in columns)]
    rows = [
        [
            target.what,
            _digits(target.known),
            "" if target.aim is None else _digits(target.aim),
            *(_cell(target, figure(run, target, runner, threads)) for runner, threads in columns),
        ]
        for target in TARGETS
    ]
    return [
        f"### {HEADING}",
        "",
        "- known: to be beaten, reached before with ViT-Ti/16 at 224 pixels on one thread; aim: as near as possible. "
        '"missed": behind the known. Brackets: 95 % interval; its worse end decides.',
        "- Ratios of medians of one interleaved run (`peers`, below). Products: all of the student's, attention's too, "
        "at the INT8 rate of `limits`, which has no interval.",
        f"- ONNX Runtime on two threads: {SPINNING}.",
        "",
        *figures_table(head, *rows),
        "",
    ]


def _cell(target: Target, found: Figure | None) -> str:
    if found is None:
        return ABSENT
    span = "" if found.low == found.high else f" ({_digits(found.low)}-{_digits(found.high)})"
    return f"{_digits(found.value)}{span}: {verdict(target, found)}"


def _digits(ratio: float) -> str:
    return f"{ratio:.3g}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _of_peak(run: Run, runner: str, threads: int) -> Figure | None:
    """The student's median over the time of its products at the INT8 rate with as many threads."""
    floor, rates, row = _record(run, LIMITS, FLOOR), _record(run, LIMITS, RATES), _row(run, runner, threads, runner)
    rate = next((r[RATE_INT8] for r in rates.table if r[THREADS] == threads), None) if rates else None
    if floor is None or rate is None or row is None:
        return None
    products_ms = 1000 * (floor.values["int8_gop"] + floor.values["float_gop"]) / float(rate)
    value = float(row["p50 ms"]) / products_ms
    return Figure(value, value, value)


def _row(run: Run, base: str, threads: int, system: str) -> dict[str, float | str] | None:
    """A system's row of the ratios to `base`."""
    name = ratios_name(base)
    found = _record(run, PEERS, name if threads == run.environment["threads"] else with_threads(name, threads))
    return next((row for row in found.table if row["system"] == system), None) if found else None


def _record(run: Run, suite: str, name: str) -> Record | None:
    found = (r for r in run.records if (r.suite, r.name) == (suite, name) and not (r.skipped or r.failed))
    return next(found, None)
