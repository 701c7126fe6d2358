"""A run as JSON: written, read back, compared with another, and held against the budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import Record
from edge.errors import ConfigError, InputError
from edge.schema import Decoder
from edge.yaml_file import parse_yaml

SCHEMA = 1  # raised when an older reader would misread a newer file
BUDGETS = Path(__file__).with_name("budgets.yaml")
# Where these differ, two runs have no figure in common: nothing is to be judged.
MACHINE = (("cpu", "model"), ("cpu", "cores_usable"), ("cpu", "governor"), ("board",), ("nvpmodel",), ("threads",))
# What a change may be about; it is said.
SAME = (
    ("bundle", "sha256"),
    ("versions", "python"),
    ("versions", "numpy"),
    ("versions", "opencv-python-headless"),
    ("versions", "onnxruntime"),
    ("versions", "tensorrt"),
)


@dataclass(frozen=True)
class Run:
    """Everything that one `hygroma bench` measured. `environment`: see environment.py; `yardstick`: machine.Yardstick,
    the faster of before and after."""

    started: str  # ISO 8601, UTC
    seconds: float
    settings: dict[str, Any]
    environment: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    power: dict[str, Any]  # {"watts": {rail: mean}} or {"absent": why}
    yardstick: dict[str, float]
    records: list[Record]

    def to_json(self) -> dict[str, Any]:
        plain = {"schema": SCHEMA, **asdict(self)}
        for record in plain["records"]:
            del record["samples"]  # the distribution stands for them
        return plain


def write_run(path: Path, run: Run) -> None:
    """At once, or not at all. ConfigError when the file cannot be written."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(to_text(run) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file that this user may write"
        ) from None


def to_text(run: Run) -> str:
    """JSON with NaN and infinity refused: other languages' parsers would choke on them."""
    return json.dumps(run.to_json(), indent=1, allow_nan=False)


def read_run(path: Path) -> Run:
    """InputError for a file that is not a run of this schema."""
    decoder = Decoder("result", InputError)
    try:
        data = decoder.parse(path.read_bytes(), "it was cut off, or is another file")
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise InputError(f"its schema is not {SCHEMA}")
        run = decoder.dataclass(Run, data)
        for record in run.records:
            if record.distribution and "p50" not in record.distribution.percentiles:
                raise InputError(f"{record.name}: no median")
        return run
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a result of `hygroma bench --out`") from None
    except InputError as error:
        raise InputError(f"{path}: not a result of `hygroma bench --out` ({error}); measure again") from None


def no_longer_measured(old: Run, new: Run) -> list[str]:
    """Keys of what the old run measured and the new one, of the same suites, did not: a comparison cannot pass on these."""
    now = {record.key for record in new.records if not (record.skipped or record.failed)}
    return [
        record.key
        for record in old.records
        if record.suite in new.settings["suites"] and not (record.skipped or record.failed) and record.key not in now
    ]


@dataclass(frozen=True)
class Change:
    """One figure then and now. `worse`: how much, as a share of the old (negative: better). `verdict`: "slower" or "faster" (by
    more than allowed, and more than the two intervals explain), "unsure" (by more, but they overlap), or "same"."""

    key: str
    figure: str
    old: float
    new: float
    worse: float
    verdict: str


def compare(old: Run, new: Run, allowed: float) -> list[Change]:
    """Every median and every judged value that both runs have. allowed: share, 0.1 for 10 %."""
    before = {record.key: record for record in old.records}
    changes = []
    for record in new.records:
        was = before.get(record.key)
        if was is None:
            continue
        if record.distribution and was.distribution:
            a, b = was.distribution.percentiles["p50"], record.distribution.percentiles["p50"]
            spans = [(-math.inf if p.low is None else p.low, math.inf if p.high is None else p.high) for p in (a, b)]
            overlap = spans[0][0] <= spans[1][1] and spans[1][0] <= spans[0][1]
            changes.append(_change(record.key, "p50", a.value, b.value, 1, allowed, overlap))
        for name, direction in record.better.items():
            if name in record.values and name in was.values:
                sign = 1 if direction == "lower" else -1
                values = was.values[name], record.values[name]
                changes.append(_change(record.key, name, *values, sign, allowed, overlap=values[0] == values[1]))
    return changes


def _change(key: str, figure: str, old: float, new: float, sign: int, allowed: float, overlap: bool) -> Change:
    worse = sign * (new - old) / abs(old) if old else 0.0
    if abs(worse) <= allowed:
        verdict = "same"
    elif overlap:
        verdict = "unsure"
    else:
        verdict = "slower" if worse > 0 else "faster"
    return Change(key, figure, old, new, worse, verdict)


def differences(old: Run, new: Run) -> list[str]:
    """What makes two runs hard to compare, in words."""
    found = _changed(old, new, SAME)
    for key in sorted(set(old.settings) & set(new.settings) - {"suites"}):
        if old.settings[key] != new.settings[key]:
            found.append(f"{key}: {old.settings[key]} then, {new.settings[key]} now")
    return found


def other_machine(old: Run, new: Run) -> list[str]:
    """What says that two runs are of different machines, or the same one set differently, in words."""
    return _changed(old, new, MACHINE)


def _changed(old: Run, new: Run, paths: Sequence[tuple[str, ...]]) -> list[str]:
    both = [(path, *(_at(run.environment, path) for run in (old, new))) for path in paths]
    return [f"{'.'.join(path)}: {a} then, {b} now" for path, a, b in both if a != b]


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data


RULES = ("at_most_loops", "at_least_per_loop", "at_most")
Row = tuple[str, str, str, float]  # of budgets.yaml: a record's key, its figure, one of RULES, the value


@dataclass(frozen=True)
class Budget:
    """One line of budgets.yaml, held against a run. `limit` is in the figure's own unit on this machine; `found` is None when the
    run does not have the figure."""

    key: str
    figure: str
    limit: float
    found: float | None
    kept: bool


def check_budgets(run: Run, rows: Sequence[Row]) -> list[Budget]:
    """Budgets of the suites that were run. rows: what `read_budgets` gives."""
    loop_ms, ran = run.yardstick["loop_ms"], set(run.settings["suites"])
    records = {record.key: record for record in run.records}
    checked = []
    for key, figure, rule, value in rows:
        if key.split(":")[0] not in ran or (key in records and records[key].skipped):
            continue
        found = _figure(records.get(key), figure)
        limit = (
            value * loop_ms
            if rule == "at_most_loops"
            else value * 1000 / loop_ms
            if rule == "at_least_per_loop"
            else value
        )
        kept = found is not None and (found >= limit if rule == "at_least_per_loop" else found <= limit)
        checked.append(Budget(key, figure, limit, found, kept))
    return checked


def read_budgets(path: Path = BUDGETS) -> list[Row]:
    """Every line of the table. ConfigError names what is wrong."""
    try:
        rows = parse_yaml(path.read_bytes())
        found = []
        for row in rows:
            (rule,) = set(row) - {"case", "figure", "why"}
            if rule not in RULES:
                raise ValueError(f"{rule!r} is none of {', '.join(RULES)}")
            found.append((str(row["case"]), str(row["figure"]), rule, float(row[rule])))
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a table of budgets ({error}); every row has case, figure and one of {', '.join(RULES)}"
        ) from None


def _figure(record: Record | None, figure: str) -> float | None:
    if record is None:
        return None
    if figure in record.values:
        return record.values[figure]
    if record.distribution is None:
        return None
    if figure in record.distribution.percentiles:
        return record.distribution.percentiles[figure].value
    return getattr(record.distribution, figure, None) if figure in ("mean", "max", "jitter") else None
