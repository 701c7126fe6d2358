"""Quantisation-aware fine-tuning: the INT8 graph's weights are trained to say what the float student says.

No label is used, and the ranges stay those of the post-training choice: the smoothed student trains with its block linears
rounded in the forward pass (int8/fake_quant.py), on the crops it was distilled on, towards the float student's outputs. Nothing
new is learned; what rounding did is undone. On the student it was tried on that gained nothing (docs/notebook/quantisation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.bank import Bank
from export.int8.fake_quant import rounded_model
from export.int8.onnx_graph import build_float_graph
from export.int8.quantize import Choice, linear_limits, quantize
from export.int8.smoothquant import MLP_SCALE
from export.model.vit import HygromaViT, ViTConfig, ViTOutputs
from export.training.train import Batch, Schedule, fit

MAP_WEIGHT = 0.1  # the map's logits are the widest of the outputs, and only their order matters
TOKEN_WEIGHT = 1.0  # of the last tokens' squared error, relative to their size


def agreement_loss(found: ViTOutputs, aim: ViTOutputs) -> Tensor:
    """Squared distances of the logits, the map and the last tokens from the float student's."""
    gap = (found.tokens - aim.tokens).square().sum(-1) / aim.tokens.square().sum(-1)
    return (
        F.mse_loss(found.hygroma, aim.hygroma)
        + F.mse_loss(found.plane, aim.plane)
        + MAP_WEIGHT * F.mse_loss(found.nuchal_map, aim.nuchal_map)
        + TOKEN_WEIGHT * gap.mean()
        + sum(F.mse_loss(said, aim.others[name]) for name, said in found.others.items())
    )


def finetune(
    choice: Choice,
    state: Mapping[str, Tensor],
    config: ViTConfig,
    bank: Bank,
    keep: np.ndarray,
    schedule: Schedule,
    checkpoint: Path,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Choice:
    """The float student `state` and its post-training choice -> a choice with the same ranges and fine-tuned weights.

    keep: the bank's entries that the student was trained on; held-out ones must not be among them. Goes on from `checkpoint`,
    which is written after every epoch and is this choice's only. Deterministic from the schedule's seed. On the CPU: an epoch
    or two, in float32."""
    reference = HygromaViT(config).eval()
    reference.load_state_dict(dict(state))
    model = rounded_model(choice.state, config, linear_limits(build_float_graph(choice.state, config), choice.limits))

    def loss(out: ViTOutputs, batch: Batch, x: Tensor) -> Tensor:
        with torch.no_grad():
            aim = reference(x)
        aim = replace(aim, hygroma=aim.hygroma + choice.raised)  # or training would undo the logit offset
        return agreement_loss(out, aim)

    # float32: bfloat16 has 8 bits for a level and its step, and would round what is being rounded
    fit(model, bank, keep, schedule, checkpoint, loss, on_epoch, faster=False)
    scales = {name: tensor for name, tensor in choice.state.items() if name.endswith(MLP_SCALE)}
    tuned = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()} | scales
    return replace(
        choice,
        model=quantize(build_float_graph(tuned, config), choice.limits),
        state=tuned,
        finetuned=f"{schedule.epochs} epochs at {schedule.lr:g}",
    )
