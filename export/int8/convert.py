"""What is done where plain INT8 misses the gate: biases are corrected; if that does not do, mixed precision: the costliest
block linears stay float, one more at a time; if that does not do and the recipe asks for it, weights are fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from edge.bundle.manifest import GateResult
from export.int8.fake_quant import correct_biases
from export.int8.log_odds_shift import ShiftCrops, shift_logit
from export.int8.onnx_graph import build_float_graph
from export.int8.ort_graph import run_graph
from export.int8.quantize import Choice, FloatModel, agreement_error, block_linears, linear_limits, quantize
from export.model.vit import ViTConfig

# Linears of a student's twenty or so. A float product takes about three times its INT8 one; where four are not enough,
# the recipe is at fault, not the rounding of some layers.
MAX_FLOAT = 4


@dataclass(frozen=True)
class Converted:
    """How the student is quantised, the names of the block linears left float, what the graph's gate said, and whether its biases
    were corrected, or its weights fine-tuned."""

    choice: Choice
    kept_float: tuple[str, ...]
    gate: GateResult
    corrected: bool = False
    finetuned: bool = False

    @property
    def model(self) -> onnx.ModelProto:
        return self.choice.model


def ranked_linears(choice: Choice, config: ViTConfig, crops: np.ndarray, threads: int = 1) -> list[str]:
    """Names of the block linears, first the one that, kept in float alone, brings the graph nearest to the float graph, on
    crops uint8 [N,1,S,S]: training images, never those of the gate."""
    graph = build_float_graph(choice.state, config)
    reference = run_graph(graph, crops, threads)

    def error(name: str) -> float:
        return agreement_error(reference, run_graph(quantize(graph, choice.limits, {name}), crops, threads))

    errors = {node.name: error(node.name) for node in block_linears(graph)}
    return sorted(errors, key=lambda name: errors[name])


def convert(
    choice: Choice,
    student: FloatModel,
    shift_crops: ShiftCrops,
    judge: Callable[[onnx.ModelProto], GateResult],
    finetune: Callable[[Choice], Choice] | None = None,
) -> Converted:
    """The first graph that `judge` lets pass: every linear in INT8; the same with corrected biases; one to MAX_FLOAT linears
    kept in float; every linear in INT8 after `finetune` (see int8/qat.py). When none passes, the first with its verdict. Each
    graph has a logit offset measured for its own rounding; one of fine-tuned weights has the offset that they were trained with.

    student, shift_crops: what `choice` was made of; its crops serve the corrections and the ranking of the linears. At most
    3 + MAX_FLOAT graphs are judged on the gate's images."""
    config, threads = student.config, student.threads
    plain = Converted(choice, (), judge(choice.model))
    if plain.gate.passed:
        return plain
    graph = build_float_graph(choice.state, config)
    mended = correct_biases(student, choice.state, linear_limits(graph, choice.limits))
    found = shift_logit(replace(choice, state=mended), config, shift_crops, threads=threads)
    verdict = judge(found.model)
    if verdict.passed:
        return Converted(found, (), verdict, corrected=True)
    ranked = ranked_linears(choice, config, student.selection, threads)
    for count in range(1, min(MAX_FLOAT, len(ranked)) + 1):
        kept_float = tuple(ranked[:count])
        found = shift_logit(choice, config, shift_crops, kept_float, threads)
        verdict = judge(found.model)
        if verdict.passed:
            return Converted(found, kept_float, verdict)
    if finetune is not None:
        found = finetune(choice)
        verdict = judge(found.model)
        if verdict.passed:
            return Converted(found, (), verdict, finetuned=True)
    return plain
