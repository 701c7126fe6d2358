"""A constant added to the INT8 graph's hygroma logit. Rounding tends to lower that logit; the constant makes up for it, so
that no positive of PyTorch's is lost at the operating point. The price is specificity; the gate's limit on flips bounds it.

Rounding moves a log-odds by a few hundredths either way, and some positives lie next to any operating point: without the
constant 6 of 2,002 were lost out of fold (bundle 0.4.0, simulated lesions).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from edge.errors import InputError
from export.atomic import intact
from export.int8.onnx_graph import build_float_graph
from export.int8.ort_graph import run_graph
from export.int8.quantize import Choice, FloatModel, quantize, quantize_best
from export.model.vit import ViTConfig

HEAD_BIAS = "hygroma_head.2.bias"
# Per cent of the crops whose logit the constant lifts back to PyTorch's.
# Of the positives only those right at the operating point can be lost, some 20 of
# 2,000 a unit of log-odds. Bundle 0.6's graphs, out of fold (n 5,150; 1,999 positives): 95 loses one, 97 to 98 lose none and flip
# 17 to 22, 99 flips more of fold 2 than the gate allows (12 of 1,299).
CENTILE = 97.5
NEAR = 2.0  # log-odds: where a decision may lie (probabilities of .12 to .88); heads that are sure move more, and it matters less
LEAST = 16  # fewest crops near even odds for a centile to mean something; with fewer, all crops count
# Training crops to measure it on: one in six of those that the head judges lies near even odds, and 300 tell their 97.5th centile
# to .02. From the 31 to 51 among 256 crops it was .10 to .22 where 300 said .16 to .22, and not in the same order.
SAMPLE = 1800


@dataclass(frozen=True)
class ShiftCrops:
    """The crops on which the constant is measured, uint8 [N,1,S,S] near even odds, and the float
    student's log-odds of them [N]."""

    crops: np.ndarray
    before: np.ndarray

    @classmethod
    def near(cls, state: Mapping[str, Tensor], config: ViTConfig, crops: np.ndarray, threads: int = 1) -> ShiftCrops:
        """Those near even odds among `crops`, uint8 [N,1,S,S] of training images that the hygroma head judges. state: of the
        float student. InputError when there is no crop."""
        if len(crops) == 0:
            raise InputError("crops for the logit offset: found none; give training images of assessable planes")
        before = run_graph(build_float_graph(state, config), crops, threads).hygroma
        telling = near_even(before)
        return cls(crops[telling], before[telling])

    def shift_for(self, model: onnx.ModelProto, threads: int = 1) -> float:
        """The constant that an INT8 graph without one needs, log-odds, 0 or more."""
        return shift_needed(self.before, run_graph(model, self.crops, threads).hygroma)


def quantize_shifted(model: FloatModel, shift_crops: ShiftCrops) -> Choice:
    """What `quantize_best` chooses, with the constant added. Every graph that is shipped or judged is made so. shift_crops: of
    the same float model."""
    best = quantize_best(model.state, model.config, model.calibration, model.selection, threads=model.threads)
    return shift_logit(best, model.config, shift_crops, threads=model.threads)


def shift_logit(
    choice: Choice, config: ViTConfig, shift_crops: ShiftCrops, kept_float: Collection[str] = (), threads: int = 1
) -> Choice:
    """The choice with the block linears `kept_float` left float and the constant measured for that rounding. A constant that
    the given choice already has is taken away first."""
    bias = choice.state[HEAD_BIAS] - choice.raised
    plain = quantize(build_float_graph({**choice.state, HEAD_BIAS: bias}, config), choice.limits, kept_float)
    raised = shift_crops.shift_for(plain, threads)
    shifted = {**choice.state, HEAD_BIAS: bias + raised}
    model = quantize(build_float_graph(shifted, config), choice.limits, kept_float)
    return replace(choice, model=model, state=shifted, raised=raised)


def shift_needed(before: np.ndarray, after: np.ndarray) -> float:
    """The constant for `after`, hygroma log-odds [N] of an INT8 graph without one, given PyTorch's, `before`: 0 or more."""
    return max(0.0, float(np.percentile((before - after)[near_even(before)], CENTILE)))


def near_even(log_odds: np.ndarray) -> np.ndarray:
    """bool [N]: those within NEAR of even odds; all where that leaves too few."""
    near = np.abs(log_odds) < NEAR
    return near if near.sum() >= LEAST else np.ones_like(near)


def read_shifts(graphs: Path, heads: Path, runs: Sequence[str]) -> dict[str, float]:
    """Run -> the constant in its graph in `graphs`: the graph's bias less the float head's, which `heads` keeps. A run that
    lacks either is left out. Not for weights fine-tuned with rounding, which moves the bias too."""
    out = {}
    for run in runs:
        graph, head = graphs / f"{run}.onnx", heads / f"{run}.pt"
        if graph.is_file() and head.is_file():
            with intact(head):
                unshifted = torch.load(head, weights_only=True)["hygroma"][HEAD_BIAS.removeprefix("hygroma_head.")]
            with intact(graph):
                stored = next(t for t in onnx.load(str(graph)).graph.initializer if t.name == HEAD_BIAS)
            out[run] = onnx.numpy_helper.to_array(stored).item() - unshifted.item()
    return out
