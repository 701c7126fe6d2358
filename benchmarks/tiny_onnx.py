"""A one-operator ONNX model as bytes, without the `onnx` package: devices do not have it.

Protocol buffers need only two kinds of field here: varints and length-prefixed bytes. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    node = b"".join(_bytes(1, name.encode()) for name in names) + _bytes(2, b"y") + _bytes(4, kind.encode())
    graph = _bytes(1, node) + _bytes(2, b"g")
    graph += b"".join(_bytes(5, _tensor(name, value)) for name, value in constants.items())
    graph += b"".join(_bytes(11, _value(name, dtype, list(shape))) for name, dtype, shape in inputs)
    graph += _bytes(12, _value("y", output[0], [None] * output[1]))
    return _int(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _int(2, OPSET))


def _tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(_int(1, d) for d in value.shape)
    return dims + _int(2, TYPES[value.dtype.name]) + _bytes(8, name.encode()) + _bytes(9, value.tobytes())


def _value(name: str, dtype: str, shape: Sequence[int | None]) -> bytes:
    dims = b"".join(_bytes(1, b"" if d is None else _int(1, d)) for d in shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _int(1, TYPES[dtype]) + _bytes(2, dims)))


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
