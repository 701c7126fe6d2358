"""What the rungs of `hygroma ladder` cost on this machine, in turn, and the page that sets it beside what they are worth. A rung
that was not trained can be timed all the same, with random weights: that is said, and it has no other figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import conditions, cpu, versions
from benchmarks.loops import interleaved
from benchmarks.models import calls_of
from benchmarks.samples import bootstrap, ratio_of_medians
from benchmarks.svg import Mark, scatter
from benchmarks.text import idle_warning
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner

LATENCY, PAGE, PLOT = "latency.json", "ladder.md", "ladder.svg"
TRAINED, RANDOM = "trained", "random, of that shape"  # weights that a latency was measured with
ROUNDS, CALLS = 60, 10  # of every rung: some 600 calls each, half a minute for six
CROPS = 16  # noise: what a picture shows does not change what a product costs
SHOWN = {"lesions": "simulated lesions", "planes": "planes, real"}  # kinds of evidence that are drawn
COLUMNS = (
    "rung", "input", "width x blocks", "parameters, M", "GMACs", "INT8 ms", "against own", "lesions (simulated)", "planes (real)",
    "increased by eye", "the same, painted out", "thickness", "the same, painted out", "teacher: hygroma", "teacher: plane",
    "INT8 gate",
)  # fmt: skip
COSTS = ("rung", "input", "width x blocks", "parameters, M", "GMACs", "INT8 ms", "against own", "weights")


def measure(
    graphs: Mapping[str, Path],
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    rounds: int = ROUNDS,
    calls: int = CALLS,
    untrained: Collection[str] = (),
) -> dict[str, Any]:
    """Milliseconds of one picture through each graph, one thread, ONNX Runtime, all graphs in turn in every round; also written
    to `latency.json` in `folder`. The first graph is the one that the others' ratios refer to; `untrained` names those with
    random weights. EngineError for a graph that does not load."""
    before = conditions()
    with ExitStack() as stack:
        works = {}
        for name, path in graphs.items():
            runner = stack.enter_context(OnnxRuntimeRunner(path, threads=1))
            crops = np.random.default_rng(0).integers(
                0, 256, (CROPS, 1, runner.input_size, runner.input_size), np.uint8
            )
            works[name] = stack.enter_context(calls_of(runner, crops))
        taken = interleaved(works, rounds, calls, tick=lambda done, total: progress("latency: rounds", done, total))
    own = next(iter(taken.values()))
    rungs = {}
    for name, ms in taken.items():
        low, high = bootstrap(lambda rows, ms=ms: float(np.median(ms[rows])), len(ms))  # type: ignore[misc]
        ratio, ratio_low, ratio_high = ratio_of_medians(ms, own)
        rungs[name] = {
            "median_ms": float(np.median(ms)),
            "low": low,
            "high": high,
            "p95_ms": float(np.quantile(ms, 0.95)),
            "calls": int(ms.size),
            "weights": RANDOM if name in untrained else TRAINED,
            "against_first": [ratio, ratio_low, ratio_high],
        }
    result = {
        "engine": "onnxruntime-cpu, INT8, 1 thread",
        "cpu": cpu(),
        "versions": versions(),
        "before": before,
        "after": conditions(),
        "rungs": rungs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LATENCY).write_text(json.dumps(result, indent=1) + "\n")
    return result


def write_page(table: Mapping[str, Any], folder: Path) -> Path:
    """`ladder.md` and `ladder.svg` of the table that `export.ladder.climb` returns, with the latencies where `folder` holds
    them. The plot is against GMACs until every rung has one; without a finished rung there is none."""
    path = folder / LATENCY
    latency = json.loads(path.read_text()) if path.is_file() else {"rungs": {}}
    if table["rungs"]:
        (folder / PLOT).write_text(plot(table, latency))
    (folder / PAGE).write_text(markdown(table, latency))
    return folder / PAGE


def markdown(table: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """The table as Markdown, what its columns mean below it; then what those cost that have nothing but a latency."""
    rows = [_row(row, latency["rungs"].get(row["name"])) for row in table["rungs"]]
    notes, lines = [], []
    if rows:
        rows.append(["teacher", "", "", "", "", "", "", *_evidence(table["rungs"][0]["teacher"]), "", "", ""])
        lines = _table(COLUMNS, rows)
        notes.append(
            f"All figures are of the INT8 graphs on fold {table['fold']}, held out of all rungs and of their teacher; brackets: "
            "95 % intervals. Lesions, planes, increased by eye: areas under the ROC curve. Thickness: rank correlation of the "
            "hygroma probability with the measured thickness of real stills; painted out: the same stills without their "
            "calipers. Teacher: Pearson's r of the logits with the teacher's, root mean square difference."
        )
    if table["unfinished"]:
        notes.append(f"Not finished: {', '.join(table['unfinished'])}.")
    if latency["rungs"]:
        load = latency["before"]["load_average"]
        timed = [(rung, latency["rungs"][rung["name"]]) for rung in table["shapes"] if rung["name"] in latency["rungs"]]
        notes += [
            f"Latency: {latency['engine']}, {latency['cpu']['model']}, all rungs in turn; median, 95 % interval over rounds.",
            *idle_warning(load),
        ]
        if not all(_of_trained(found) for _, found in timed):
            costs = [[*_size(rung), *_cost(found), TRAINED if _of_trained(found) else RANDOM] for rung, found in timed]
            notes.append("\n".join(_table(COSTS, costs)))
    else:
        notes.append("Latency: not measured yet; `hygroma ladder RECIPE --latency-only` on an idle machine.")
    return "\n".join([*lines, "", *(line for note in notes for line in (note, ""))])


def _row(row: Mapping[str, Any], latency: Mapping[str, Any] | None) -> list[str]:
    gate = row["conversion"]["gate"]
    how = "corrected" if row["conversion"]["corrected"] else ""
    how = f"{len(row['conversion']['spared'])} float" if row["conversion"]["spared"] else how
    said = f"{'passed' if gate['passed'] else 'FAILED'}{f' ({how})' if how else ''}; {gate['flips']} of {gate['n']} flipped"
    agreed = [
        f"r {row['agreement'][head]['r']:.3f}, {row['agreement'][head]['rms']:.2f}" for head in ("hygroma", "plane")
    ]
    cost = _cost(latency) if latency and _of_trained(latency) else ["", ""]
    return [*_size(row), *cost, *_evidence(row["evidence"]), *agreed, said]


def _size(rung: Mapping[str, Any]) -> list[str]:
    """The first cells of either table: name, input, width and blocks, parameters, multiply-adds."""
    a = rung["architecture"]
    return [
        f"**{rung['name']}**" if rung["own"] else rung["name"],
        str(a["image"]),
        f"{a['width']} x {a['depth']}",
        f"{rung['parameters'] / 1e6:.2f}",
        f"{rung['gmacs']:.2f}",
    ]


def _of_trained(latency: Mapping[str, Any]) -> bool:
    return bool(latency.get("weights", TRAINED) == TRAINED)  # a file from before there was a choice does not say


def _cost(latency: Mapping[str, Any]) -> list[str]:
    ratio, low, high = latency["against_first"]
    median = f"{latency['median_ms']:.2f} ({latency['low']:.2f}-{latency['high']:.2f})"
    return [median, f"{ratio:.2f} ({low:.2f}-{high:.2f})"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _evidence(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    kinds = ("lesions", "planes", "increased", "increased, cleaned", "thickness", "thickness, cleaned")
    return [_figure(found[kind]) if kind in found else "" for kind in kinds]


def _figure(f: Mapping[str, Any]) -> str:
    n = f"{f['positives']} of {f['n']}" if "positives" in f else f"n {f['n']}"
    return f"{f['value']:.3f} ({f['low']:.3f}-{f['high']:.3f}), {n}"


def plot(table: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """Areas under the ROC curve against the latency, as SVG; against GMACs until every rung has a latency."""
    rows = table["rungs"]
    timed = all(row["name"] in latency["rungs"] and _of_trained(latency["rungs"][row["name"]]) for row in rows)
    cost = {r["name"]: latency["rungs"][r["name"]]["median_ms"] if timed else r["gmacs"] for r in rows}
    series = {
        words: [
            Mark(row["name"], cost[row["name"]], **_span(row["evidence"][kind]))
            for row in rows
            if kind in row["evidence"]
        ]
        for kind, words in SHOWN.items()
    }
    name = "INT8 latency, ms, one thread" if timed else "GMACs"
    return scatter(
        series, name, "area under the ROC curve", f"Students: what they are worth against what they cost ({name})"
    )


def _span(figure: Mapping[str, Any]) -> dict[str, float]:
    return {"y": figure["value"], "low": figure["low"], "high": figure["high"]}
