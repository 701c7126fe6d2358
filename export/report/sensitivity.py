"""What INT8 costs, layer by layer: quantising one block linear alone, and sparing one alone, against the float graph.

Then mixed precision: the costliest linears stay float, one more at a time, until the gate passes. A linear's cost is measured
against the float graph of the same weights, logit offset (log_odds_shift.py) included, so that it cancels. In the search each
graph has an offset measured for its own rounding; the gate is the bundle's, against the float student, which has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from edge.bundle.manifest import GateResult
from edge.engines.runner import RawOutputs
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from export.atomic import appearing
from export.int8.log_odds_shift import ShiftCrops, shift_logit
from export.int8.onnx_graph import build_float_graph
from export.int8.ort_graph import run_graph
from export.int8.quantize import Choice, FloatModel, block_linears, quantize
from export.report import metrics
from export.report.gate import DEFAULT_LIMITS, GateLimits, gate

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cost:
    """A graph against the float one. rms and max of |dp| of both heads; flips: hygroma decisions that changed; auc_drop:
    of the hygroma head, positive when INT8 is worse."""

    hygroma_rms: float
    hygroma_max: float
    plane_rms: float
    plane_max: float
    flips: int
    auc_drop: float


@dataclass(frozen=True)
class LayerCost:
    """only: this linear is int8, all others float. spared: this linear is float, all others int8."""

    layer: str
    only: Cost
    spared: Cost


@dataclass(frozen=True)
class Step:
    """One graph of the mixed-precision search: the linears it leaves float, and the gate's answer."""

    spared: tuple[str, ...]
    gate: GateResult


@dataclass(frozen=True)
class Sensitivity:
    """n, positives: of the crops measured on. all: every linear in int8. layers: in the graph's order. search: its last
    step passed the gate, unless every linear was float. All but the search are against the float graph of the same weights."""

    n: int
    positives: int
    threshold: float
    all: Cost
    layers: tuple[LayerCost, ...]
    search: tuple[Step, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """Crops uint8 [N,1,S,S] with hygroma labels {0,1} [N], none of them trained or calibrated on; the hygroma head's
    operating point as a probability."""

    crops: np.ndarray
    labels: np.ndarray
    threshold: float


def sensitivity(
    graph: onnx.ModelProto,
    limits: Mapping[str, float],
    data: Measured,
    gate_limits: GateLimits = DEFAULT_LIMITS,
    threads: int = 1,
    progress: Report = lambda what, done, total: None,
    student: onnx.ModelProto | None = None,
    candidate: Callable[[tuple[str, ...]], onnx.ModelProto] | None = None,
) -> Sensitivity:
    """Float graph + the largest |x| of each block linear's input -> the cost of every linear, and the search.

    student: the float graph that the gate holds every step against, where it is another than `graph`, which may lean.
    candidate: the search's graph with these linears left float; without it `graph` quantised so.
    InputError when the labels do not match the crops or hold one class only: no area, no gate.
    """
    positive = np.asarray(data.labels).astype(bool)
    if len(positive) != len(data.crops) or positive.all() or not positive.any():
        raise InputError(
            f"sensitivity: found {len(data.crops)} crops, {len(positive)} labels, {int(positive.sum())} of them positive; "
            "give as many labels as crops, of both classes"
        )
    names = [n.name for n in block_linears(graph)]
    reference = run_graph(graph, data.crops, threads)

    def quantised(spared: Collection[str]) -> onnx.ModelProto:
        return quantize(graph, limits, spared)

    def measured(spared: Collection[str]) -> Cost:
        found = run_graph(quantised(spared), data.crops, threads)
        return cost(reference, found, positive, data.threshold)

    layers = []
    for done, name in enumerate(names):
        progress("sensitivity", done, len(names))
        layers.append(LayerCost(name, measured([n for n in names if n != name]), measured([name])))
    steps: list[Step] = []
    ranked = [c.layer for c in sorted(layers, key=lambda c: (c.spared.hygroma_rms, -c.only.hygroma_rms))]
    ids = [str(i) for i in range(len(positive))]
    before = sigmoid((reference if student is None else run_graph(student, data.crops, threads)).hygroma)
    for count in range(len(ranked) + 1):
        spared = tuple(ranked[:count])
        found = sigmoid(run_graph((candidate or quantised)(spared), data.crops, threads).hygroma)
        step = gate(data.labels, before, found, data.threshold, ids, gate_limits)
        steps.append(Step(spared, step))
        if step.passed:
            break
    return Sensitivity(len(positive), int(positive.sum()), data.threshold, measured(()), tuple(layers), tuple(steps))


@dataclass(frozen=True)
class Study:
    """A sensitivity, and what it was measured on, in words."""

    model: str  # the recipe's name and version, and which of its runs
    data: str
    quantisation: str
    result: Sensitivity

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def markdown(self) -> str:
        return f"{self.model}. {self.data}. {self.quantisation}.\n\n{markdown(self.result)}"


def study(
    model: str, student: FloatModel, choice: Choice, shift_crops: ShiftCrops, measured: Measured, progress: Report
) -> Study:
    """The sensitivity of a student (`model` in words) on images that it never saw. choice: how it is quantised; shift_crops:
    where its logit offset is measured."""
    config, threads = student.config, student.threads
    graph = build_float_graph(choice.state, config)

    def candidate(spared: tuple[str, ...]) -> onnx.ModelProto:
        """What `hygroma bundle` would judge; the choice's own graph keeps its logit offset."""
        return shift_logit(choice, config, shift_crops, spared, threads).model if spared else choice.model

    result = sensitivity(
        graph,
        choice.limits,
        measured,
        threads=threads,
        progress=progress,
        student=build_float_graph(student.state, config),
        candidate=candidate,
    )
    return Study(
        model,
        "Held-out stills, shams and simulated lesions; positives are simulated",
        choice.described(),
        result,
    )


def write_study(found: Study, folder: Path) -> None:
    """sensitivity.json, sensitivity.md and sensitivity.svg."""
    for suffix, text in (
        ("json", json.dumps(found.to_dict(), indent=1) + "\n"),
        ("md", found.markdown()),
        ("svg", svg(found.result)),
    ):
        with appearing(folder / f"sensitivity.{suffix}") as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def cost(reference: RawOutputs, found: RawOutputs, positive: np.ndarray, threshold: float) -> Cost:
    """Of `found` against `reference`; positive: bool [N], of both classes; threshold: a probability."""
    before, after = sigmoid(reference.hygroma), sigmoid(found.hygroma)
    hygroma = np.abs(after - before)
    plane = np.abs(sigmoid(found.plane) - sigmoid(reference.plane))
    return Cost(
        float(np.sqrt(np.mean(hygroma**2))),
        float(hygroma.max()),
        float(np.sqrt(np.mean(plane**2))),
        float(plane.max()),
        int(((before >= threshold) != (after >= threshold)).sum()),
        float(metrics.auc(positive, before).value - metrics.auc(positive, after).value),
    )


def markdown(result: Sensitivity) -> str:
    """A row per linear; the last lines tell the search."""
    head = "rms dp | max dp | plane rms | plane max | flips | AUC drop"
    lines = [
        f"n = {result.n} crops, {result.positives} positive; threshold {result.threshold:.4f}; against the float graph.",
        "",
        f"| linear | int8 | {head} |",
        "|---|---|" + "---:|" * 6,
        _row("all", "all", result.all),
    ]
    for layer in result.layers:
        lines += [_row(layer.layer, "only it", layer.only), _row(layer.layer, "all but it", layer.spared)]
    lines += ["", "Mixed precision, the linear that leaves the least change when it stays float first:", ""]
    for step in result.search:
        said = "passes" if step.gate.passed else "; ".join(step.gate.reasons)
        lines.append(f"- {', '.join(step.spared) or 'none'} kept in float: {said}")
    return "\n".join(lines) + "\n"


def _row(name: str, form: str, c: Cost) -> str:
    dp = f"{c.hygroma_rms:.5f} | {c.hygroma_max:.5f} | {c.plane_rms:.5f} | {c.plane_max:.5f}"
    return f"| {name} | {form} | {dp} | {c.flips} | {c.auc_drop:+.5f} |"


ROW, LEFT, WIDTH = 18, 220, 420  # of the plot, pixels: a line of text, the names, the longest bar


def svg(result: Sensitivity) -> str:
    """Bars per linear: rms dp of the hygroma head when only it is int8 (dark), and what keeping it float saves (light)."""
    saved = [max(0.0, result.all.hygroma_rms - c.spared.hygroma_rms) for c in result.layers]
    top = max([c.only.hygroma_rms for c in result.layers] + saved) or 1.0
    parts = [
        '<text x="4" y="13">rms change of the hygroma probability: int8 alone (dark), saved by keeping it float (light)</text>'
    ]
    for i, (layer, save) in enumerate(zip(result.layers, saved, strict=True)):
        y = (i + 1) * ROW
        parts.append(f'<text x="{LEFT - 6}" y="{y + 13}" text-anchor="end">{layer.layer}</text>')
        for value, shift, colour in ((layer.only.hygroma_rms, 2, "#1f4e79"), (save, 9, "#9dc3e6")):
            parts.append(
                f'<rect x="{LEFT}" y="{y + shift}" width="{value / top * WIDTH:.1f}" height="6" fill="{colour}"/>'
            )
        parts.append(f'<text x="{LEFT + WIDTH + 6}" y="{y + 13}">{layer.only.hygroma_rms:.5f}</text>')
    size = f'width="{LEFT + WIDTH + 80}" height="{(len(result.layers) + 2) * ROW}" style="background:#fff"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">{"".join(parts)}</svg>\n'
