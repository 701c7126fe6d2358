"""Does a runtime's INT8 product saturate on this processor? Asked of the runtime itself, with one small product.

An x86 processor without VNNI multiplies unsigned by signed bytes and adds pairs of products in 16 bits (`vpmaddubsw`): the sum
stops at 32767. ONNX Runtime's and OpenVINO's kernels both do that: a probability of the shipped graph is then off by up to .061,
of others by .13 (AVX2, measured). A flag of the processor says what it could do; the product says what the runtime does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge.onnx_bytes import (
    FLOAT32,
    GRAPH,
    INT8,
    OPSETS,
    write_bytes,
    write_int,
    write_int_attribute,
    write_node,
    write_tensor,
)

ROWS, INNER, COLUMNS = 16, 64, 64  # enough for the runtimes to take the kernels that they take for the model (seen in OpenVINO)
TOP = 127  # int8: as an unsigned activation 255, so that a pair of products is 64770
EXACT = float(INNER * TOP * TOP)  # what every element of the product is; float32 holds it exactly
INPUT, OUTPUT = "x", "y"
GRAPH_INPUTS, GRAPH_OUTPUTS = 11, 12  # field numbers of onnx.proto's GraphProto
OPSET, IR_VERSION = 17, 8  # the canonical graph's


def probe() -> bytes:
    """An ONNX model in the canonical graph's form: float32 [1,ROWS,INNER], quantised with scale 1, times int8 weights, all TOP,
    gives float32 [1,ROWS,COLUMNS]."""
    one, zero = np.float32(1).tobytes(), np.int8(0).tobytes()
    graph = b"".join([
        write_node("QuantizeLinear", "q", [INPUT, "scale", "zero"], "x.q"),
        write_node("DequantizeLinear", "dq", ["x.q", "scale", "zero"], "x.dq"),
        write_node("DequantizeLinear", "w.dq", ["w.q", "w.scale", "w.zero"], "w", attributes=write_int_attribute("axis", 1)),
        write_node("MatMul", "product", ["x.dq", "w"], OUTPUT),
        write_bytes(2, b"probe"),
        write_tensor("scale", (), FLOAT32, one),
        write_tensor("zero", (), INT8, zero),
        write_tensor("w.q", (INNER, COLUMNS), INT8, np.full((INNER, COLUMNS), TOP, np.int8).tobytes()),
        write_tensor("w.scale", (COLUMNS,), FLOAT32, one * COLUMNS),
        write_tensor("w.zero", (COLUMNS,), INT8, zero * COLUMNS),
        write_bytes(GRAPH_INPUTS, _value(INPUT, (1, ROWS, INNER))),
        write_bytes(GRAPH_OUTPUTS, _value(OUTPUT, (1, ROWS, COLUMNS))),
    ])  # fmt: skip
    return write_int(1, IR_VERSION) + write_bytes(OPSETS, write_int(2, OPSET)) + write_bytes(GRAPH, graph)


def saturates(multiply: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether the product is another than it must be. multiply: runs `probe()` on float32 [1,ROWS,INNER]."""
    return not np.array_equal(
        multiply(np.full((1, ROWS, INNER), TOP, np.float32)), np.full((1, ROWS, COLUMNS), EXACT, np.float32)
    )


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    """A float32 ValueInfoProto."""
    dims = b"".join(write_bytes(1, write_int(1, side)) for side in shape)
    return write_bytes(1, name.encode()) + write_bytes(2, write_bytes(1, write_int(1, FLOAT32) + write_bytes(2, dims)))
