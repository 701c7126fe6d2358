"""The lean: how far rounding pulls a hygroma's log-odds down is added to the INT8 graph's, so that at the operating point
rounding loses none that PyTorch finds. What it costs is specificity, and the gate's limit on flips bounds that.

Rounding moves a log-odds by a few hundredths either way, and wherever the operating point lies some positives lie next to it:
without a lean 6 of 2,002 were lost out of fold (bundle 0.4.0, simulated lesions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from export.atomic import intact
from export.onnx_graph import build_float_graph
from export.ort_graph import run_graph
from export.quantize import Choice, quantize, quantize_best
from export.vit import ViTConfig

HEAD_BIAS = "hygroma_head.2.bias"
# Per cent of the falls that it makes up for. Of the positives only those right at the operating point can be lost, some 20 of
# 2,002 a unit of log-odds: with .15 of rounding noise the 95th centile leaves .06 of one to be lost. The largest fall of all was
# twice as much and flipped more decisions of healthy stills than the gate allows (10 of 1,265, fold 0).
CENTILE = 95
NEAR = 2.0  # log-odds: where a decision may lie (probabilities of .12 to .88); heads that are sure move more, and it matters less
LEAST = 16  # crops near it for a centile of their falls to mean something; with fewer, all crops count


def quantize_leaning(
    state: Mapping[str, Tensor], config: ViTConfig, calibration: np.ndarray, selection: np.ndarray, threads: int = 1
) -> Choice:
    """What `quantize_best` chooses, leaning: how every graph is made that is shipped or judged. The crops are as there."""
    choice = quantize_best(state, config, calibration, selection, threads=threads)
    return lean(choice, state, config, np.concatenate([calibration, selection]), threads)


def lean(choice: Choice, state: Mapping[str, Tensor], config: ViTConfig, crops: np.ndarray, threads: int = 1) -> Choice:
    """The choice with its hygroma log-odds raised by what all but a few falls that rounding made on `crops` stay under, uint8
    [N,1,S,S] of training images; never lowered. state: of the float student that the choice was made of."""
    before = run_graph(build_float_graph(state, config), crops, threads).hygroma
    after = run_graph(choice.model, crops, threads).hygroma
    raised = fall_made_up(before, after)
    leaning = {**choice.state, HEAD_BIAS: choice.state[HEAD_BIAS] + raised}
    model = quantize(build_float_graph(leaning, config), choice.limits)
    return replace(choice, model=model, state=leaning, raised=raised)


def fall_made_up(before: np.ndarray, after: np.ndarray) -> float:
    """What hygroma log-odds [N] of an INT8 graph, `after`, are raised by, given PyTorch's: 0 or more."""
    near = np.abs(before) < NEAR
    fall = (before - after)[near if near.sum() >= LEAST else np.ones_like(near)]
    return max(0.0, float(np.percentile(fall, CENTILE)))


def read_leans(graphs: Path, heads: Path, runs: Sequence[str]) -> dict[str, float]:
    """Run -> how far its graph in `graphs` leans: its bias less that of the float head, which `heads` keeps. A run that lacks
    either is left out. Not for weights fine-tuned with rounding, which moves the bias too."""
    out = {}
    for run in runs:
        graph, head = graphs / f"{run}.onnx", heads / f"{run}.pt"
        if graph.is_file() and head.is_file():
            with intact(head):
                upright = torch.load(head, weights_only=True)["hygroma"][HEAD_BIAS.removeprefix("hygroma_head.")]
            with intact(graph):
                stored = next(t for t in onnx.load(str(graph)).graph.initializer if t.name == HEAD_BIAS)
            out[run] = onnx.numpy_helper.to_array(stored).item() - upright.item()
    return out
