"""Forms of the canonical graph that TensorRT wants, derived from `model.qdq.onnx` mechanically, on the build host.

- float: the quantisers stripped, int8 weights dequantised (so it has the canonical graph's weights, not the original ones);
- fp16: the float form, every float tensor FP16, for strongly typed networks;
- mixed: the canonical graph with every float tensor FP16, its quantisers' scales too, for strongly typed networks.

Inputs and outputs keep their types. Needs the `onnx` package (extra `tensorrt`), imported when called.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from edge.bundle.manifest import Tolerance
from edge.errors import EngineError

PRECISIONS = ("int8", "fp16", "mixed", "fp32")  # int8: the rest FP32; mixed: the rest FP16; fp32: nothing else

# How far a form may be from its FP32 sibling, over the golden images, in the units of Tolerance. FP16 keeps 11 bits;
# a rounding that moves a value across an int8 step moves it by a whole step, hence more for `mixed`.
FP16_TOLERANCE = Tolerance(probability=0.01, embedding=0.01, map=0.02)
MIXED_TOLERANCE = Tolerance(probability=0.10, embedding=0.06, map=0.2)

FP16_MAX = 65504.0
QUANTISED_FP16_OPSET = 19  # the first whose QuantizeLinear takes FP16
# Operators whose float tensors may all become FP16 and that mean the same from opset 17 to 19, but for ReduceMean,
# whose axes become an input at 18. Another operator is refused: someone must look at it first.
_KNOWN = frozenset((
    "Add", "Cast", "Concat", "Constant", "Conv", "DequantizeLinear", "Div", "Erf", "Gather", "Gelu", "Gemm",
    "Identity", "LayerNormalization", "MatMul", "Mul", "Pad", "QuantizeLinear", "ReduceMean", "Reshape",
    "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"
))  # fmt: skip


def graph_for(model: bytes, precision: str, strongly_typed: bool) -> bytes:
    """The canonical graph -> the graph to hand to TensorRT for one of PRECISIONS.

    EngineError for a graph that cannot be read or holds an operator that was never looked at.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision: found {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "int8" or (precision == "mixed" and not strongly_typed):
        return model
    if precision == "mixed":
        return half_typed(model)
    stripped = strip_quantisers(model)
    return half_typed(stripped) if precision == "fp16" and strongly_typed else stripped


def strip_quantisers(model: bytes) -> bytes:
    """Canonical graph -> the float form: QuantizeLinear and DequantizeLinear gone, weights in FP32."""
    onnx = _onnx()
    proto = _read(onnx, model)
    graph = proto.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "DequantizeLinear":
            source = node.input[0]
            if source in constants:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                value = _dequantise(constants[source], constants[node.input[1]], axis)
                graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
            elif source in quantised:
                renamed[node.output[0]] = quantised[source]
            else:
                raise EngineError(f"graph: {node.name}: dequantises {source}, which nothing quantises; export it again")
            continue
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
    _replace_nodes(graph, nodes)
    return bytes(proto.SerializeToString())


def half_typed(model: bytes) -> bytes:
    """A graph -> the same with every float tensor FP16 inside, its inputs and outputs unchanged; opset at least 19."""
    onnx = _onnx()
    proto = _read(onnx, model)
    graph, half, single = proto.graph, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    _raise_opset(onnx, proto, QUANTISED_FP16_OPSET)
    for tensor in graph.initializer:
        if tensor.data_type == single:
            tensor.CopyFrom(_half_tensor(onnx, tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = half
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == single:
                attribute.t.CopyFrom(_half_tensor(onnx, attribute.t))
    nodes = []
    inputs = {value.name: f"{value.name}.half" for value in graph.input if value.type.tensor_type.elem_type == single}
    outputs = {value.name: f"{value.name}.half" for value in graph.output if value.type.tensor_type.elem_type == single}
    for name, inner in inputs.items():
        nodes.append(onnx.helper.make_node("Cast", [name], [inner], name=inner, to=half))
    for node in graph.node:
        node.input[:] = [inputs.get(name, outputs.get(name, name)) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
        nodes.append(node)
    for name, inner in outputs.items():
        nodes.append(onnx.helper.make_node("Cast", [inner], [name], name=f"{name}.single", to=single))
    _replace_nodes(graph, nodes)
    onnx.checker.check_model(proto, full_check=True)  # strict about types: nothing may be left half converted
    return bytes(proto.SerializeToString())


def _onnx() -> Any:
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise EngineError(
            f"onnx: cannot be imported ({error}); `pip install onnx`, part of the extra `tensorrt`"
        ) from error
    return onnx


def _read(onnx: Any, model: bytes) -> Any:
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's own class, which differs between its versions
        raise EngineError(f"graph: cannot be read ({error}); fetch the bundle again") from error
    unknown = sorted({node.op_type for node in proto.graph.node} - _KNOWN)
    if unknown:
        raise EngineError(
            f"graph: found {', '.join(unknown)}; no FP16 form is known for that: build int8, or add it to graph_forms"
        )
    del proto.graph.value_info[:]  # inferred shapes would keep the old types
    return proto


def _dequantise(values: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    if scale.ndim:
        scale = scale.reshape([-1 if i == axis % values.ndim else 1 for i in range(values.ndim)])
    return np.asarray(values.astype(np.float32) * scale, np.float32)


def _half_tensor(onnx: Any, tensor: Any) -> Any:
    value = onnx.numpy_helper.to_array(tensor)
    top = float(np.abs(value).max(initial=0.0))
    if not top <= FP16_MAX:  # also for NaN
        raise EngineError(f"graph: {tensor.name} holds {top:g}; FP16 ends at {FP16_MAX:g}: build int8 or fp32")
    half = value.astype(np.float16)
    if tensor.name.endswith(".scale"):
        half = np.maximum(half, np.float16(2**-24))  # a scale that rounds to 0 is an error; this is FP16's smallest
    return onnx.numpy_helper.from_array(half, tensor.name)


def _raise_opset(onnx: Any, proto: Any, wanted: int) -> None:
    default = next(entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if default.version < 17:
        raise EngineError(f"graph: found opset {default.version}; expected 17 or newer; export it again")
    if default.version < 18:
        for node in proto.graph.node:
            axes = [a for a in node.attribute if node.op_type == "ReduceMean" and a.name == "axes"]
            if axes:
                constant = onnx.numpy_helper.from_array(np.array(axes[0].ints, np.int64), f"{node.name}.axes")
                proto.graph.initializer.append(constant)
                node.attribute.remove(axes[0])
                node.input.append(constant.name)
    if default.version < wanted:
        default.version = wanted
        proto.ir_version = max(proto.ir_version, 9)  # the IR that goes with opset 19


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Put `nodes` in place of the graph's, and drop the constants that nothing reads any more."""
    kept = list(nodes)
    used = {name for node in kept for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
