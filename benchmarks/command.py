"""`hygroma bench`: measures, prints, writes, compares. `edge/cli/bench.py` has its arguments."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.case import Bench, Record
from benchmarks.environment import conditions, fingerprint
from benchmarks.machine import yardstick
from benchmarks.power import PowerMeter
from benchmarks.results import (
    Run,
    check_budgets,
    compare,
    differences,
    no_longer_measured,
    other_machine,
    read_budgets,
    read_run,
    to_text,
    write_run,
)
from benchmarks.suites import check_names, run_suites
from benchmarks.text import budgets_text, changes_text, markdown, terminal
from edge.errors import ConfigError, GateError
from edge.events.disk import why_unwritable
from edge.hardware import usable_cores

# Exit codes; what cannot be judged goes before a figure that is slower.
OK, INCOMPLETE, SLOWER = 0, 1, GateError.exit_code
SETTINGS = ("calls", "limit_s", "rate_hz", "events_max", "soak_frames", "soak_hours")  # of a Bench; a result names them


@dataclass(frozen=True)
class Request:
    """What the command line asked for. `allowed` is a share: .1 for 10 %; None: a slower figure does not matter."""

    suites: tuple[str, ...]
    bench: Bench  # what the cases are handed; its folder is made when they run
    form: str = "text"  # what is printed: text, json or markdown
    out: Path | None = None  # where the JSON goes as well
    compare: Path | None = None
    allowed: float | None = None
    budgets: bool = False


def bench(
    request: Request,
    note: Callable[[str, int, int], None],
    say: Callable[[str], None],
    remark: Callable[[str], None],
) -> int:
    """Runs the suites -> exit code. `note` moves a progress bar, `say` prints the result, `remark` what was made of it.

    InputError, ConfigError: a file or suite that cannot be used; found before anything is measured.
    """
    suites = check_names(request.suites)
    if request.bench.threads > usable_cores():
        raise ConfigError(f"--threads: found {request.bench.threads}; this process may use {usable_cores()} cores")
    old = read_run(request.compare) if request.compare else None
    if request.out and (problem := _why_not(request.out)):
        raise ConfigError(f"--out: {problem}; name a file that this user may write")
    budgets = read_budgets() if request.budgets else []
    with redirect_stdout(sys.stderr):  # what libraries print (NNCF does) must not stand in the result
        run = measure(request, suites, note)
    say({"text": terminal, "json": to_text, "markdown": markdown}[request.form](run))
    if request.out:
        write_run(request.out, run)
    code = INCOMPLETE if any(record.failed for record in run.records) else OK
    if request.budgets:
        held = check_budgets(run, budgets)
        remark("\n".join(["", "budgets", *budgets_text(held)]))
        if not all(budget.kept for budget in held):
            code = code or SLOWER
    if old is not None:
        code = code or _judge(old, run, request, remark)
    return code


def _judge(old: Run, run: Run, request: Request, remark: Callable[[str], None]) -> int:
    """Says what changed since `old`; SLOWER when that matters."""
    allowed = 0.1 if request.allowed is None else request.allowed
    changes, gone = compare(old, run, allowed), no_longer_measured(old, run)
    for key in gone:
        remark(f"NOT MEASURED NOW: {key}")
    for difference in differences(old, run):
        remark(f"NOT ALIKE: {difference}")
    if others := other_machine(old, run):
        remark(f"ANOTHER MACHINE: {'; '.join(others)}")
    remark("\n".join(["", f"against {request.compare}", *changes_text(changes, allowed)]))
    if request.allowed is None:
        return OK
    if not changes:
        remark("no figure in common: name the suites of the older run")
        return INCOMPLETE
    if gone or others:
        return INCOMPLETE
    return SLOWER if any(change.verdict == "slower" for change in changes) else OK


def _why_not(file: Path) -> str:
    """Why a file cannot be written; "" when it can."""
    if file.is_dir():
        return f"{file} is a folder"
    if file.exists() and not os.access(file, os.W_OK):
        return f"{file}: this user may not write it"
    return why_unwritable(file.parent)


@contextmanager
def _interruptible(records: list[Record]) -> Iterator[None]:
    """Ctrl-C ends the measuring, and loses nothing of what was measured."""
    try:
        yield
    except KeyboardInterrupt:
        records.append(Record("bench", "interrupted", failed="what was not measured by then is missing"))


def measure(request: Request, suites: tuple[str, ...], note: Callable[[str, int, int], None]) -> Run:
    """The suites between two looks at the machine."""
    started, start = datetime.now(timezone.utc), time.monotonic()
    before, stick = conditions(), yardstick()
    with tempfile.TemporaryDirectory(prefix="hygroma-bench-") as folder, PowerMeter() as power:
        records: list[Record] = []
        with _interruptible(records):
            run_suites(suites, replace(request.bench, folder=Path(folder), note=note), records.append)
    again = yardstick()
    stick = min(stick, again, key=lambda s: s.loop_ms)
    return Run(
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1),
        settings={"suites": list(suites)} | {name: getattr(request.bench, name) for name in SETTINGS},
        environment=fingerprint(request.bench.bundle, request.bench.threads),
        before=before,
        after=conditions(),
        power={"watts": power.watts} if power.watts else {"absent": power.absent},
        yardstick=stick.to_json(),
        records=records,
    )
