"""ONNX files as protocol buffers, read and written field by field: devices do not have the `onnx` package.

What is touched here are varints, length-prefixed bytes and floats. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
WIDTHS = {FIXED64: 8, FIXED32: 4}  # bytes


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
