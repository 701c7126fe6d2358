"""A canonical graph as a PyTorch module, the shipped student's or a teacher's: what PyTorch would take for the same numbers.

The training checkpoint is not in a bundle. The weights are those of the float form of the graph (int8 weights dequantised),
with what export folded put back where PyTorch computes it itself; a test holds the outputs against that form's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge.bundle import Bundle
from edge.engines.graph_forms import strip_quantisers
from edge.errors import BundleError
from export.model.vit import HygromaViT, ViTConfig


class GreyStudent(nn.Module):
    """float [N,1,S,S] grey levels 0..255 -> (plane [N], hygroma [N], embedding [N,W], nuchal_map [N,G,G])."""

    def __init__(self, model: HygromaViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out = self.model(crops)
        return out.plane, out.hygroma, out.embedding, out.nuchal_map


def torch_student(bundle: Bundle) -> GreyStudent:
    """A bundle's own. BundleError when its graph is not one that `export.onnx_graph` wrote."""
    return torch_model(bundle.model, bundle.path)


def torch_model(model_bytes: bytes, name: str | Path) -> GreyStudent:
    """Of a graph that messages call `name`. BundleError when it is not one that `export.onnx_graph` wrote."""
    graph = onnx.load_from_string(strip_quantisers(model_bytes)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    try:
        model = HygromaViT(_config(arrays, nodes))
        conv = arrays["patch_embed.proj.weight"]
        model.patch_embed.proj = nn.Conv2d(1, conv.shape[0], conv.shape[2], conv.shape[2])
        state = {name: torch.from_numpy(_unfold(name, arrays, nodes, model.config)) for name in model.state_dict()}
        model.load_state_dict(state)
    except (KeyError, IndexError, StopIteration, RuntimeError) as error:
        raise BundleError(f"{name}: its graph is not one of `hygroma export` ({error!r})") from error
    return GreyStudent(model).eval()


def _config(arrays: dict[str, np.ndarray], nodes: dict[str, Any]) -> ViTConfig:
    conv = arrays["patch_embed.proj.weight"]
    depth = sum(name.endswith(".attn.qkv") for name in nodes)
    heads = int(arrays[nodes["blocks.0.attn.q.split"].input[1]][2])
    tap = 0
    if "tap_norm" in nodes:
        tap = 1 + int(nodes["tap_norm"].input[0].split(".")[1])  # the sum that ends a block: blocks.<i>.add2.out
    image = math.isqrt(arrays["pos_embed"].size // conv.shape[0] - 1) * conv.shape[2]  # one position is the class token's
    return ViTConfig(image, conv.shape[2], conv.shape[0], depth, heads, layer_scale=False, tap=tap)


def _unfold(name: str, arrays: dict[str, np.ndarray], nodes: dict[str, Any], config: ViTConfig) -> np.ndarray:
    """A parameter of HygromaViT without LayerScale, from the graph's constants."""
    if name == "cls_token":
        return np.zeros((1, 1, config.width), np.float32)  # part of the position embedding now
    if name == "pos_embed" or name.startswith("patch_embed"):
        return arrays[name].reshape(1, -1, config.width).copy() if name == "pos_embed" else arrays[name].copy()
    layer, kind = name.rsplit(".", 1)
    if "norm" in layer:
        return arrays[name].copy()
    node = nodes[layer]
    if kind == "weight":
        value = arrays[node.input[1]].T.astype(np.float32).copy()
        factor = next(
            (
                a
                for n, a in arrays.items()
                if layer.endswith("fc2") and n.startswith(layer[:-3]) and n.endswith(".factor")
            ),
            None,
        )
        value = value if factor is None else value * factor.reshape(1, -1)
    else:
        constants = [arrays[i] for i in nodes[f"{layer}.bias_add"].input if i in arrays]
        value = constants[0].reshape(-1)
    if layer.endswith("attn.qkv"):  # PyTorch divides by sqrt(head) itself
        scale = np.ones(3 * config.width, np.float32)
        scale[: config.width] = (config.width // config.heads) ** 0.5
        value = value * (scale[:, None] if value.ndim == 2 else scale)
    return np.array(value, np.float32)  # a copy that may be written
