"""SmoothQuant (arXiv 2211.10438), folded into weights: large input channels of a linear are shrunk, its weights grown.

Exact in float. The factors of qkv and fc1 go into the LayerNorm before them, those of proj into the values' rows of qkv.
fc2 follows GELU, which no factor passes through: its factors become one multiplication more in the graph (MLP_SCALE). It is
worth that: of the 0.2 student's change in the plane's probability by INT8, root mean square .0216, all but .0058 came
from fc2, whose input has a few channels 50 times the others (128 training crops).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from export.model.vit import HygromaViT, ViTConfig, normalise

State = dict[str, Tensor]
LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
MLP_SCALE = "mlp.scale"  # in a block of a smoothed state: what fc2's input is multiplied by, [4W]
BATCH = 32  # crops a call: bounds the memory held by activations
MAX_FACTOR = 32.0  # a channel that is almost never alive must not blow up its weights


@torch.no_grad()
def input_peaks(state: Mapping[str, Tensor], config: ViTConfig, crops: np.ndarray) -> dict[str, Tensor]:
    """Largest |x| of every input channel [K] of each linear of LINEARS, by name, on crops uint8 [N,1,S,S]."""
    model = HygromaViT(config).eval()
    model.load_state_dict(state)
    peaks: dict[str, Tensor] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            top = inputs[0].abs().flatten(0, -2).amax(0)
            peaks[name] = torch.maximum(peaks[name], top) if name in peaks else top

        module.register_forward_pre_hook(hook)

    for i, block in enumerate(model.blocks):
        for linear in LINEARS:
            watch(f"blocks.{i}.{linear}", block.get_submodule(linear))
    for start in range(0, len(crops), BATCH):
        model(normalise(torch.from_numpy(crops[start : start + BATCH])))
    return peaks


def smooth(state: Mapping[str, Tensor], config: ViTConfig, peaks: Mapping[str, Tensor], alpha: float) -> State:
    """A state dict with the same outputs in float, whose linears' inputs are easier to quantise: for `build_float_graph`.

    alpha in [0,1]: how much of the difficulty moves from activations to weights; 0 leaves the weights alone.
    """
    out = {name: tensor.clone() for name, tensor in state.items()}
    width = config.width
    for name, peak in peaks.items():
        block, linear = name.split(".attn.")[0].split(".mlp.")[0], name
        weight = out[f"{linear}.weight"]
        factor = peak.clamp(min=1e-5) ** alpha / weight.abs().amax(0).clamp(min=1e-5) ** (1 - alpha)
        factor = (factor / factor.log().mean().exp()).clamp(1 / MAX_FACTOR, MAX_FACTOR)
        out[f"{linear}.weight"] = weight * factor
        if name.endswith("attn.proj"):
            out[f"{block}.attn.qkv.weight"][2 * width :] /= factor[:, None]
            out[f"{block}.attn.qkv.bias"][2 * width :] /= factor
        elif name.endswith("mlp.fc2"):
            out[f"{block}.{MLP_SCALE}"] = 1 / factor
        else:
            norm = f"{block}.norm{1 if name.endswith('qkv') else 2}"
            out[f"{norm}.weight"] /= factor
            out[f"{norm}.bias"] /= factor
    return out
