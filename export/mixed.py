"""Mixed precision where plain INT8 misses the gate: the costliest block linears stay float, one more at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from edge.bundle.manifest import GateResult
from export.onnx_graph import build_float_graph
from export.ort_graph import run_graph
from export.quantize import Choice, agreement_error, block_linears, quantize
from export.vit import ViTConfig

# Linears of a student's twenty or so. A float product takes about three times its INT8 one; where four are not enough,
# the recipe is at fault, not the rounding of some layers.
MAX_SPARED = 4


@dataclass(frozen=True)
class Converted:
    """The INT8 graph, the names of the block linears it leaves float, and what its gate said."""

    model: onnx.ModelProto
    spared: tuple[str, ...]
    gate: GateResult


def ranked_linears(choice: Choice, config: ViTConfig, crops: np.ndarray, threads: int = 1) -> list[str]:
    """Names of the block linears, first the one whose sparing alone brings the graph nearest to the float one on crops uint8
    [N,1,S,S]: training images, never those of the gate."""
    graph = build_float_graph(choice.state, config)
    reference = run_graph(graph, crops, threads)

    def error(name: str) -> float:
        return agreement_error(reference, run_graph(quantize(graph, choice.limits, {name}), crops, threads))

    errors = {node.name: error(node.name) for node in block_linears(graph)}
    return sorted(errors, key=lambda name: errors[name])


def convert(
    choice: Choice,
    config: ViTConfig,
    selection: np.ndarray,
    judge: Callable[[onnx.ModelProto], GateResult],
    threads: int = 1,
) -> Converted:
    """The first graph that `judge` lets pass: every linear in INT8, or with one to MAX_SPARED spared. When none passes, the
    plain one with its verdict. selection: what linears are ranked on, see `ranked_linears`."""
    plain = Converted(choice.model, (), judge(choice.model))
    if plain.gate.passed:
        return plain
    graph = build_float_graph(choice.state, config)
    ranked = ranked_linears(choice, config, selection, threads)
    for count in range(1, min(MAX_SPARED, len(ranked)) + 1):
        spared = tuple(ranked[:count])
        model = quantize(graph, choice.limits, spared)
        verdict = judge(model)
        if verdict.passed:
            return Converted(model, spared, verdict)
    return plain
