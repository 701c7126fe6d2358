"""What ONNX Runtime really runs: the graph after its optimiser, and which matrix products of it are INT8."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from edge.engines.onnxruntime_runner import OnnxRuntimeRunner, open_session, session_options
from edge.engines.runner import RawOutputs
from edge.engines.selftest import infer_all

INT8_PRODUCTS = (
    "MatMulIntegerToFloat", "QAttention", "QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul"
)  # fmt: skip
FLOAT_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm")


@dataclass(frozen=True)
class OptimisedGraph:
    """`ops`: how many nodes of each type; `int8_linears`: nodes that multiply by constant weights in INT8;
    `float_linears`: names of the constant float weights that are multiplied with, as the source graph called them."""

    ops: Counter[str]
    int8_linears: int
    float_linears: tuple[str, ...]


def optimised_graph(model: onnx.ModelProto) -> OptimisedGraph:
    """Optimise `model` with the device's own session options, and read what came out."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "optimised.onnx"
        options = session_options(threads=1, spinning=False)
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 4  # ORT warns that such a file is for this machine only: that is what is wanted
        source = model.SerializeToString()
        out.write_bytes(source)  # a full disk is said by the system; ONNX Runtime would only say that it could not
        open_session(source, options)
        graph = onnx.load(str(out)).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [n for n in graph.node if len(n.input) > 1 and n.input[1] in constants]
    # QGemm and QLinearMatMul take (a, scale, zero point, b, ...): their weight is the fourth input
    quantised = [
        n for n in graph.node if n.op_type in INT8_PRODUCTS and any(name in constants for name in n.input[1:4])
    ]
    return OptimisedGraph(
        ops=Counter(n.op_type for n in graph.node),
        int8_linears=len(quantised),
        float_linears=tuple(n.input[1] for n in products if n.op_type in FLOAT_PRODUCTS),
    )


def probing_session(model: onnx.ModelProto, tensors: Sequence[str], threads: int = 1) -> ort.InferenceSession:
    """A session that gives the float tensors named besides the graph's outputs."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = session_options(threads, False)
    return ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_graph(model: onnx.ModelProto, crops: np.ndarray, threads: int = 1) -> RawOutputs:
    """uint8 [N,1,S,S] -> the graph's outputs for all N, through the device's own runner."""
    with OnnxRuntimeRunner(model.SerializeToString(), threads) as runner:
        return infer_all(runner, crops)
