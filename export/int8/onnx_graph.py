"""HygromaViT -> ONNX float graph, built node by node from the state dict, so that nothing in it is an accident.

What is folded, all in float64: normalisation, the grey-to-RGB copy and 1/255 into the patch convolution (its stride is
its size and it has no padding, so no border sees the shift); 1/sqrt(head dim) into the query weights; LayerScale into
the weights before it. The class token and position embedding become one constant.

Biases of MatMuls are [1,1,K]: ONNX Runtime would fuse MatMul + Add of a one-dimensional bias into a float Gemm before
it looks for quantisation (docs/design.md#quantisation). Opset 17 (one LayerNormalization node; the newest TensorRT 8.6
takes), GELU by its Erf formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export.int8.smoothquant import MLP_SCALE
from export.model.vit import IMAGENET_MEAN, IMAGENET_STD, ViTConfig

OPSET = 17
IR_VERSION = 8  # the IR that goes with opset 17: ONNX Runtime 1.23 (Python 3.10) and TensorRT 8.6 read it


def fold_patch_embedding(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights float [W,3,P,P], bias [W] over normalised RGB -> float32 [W,1,P,P], [W] over grey levels 0..255 with the
    same result."""
    mean = np.asarray(IMAGENET_MEAN, np.float64)
    std = np.asarray(IMAGENET_STD, np.float64)
    scaled = weight.astype(np.float64) / std[None, :, None, None]
    folded = scaled.sum(1, keepdims=True) / 255.0
    shift = (scaled * mean[None, :, None, None]).sum((1, 2, 3))
    return folded.astype(np.float32), (bias.astype(np.float64) - shift).astype(np.float32)


class _Builder:
    """Collects nodes and initialisers. Every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[str, str] = {}

    def weight(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def constant(self, value: np.ndarray) -> str:
        """A shared small constant: shapes, axes, scalars."""
        key = f"{value.dtype}{value.shape}{value.tobytes().hex()}"
        if key not in self._constants:
            self._constants[key] = f"const.{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def scalar(self, kind: str, name: str, x: str, value: float) -> str:
        return self.op(kind, name, x, self.constant(np.array(value, np.float32)))

    def reshape(self, name: str, x: str, *shape: int) -> str:
        """0 keeps a dimension (the batch)."""
        return self.op("Reshape", name, x, self.constant(np.array(shape, np.int64)))

    def linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """`weight` [K_in, K_out] as MatMul wants it."""
        product = self.op("MatMul", name, x, self.weight(f"{name}.weight", weight))
        return self.op("Add", f"{name}.bias_add", product, self.weight(f"{name}.bias", bias.reshape(1, 1, -1)))

    def gelu(self, name: str, x: str) -> str:
        erf = self.op("Erf", f"{name}.erf", self.scalar("Div", f"{name}.div", x, math.sqrt(2.0)))
        return self.scalar(
            "Mul", f"{name}.half", self.op("Mul", f"{name}.mul", x, self.scalar("Add", f"{name}.add", erf, 1.0)), 0.5
        )


def build_float_graph(state: Mapping[str, torch.Tensor], config: ViTConfig) -> onnx.ModelProto:
    """State dict of HygromaViT(config), smoothed or not -> ONNX model.

    Input `image` uint8 [N,1,S,S]; outputs `plane` [N], `hygroma` [N] (logits), `embedding` [N,W], `nuchal_map` [N,G,G]
    (logits), float32; after them those of the model's further heads, [N] each, by their names.
    Matrix products in blocks are MatMul nodes named
    `blocks.<i>.(attn.qkv|attn.proj|mlp.fc1|mlp.fc2)`. KeyError for a missing weight.
    """
    p = {name: tensor.detach().to("cpu", torch.float64).numpy() for name, tensor in state.items()}
    b = _Builder()
    width, heads, grid = config.width, config.heads, config.grid
    head = width // heads

    conv_w, conv_b = fold_patch_embedding(p["patch_embed.proj.weight"], p["patch_embed.proj.bias"])
    x = b.op("Cast", "patch_embed.cast", "image", to=TensorProto.FLOAT)
    x = b.op(
        "Conv",
        "patch_embed.proj",
        x,
        b.weight("patch_embed.proj.weight", conv_w),
        b.weight("patch_embed.proj.bias", conv_b),
        kernel_shape=[config.patch] * 2,
        strides=[config.patch] * 2,
    )
    x = b.op(
        "Transpose", "patch_embed.tokens", b.reshape("patch_embed.flatten", x, 0, width, grid * grid), perm=[0, 2, 1]
    )
    # a row of zeros before the patches, then one addition: works for any N without a Shape or Expand node
    x = b.op("Pad", "cls_token.pad", x, b.constant(np.array([0, 1, 0, 0, 0, 0], np.int64)))
    position = p["pos_embed"].copy()
    position[:, 0] += p["cls_token"][:, 0]
    x = b.op("Add", "pos_embed.add", x, b.weight("pos_embed", position))

    def layer_norm(name: str, tokens: str) -> str:
        scale, shift = b.weight(f"{name}.weight", p[f"{name}.weight"]), b.weight(f"{name}.bias", p[f"{name}.bias"])
        return b.op("LayerNormalization", name, tokens, scale, shift, axis=-1, epsilon=config.eps)

    def linear(name: str, tokens: str, scale: np.ndarray | float = 1.0) -> str:
        """`scale` [K_out] multiplies the layer's output."""
        return b.linear(name, tokens, (p[f"{name}.weight"] * np.reshape(scale, (-1, 1))).T, p[f"{name}.bias"] * scale)

    def layer_scale(name: str) -> np.ndarray | float:
        return p[f"{name}.gamma"] if config.layer_scale else 1.0

    query_scale = np.concatenate([np.full(width, head**-0.5), np.ones(2 * width)])
    for i in range(config.depth):
        n = f"blocks.{i}"
        qkv = linear(f"{n}.attn.qkv", layer_norm(f"{n}.norm1", x), query_scale)
        parts = [f"{n}.attn.{part}" for part in ("q", "k", "v")]
        b.nodes.append(
            helper.make_node(
                "Split", [qkv, b.constant(np.array([width] * 3, np.int64))], parts, name=f"{n}.attn.split", axis=-1
            )
        )
        q, k, v = (
            b.op("Transpose", f"{part}.heads", b.reshape(f"{part}.split", part, 0, -1, heads, head), perm=perm)
            for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        attention = b.op("Softmax", f"{n}.attn.softmax", b.op("MatMul", f"{n}.attn.scores", q, k), axis=-1)
        mixed = b.op("Transpose", f"{n}.attn.merge", b.op("MatMul", f"{n}.attn.mix", attention, v), perm=[0, 2, 1, 3])
        y = linear(f"{n}.attn.proj", b.reshape(f"{n}.attn.join", mixed, 0, -1, width), layer_scale(f"{n}.ls1"))
        x = b.op("Add", f"{n}.add1", x, y)
        y = b.gelu(f"{n}.mlp.gelu", linear(f"{n}.mlp.fc1", layer_norm(f"{n}.norm2", x)))
        if f"{n}.{MLP_SCALE}" in p:
            y = b.op("Mul", f"{n}.{MLP_SCALE}", y, b.weight(f"{n}.{MLP_SCALE}.factor", p[f"{n}.{MLP_SCALE}"]))
        y = linear(f"{n}.mlp.fc2", y, layer_scale(f"{n}.ls2"))
        x = b.op("Add", f"{n}.add2", x, y)
        if i + 1 == config.tap:
            early = layer_norm("tap_norm", x)

    tokens = layer_norm("norm", x)
    bounds = [b.constant(np.array(v, np.int64)) for v in ([0], [1], [1 + grid * grid])]
    axis = b.constant(np.array([1], np.int64))
    cls = b.op("Slice", "tokens.cls", tokens, bounds[0], bounds[1], axis)
    patches = b.op("Slice", "tokens.patches", tokens, bounds[1], bounds[2], axis)
    mean = b.op("ReduceMean", "tokens.mean", patches, axes=[1], keepdims=1)
    map_logits = linear("map_head", patches)
    weights = b.op("Softmax", "map_head.softmax", b.reshape("map_head.row", map_logits, 0, 1, grid * grid), axis=-1)
    seen = patches
    if config.tap:
        early = b.op("Slice", "tap.patches", early, bounds[1], bounds[2], axis)
        seen = b.op("Concat", "tap.concat", patches, early, axis=-1)
    nuchal = b.op("MatMul", "map_head.pool", weights, seen)
    whole = b.op("Concat", "plane_head.concat", cls, mean, axis=-1)
    plane = linear("plane_head", whole)
    hidden = linear("hygroma_head.0", b.op("Concat", "hygroma_head.concat", nuchal, mean, axis=-1))
    hygroma = linear("hygroma_head.2", b.gelu("hygroma_head.1", hidden))
    others = [(head.name, linear(f"other_heads.{head.name}", whole)) for head in config.others]

    for output, tensor, shape in (
        ("plane", plane, [-1]),
        ("hygroma", hygroma, [-1]),
        ("embedding", mean, [-1, width]),
        ("nuchal_map", map_logits, [-1, grid, grid]),
        *((name, tensor, [-1]) for name, tensor in others),
    ):
        inputs = [tensor, b.constant(np.array(shape, np.int64))]
        b.nodes.append(helper.make_node("Reshape", inputs, [output], name=f"output.{output}"))
    graph = helper.make_graph(
        b.nodes,
        "hygroma_vit",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, config.image, config.image])],
        [
            helper.make_tensor_value_info("plane", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("hygroma", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width]),
            helper.make_tensor_value_info("nuchal_map", TensorProto.FLOAT, ["N", grid, grid]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name, _ in others),
        ],
        b.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="hygroma-edge")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model
