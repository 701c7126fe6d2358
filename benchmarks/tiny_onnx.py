"""A one-operator ONNX model as bytes, without the `onnx` package. Field numbers are those of onnx.proto."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.onnx_bytes import write_bytes, write_int

IR_VERSION, OPSET = 8, 17  # as the shipped graph: what the oldest supported ONNX Runtime reads
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}  # TensorProto.DataType


def one_op(
    kind: str,
    inputs: Sequence[tuple[str, str, Sequence[int]]],
    constants: dict[str, np.ndarray],
    output: tuple[str, int],
) -> bytes:
    """inputs: (name, dtype, shape) in the operator's order; constants follow; output: (dtype, rank). -> `y = kind(...)`"""
    names = [name for name, _, _ in inputs] + list(constants)
    node = (
        b"".join(write_bytes(1, name.encode()) for name in names) + write_bytes(2, b"y") + write_bytes(4, kind.encode())
    )
    graph = write_bytes(1, node) + write_bytes(2, b"g")
    graph += b"".join(write_bytes(5, _tensor(name, value)) for name, value in constants.items())
    graph += b"".join(write_bytes(11, _value(name, dtype, list(shape))) for name, dtype, shape in inputs)
    graph += write_bytes(12, _value("y", output[0], [None] * output[1]))
    return write_int(1, IR_VERSION) + write_bytes(7, graph) + write_bytes(8, write_bytes(1, b"") + write_int(2, OPSET))


def _tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(write_int(1, d) for d in value.shape)
    return (
        dims + write_int(2, TYPES[value.dtype.name]) + write_bytes(8, name.encode()) + write_bytes(9, value.tobytes())
    )


def _value(name: str, dtype: str, shape: Sequence[int | None]) -> bytes:
    dims = b"".join(write_bytes(1, b"" if d is None else write_int(1, d)) for d in shape)
    return write_bytes(1, name.encode()) + write_bytes(
        2, write_bytes(1, write_int(1, TYPES[dtype]) + write_bytes(2, dims))
    )
