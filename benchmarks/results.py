"""A run as JSON: written, read back, compared with another, and held against the budgets."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.case import Record
from benchmarks.samples import Distribution, Histogram, Percentile
from edge.errors import ConfigError, InputError

SCHEMA = 1  # raised when an older reader would misread a newer file
BUDGETS = Path(__file__).with_name("budgets.yaml")
SAME = (
    ("cpu", "model"),
    ("cpu", "cores_usable"),
    ("cpu", "governor"),
    ("board",),
    ("nvpmodel",),
    ("threads",),
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
        return {"schema": SCHEMA, **asdict(self)}


def write_run(path: Path, run: Run) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_text(run) + "\n", encoding="utf-8")


def to_text(run: Run) -> str:
    """JSON with NaN and infinity refused: other languages' parsers would choke on them."""
    return json.dumps(run.to_json(), indent=1, allow_nan=False)


def read_run(path: Path) -> Run:
    """InputError for a file that is not a run of this schema."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return Run(**{**data, "records": [_record(item) for item in data["records"]]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result of `hygroma bench --json` ({error!r}); measure again") from None


def _record(item: dict[str, Any]) -> Record:
    found = item.pop("distribution")
    if found is not None:
        percentiles = {name: Percentile(**value) for name, value in found.pop("percentiles").items()}
        found = Distribution(**{**found, "percentiles": percentiles, "histogram": Histogram(**found["histogram"])})
    item["series"] = {name: [(x, y) for x, y in points] for name, points in item["series"].items()}
    return Record(**{**item, "distribution": found, "axes": tuple(item["axes"]), "notes": tuple(item["notes"])})


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
    """One figure then and now. `worse`: how much, as a share of the old (negative: better). `verdict`: "slower" (worse by more
    than allowed, and more than the two intervals explain), "unsure" (worse by more, but they overlap), "faster", or "same"."""

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
    if worse > allowed:
        verdict = "unsure" if overlap else "slower"
    else:
        verdict = "faster" if worse < -allowed and not overlap else "same"
    return Change(key, figure, old, new, worse, verdict)


def differences(old: Run, new: Run) -> list[str]:
    """What makes two runs hard to compare, in words."""
    found = []
    for path in SAME:
        a, b = (_at(run.environment, path) for run in (old, new))
        if a != b:
            found.append(f"{'.'.join(path)}: {a} then, {b} now")
    for key in sorted(set(old.settings) | set(new.settings)):
        if old.settings.get(key) != new.settings.get(key) and key != "suites":
            found.append(f"{key}: {old.settings.get(key)} then, {new.settings.get(key)} now")
    return found


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data


@dataclass(frozen=True)
class Budget:
    """One line of budgets.yaml, held against a run. `limit` is in the figure's own unit on this machine; `found` is None when the
    run does not have the figure."""

    key: str
    figure: str
    limit: float
    found: float | None
    kept: bool


def check_budgets(run: Run, path: Path = BUDGETS) -> list[Budget]:
    """Budgets of the suites that were run. ConfigError for a table that cannot be read."""
    loop_ms, ran = run.yardstick["loop_ms"], set(run.settings["suites"])
    records = {record.key: record for record in run.records}
    checked = []
    for key, figure, rule, value in read_budgets(path):
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


RULES = ("at_most_loops", "at_least_per_loop", "at_most")


def read_budgets(path: Path = BUDGETS) -> list[tuple[str, str, str, float]]:
    """(record's key, figure, one of RULES, value) of every line. ConfigError names what is wrong."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = []
        for row in rows:
            (rule,) = set(row) - {"case", "figure", "why"}
            if rule not in RULES:
                raise ValueError(f"{rule!r} is none of {', '.join(RULES)}")
            found.append((str(row["case"]), str(row["figure"]), rule, float(row[rule])))
        return found
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
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
