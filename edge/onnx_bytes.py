"""ONNX files as protocol buffers, read and written field by field: devices do not have the `onnx` package.

What is touched here are varints, length-prefixed bytes and floats. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
WIDTHS = {FIXED64: 8, FIXED32: 4}  # bytes

# Field numbers of onnx.proto: in a model, a graph, a node, a tensor, an attribute.
GRAPH, OPSETS = 7, 8
NODES, TENSORS, RESULTS = 1, 5, 12
INPUTS, OUTPUTS, NAME, OP, ATTRIBUTES, DOMAIN = 1, 2, 3, 4, 5, 7
DIMS, TYPE, TENSOR_NAME, RAW = 1, 2, 8, 9
ATTRIBUTE_NAME, FLOAT, INT, INTS, ATTRIBUTE_TYPE = 1, 2, 3, 8, 20
SUBGRAPH, SUBGRAPHS, A_TENSOR, SOME_TENSORS = 6, 11, 5, 10  # of an attribute
SPARSE, FUNCTIONS, FUNCTION_NODES, SPARSE_VALUES, SPARSE_INDICES = 15, 25, 7, 1, 2
EXTERNAL, LOCATION = 13, 14  # of a tensor: entries of where its data lies, and the kind of place
FLOAT32, UINT8, INT8, INT64 = 1, 2, 3, 7  # TensorProto.DataType
A_FLOAT, AN_INT = 1, 2  # AttributeProto.AttributeType


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """(number, wire type, value, the whole field as it stands) of each field, in order. ValueError where it breaks off, or is no
    protocol buffer."""
    data, at = memoryview(message), 0
    while at < len(data):
        start = at
        key, at = read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, (_, at) = at, read_varint(data, at)
            yield key >> 3, kind, data[value:at], data[start:at]
            continue
        if kind == BYTES:
            length, at = read_varint(data, at)
        elif kind in WIDTHS:
            length = WIDTHS[kind]
        else:
            raise ValueError(f"byte {start}: wire type {kind}")
        if at + length > len(data):
            raise ValueError(f"byte {start}: breaks off; {at + length - len(data)} bytes are missing")
        yield key >> 3, kind, data[at : at + length], data[start : at + length]
        at += length


def read_varint(data: bytes | memoryview, at: int = 0) -> tuple[int, int]:
    """-> (its value, where it ends). ValueError when it does not end."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"byte {at}: a number that does not end")


def write_int(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def write_bytes(number: int, value: bytes | memoryview) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(value)) + bytes(value)


def write_float(number: int, value: float) -> bytes:
    return _varint(number << 3 | FIXED32) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_node(op: str, name: str, inputs: list[str], output: str, domain: str = "", attributes: bytes = b"") -> bytes:
    message = b"".join(write_bytes(INPUTS, text.encode()) for text in inputs)
    for number, text in ((OUTPUTS, output), (NAME, name), (OP, op), (DOMAIN, domain)):
        message += write_bytes(number, text.encode()) if text else b""
    return write_bytes(NODES, message + attributes)


def write_int_attribute(name: str, value: int) -> bytes:
    message = write_bytes(ATTRIBUTE_NAME, name.encode()) + write_int(INT, value) + write_int(ATTRIBUTE_TYPE, AN_INT)
    return write_bytes(ATTRIBUTES, message)


def write_float_attribute(name: str, value: float) -> bytes:
    message = write_bytes(ATTRIBUTE_NAME, name.encode()) + write_float(FLOAT, value)
    return write_bytes(ATTRIBUTES, message + write_int(ATTRIBUTE_TYPE, A_FLOAT))


def write_tensor(name: str, dims: tuple[int, ...], kind: int, data: bytes | memoryview) -> bytes:
    message = b"".join(write_int(DIMS, dim) for dim in dims)
    message += write_int(TYPE, kind) + write_bytes(TENSOR_NAME, name.encode()) + write_bytes(RAW, data)
    return write_bytes(TENSORS, message)


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of a model, of any depth, has its data in another file: which file that is depends on the working
    directory, and no hash of a bundle covers it. ValueError for what is no ONNX file."""
    return any(
        _graph_is_external(value) if number == GRAPH else _nodes_are_external(value, FUNCTION_NODES)
        for number, kind, value, _ in fields(model)
        if kind == BYTES and number in (GRAPH, FUNCTIONS)
    )


def _graph_is_external(graph: memoryview) -> bool:
    for number, kind, value, _ in fields(graph):
        if kind == BYTES and number == TENSORS and _is_external(value):
            return True
        if kind == BYTES and number == SPARSE and _sparse_is_external(value):
            return True
    return _nodes_are_external(graph, NODES)


def _nodes_are_external(holder: memoryview, nodes: int) -> bool:
    return any(
        _attribute_is_external(attribute)
        for number, kind, node, _ in fields(holder)
        if kind == BYTES and number == nodes
        for part, part_kind, attribute, _ in fields(node)
        if part_kind == BYTES and part == ATTRIBUTES
    )


def _attribute_is_external(attribute: memoryview) -> bool:
    for number, kind, value, _ in fields(attribute):
        if kind != BYTES:
            continue
        if number in (A_TENSOR, SOME_TENSORS) and _is_external(value):
            return True
        if number in (SUBGRAPH, SUBGRAPHS) and _graph_is_external(value):
            return True
    return False


def _sparse_is_external(tensor: memoryview) -> bool:
    parts = (SPARSE_VALUES, SPARSE_INDICES)
    return any(_is_external(value) for number, kind, value, _ in fields(tensor) if kind == BYTES and number in parts)


def _is_external(tensor: memoryview) -> bool:
    return any(
        number == EXTERNAL or (number == LOCATION and kind == VARINT and read_varint(value)[0] == 1)
        for number, kind, value, _ in fields(tensor)
    )
