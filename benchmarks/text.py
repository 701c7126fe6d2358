"""A run for people: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.case import Record
from benchmarks.environment import ABSENT
from benchmarks.results import Budget, Change, Run
from benchmarks.samples import PERCENTILES, Distribution, samples_needed

BLOCKS = " ▁▂▃▄▅▆▇█"
MARKS = (
    f"* fewer samples than MLPerf asks for that percentile (p50 {samples_needed(0.5):,}, p90 {samples_needed(0.9):,}, "
    f"p95 {samples_needed(0.95):,}, p99 {samples_needed(0.99):,}); ? too few for a 95 % interval with an upper end. "
    "Intervals take samples for independent, which neighbours in time are not: read them as the least that is uncertain"
)
FLAGS_SHOWN = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


def sparkline(counts: Sequence[int]) -> str:
    """One character a bin; a bin with anything in it is never blank."""
    top = max(counts, default=0)
    return "".join(BLOCKS[0 if not c else max(1, round(c / top * (len(BLOCKS) - 1)))] for c in counts)


def number(value: float) -> str:
    """Four digits that mean something."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.{2 if abs(value) < 100 else 1}f}"


def _cells(d: Distribution) -> list[str]:
    marked = [number(d.percentiles[f"p{p}"].value) + d.percentiles[f"p{p}"].mark for p in PERCENTILES]
    return [*marked, number(d.max), number(d.jitter), f"{d.n:,}"]


HEAD = ["", *(f"p{p}" for p in PERCENTILES), "max", "jitter", "n"]


def terminal(run: Run) -> str:
    """Tables by suite, then what was skipped or failed, then the machine."""
    lines: list[str] = []
    for suite in dict.fromkeys(record.suite for record in run.records):
        own = [record for record in run.records if record.suite == suite]
        shown = [record for record in own if record.distribution]
        wide = max([len(record.name) + len(record.unit) + 3 for record in shown] + [len(suite)])
        lines += ["", suite]
        if shown:
            lines.append(f"{'':<{wide}}" + "".join(f"{h:>10}" for h in HEAD[1:]) + "  smallest to largest, log scale")
        for record in shown:
            assert record.distribution is not None
            cells = "".join(f"{cell:>10}" for cell in _cells(record.distribution))
            name = f"{record.name} ({record.unit})"
            lines.append(f"{name:<{wide}}{cells}  {sparkline(record.distribution.histogram.counts)}")
        for record in own:
            if record.values:
                lines.append(f"  {record.name}: " + ", ".join(f"{k} {number(v)}" for k, v in record.values.items()))
            if record.table:
                lines += [f"  {record.name}:", *_columns(record.table)]
            else:
                lines += [f"  {record.name}: {x} | " + ", ".join(f"{number(a)}: {number(b)}" for a, b in points)
                          for x, points in record.series.items()]  # fmt: skip
            if record.skipped or record.failed:
                lines.append(
                    f"  {record.name}: {'SKIPPED' if record.skipped else 'FAILED'}: {record.skipped or record.failed}"
                )
            lines += [f"  {record.name}: {note}" for note in record.notes]
    return "\n".join([*lines, "", MARKS, "", *machine_lines(run)])


def _columns(table: Sequence[dict[str, float | str]]) -> list[str]:
    """A record's table for a terminal: words to the left, numbers to the right."""
    rows = _cells_of(table)
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["    " + "  ".join([row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True))])
            for row in rows]  # fmt: skip


def _cells_of(table: Sequence[dict[str, float | str]]) -> list[list[str]]:
    """The head of a table, and its rows; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in table for name in row))
    cells = [[row.get(name, "") for name in names] for row in table]
    return [names, *([value if isinstance(value, str) else number(value) for value in row] for row in cells)]


def machine_short(run: Run) -> str:
    """The machine and the day in a line, for a plot."""
    e, c = run.environment, run.environment["cpu"]
    board = "" if e["board"] == ABSENT else f"{e['board']}, "
    threads = f"{e['threads']} thread{'s' if e['threads'] > 1 else ''}"
    return f"{board}{c['model']}, {c['cores_usable']} of {c['cores']} cores, {threads} of inference; {run.started[:10]}"


def machine_lines(run: Run) -> list[str]:
    """The fingerprint in words."""
    e, c = run.environment, run.environment["cpu"]
    flags = [f for f in FLAGS_SHOWN if f in c["flags"]] if c["flags"] != ABSENT else []
    bundle = e["bundle"] if isinstance(e["bundle"], str) else e["bundle"]["label"]
    watts = run.power.get("watts")
    power = (
        ", ".join(f"{rail} {w:.2f} W" for rail, w in watts.items())
        if watts
        else f"absent: {run.power.get('absent', '')}"
    )
    return [
        f"{c['model']}{' (virtual)' if c['virtual'] else ''}, {c['cores_usable']} of {c['cores']} cores, {e['memory_mb']} MB; "
        f"board {e['board']}; {' '.join(flags)}",
        f"governor {c['governor']}; nvpmodel {e['nvpmodel']}; GPU {e['gpu']}; kernel {e['kernel']}",
        f"clocks before {_few(run.before['clocks_mhz'], 'MHz')}, after {_few(run.after['clocks_mhz'], 'MHz')}; "
        f"temperature before {_few(run.before['temperatures_c'], 'C')}, after {_few(run.after['temperatures_c'], 'C')}; "
        f"load average before {run.before['load_average']}, after {run.after['load_average']}",
        f"power, mean of the whole run: {power}",
        ", ".join(f"{name} {version}" for name, version in e["versions"].items()),
        f"bundle {bundle}; {e['threads']} thread{'s' if e['threads'] > 1 else ''}; git {e['git']}; {run.started}, took "
        f"{run.seconds:.0f} s; yardstick {run.yardstick['loop_ms']:.2f} ms",
        *busy(run),
    ]


def busy(run: Run) -> list[str]:
    """A warning when the machine had other work when the run began."""
    return idle_warning(run.before["load_average"])


def idle_warning(load: Any) -> list[str]:
    """The same, of a load average as `conditions` gives it."""
    if isinstance(load, list) and load[0] > 0.5:
        return [f"NOT IDLE: the load average was {load[0]} when the run began; these times are that work's too"]
    return []


def _few(values: Any, unit: str) -> str:
    if not isinstance(values, dict) or not values:
        return ABSENT
    low, high = min(values.values()), max(values.values())
    return f"{low:.0f} {unit}" if low == high else f"{low:.0f} to {high:.0f} {unit}"


def markdown(run: Run) -> str:
    """The run as one Markdown page."""
    lines = ["# hygroma bench", "", *(f"- {line}" for line in machine_lines(run)), ""]
    for suite in dict.fromkeys(record.suite for record in run.records):
        lines += [f"## {suite}", "", *records_markdown([record for record in run.records if record.suite == suite])]
    return "\n".join([*lines, MARKS]) + "\n"


def records_markdown(records: Sequence[Record]) -> list[str]:
    """One suite's table, and what stands beside it."""
    lines: list[str] = []
    shown = [record for record in records if record.distribution]
    if shown:
        lines += ["| " + " | ".join([*HEAD, "histogram"]) + " |", "|---|" + "---:|" * (len(HEAD) - 1) + "---|"]
        for record in shown:
            assert record.distribution is not None
            cells = [f"{record.name} ({record.unit})", *_cells(record.distribution)]
            lines.append(f"| {' | '.join(cells)} | `{sparkline(record.distribution.histogram.counts)}` |")
        lines.append("")
    for record in records:
        if record.values:
            lines.append(f"- {record.name}: " + ", ".join(f"{k} {number(v)}" for k, v in record.values.items()))
        if record.skipped or record.failed:
            lines.append(
                f"- {record.name}: **{'skipped' if record.skipped else 'FAILED'}**: {record.skipped or record.failed}"
            )
        lines += [f"- {record.name}: {note}" for note in record.notes]
        if record.table:
            lines += ["", *figures_table(*_cells_of(record.table)), ""]
    return [*lines, ""]


def figures_table(head: Sequence[str], *rows: Sequence[str]) -> list[str]:
    """A Markdown table with names in its first column and figures in the others."""
    return [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1), *(f"| {' | '.join(row)} |" for row in rows)]


def changes_text(changes: Sequence[Change], allowed: float) -> list[str]:
    """One line a figure, those that changed first."""
    order = {"slower": 0, "unsure": 1, "faster": 2, "same": 3}
    lines = [
        f"{c.verdict:<7}{c.worse:>+8.1%}  {c.key}, {c.figure}: {number(c.old)} then, {number(c.new)} now"
        for c in sorted(changes, key=lambda c: (order[c.verdict], -c.worse))
    ]
    slower = sum(c.verdict == "slower" for c in changes)
    return [
        *lines,
        f"{slower} of {len(changes)} figures are worse by more than {allowed:.0%} and more than their intervals explain",
    ]


def budgets_text(budgets: Sequence[Budget]) -> list[str]:
    return [
        f"{'ok' if b.kept else 'OVER':<6}{b.key}, {b.figure}: "
        f"{'not measured' if b.found is None else number(b.found)}, budget {number(b.limit)} on this machine"
        for b in budgets
    ]
