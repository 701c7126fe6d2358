"""Bias correction (arXiv 1906.04721, section 4.2): what rounding moves a block's branch by on average goes into its bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from export.int8.fake_quant import rounded_model
from export.int8.quantize import BATCH, BLOCK_PREFIX
from export.int8.smoothquant import State
from export.model.vit import HygromaViT, ViTConfig, normalise

BRANCH_ENDS = ("attn.proj", "mlp.fc2")  # all errors pass through them, and SmoothQuant leaves their outputs alone


@torch.no_grad()
def correct_biases(
    state: Mapping[str, Tensor],
    smoothed: Mapping[str, Tensor],
    config: ViTConfig,
    limits: Mapping[str, float],
    crops: np.ndarray,
) -> State:
    """The smoothed state with the mean of every branch's output as in the float student `state`, over crops uint8
    [N,1,S,S] of training images. limits: the largest |input|, by the linear's name. From the first branch to the last,
    since each sees what those before it made."""
    names = [f"{BLOCK_PREFIX}{i}.{end}" for i in range(config.depth) for end in BRANCH_ENDS]
    reference = HygromaViT(config).eval()
    reference.load_state_dict(dict(state))
    aims = _means(reference, names, crops)
    model = rounded_model(smoothed, config, limits)
    out = dict(smoothed)
    for name in names:
        shift = aims[name] - _means(model, [name], crops)[name]
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        linear.bias.add_(shift)
        out[f"{name}.bias"] = linear.bias.detach().clone()
    return out


def _means(model: nn.Module, names: list[str], crops: np.ndarray) -> dict[str, Tensor]:
    """The mean output [K] of the named linears over crops and tokens."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            total = output.double().mean(1).sum(0)
            sums[name] = sums[name] + total if name in sums else total

        return model.get_submodule(name).register_forward_hook(hook)

    hooks = [watch(name) for name in names]
    for start in range(0, len(crops), BATCH):
        model(normalise(torch.from_numpy(crops[start : start + BATCH])))
    for handle in hooks:
        handle.remove()
    return {name: (total / len(crops)).float() for name, total in sums.items()}
