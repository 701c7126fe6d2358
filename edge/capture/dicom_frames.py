"""The coded pictures of a DICOM file, one by one: where they lie, whether they are whole, what their bytes say of themselves.

A header names a count of pictures and a colour space, and many are wrong. So the pictures are counted where they lie, and
each stream's own markers say whether it is whole, how large it is, and what its colours are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from edge.capture.jpeg import scan_jpeg

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"  # tags of encapsulated data, which is always little-endian
UNDEFINED = 0xFFFFFFFF  # a length that is not told
_STREAMS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")  # JPEG and JPEG-LS, JPEG 2000, JPEG 2000 in a box
_END = b"\xff\xd9"  # JPEG 2000's last marker; a byte or two behind it make the length even
_SIZ, _COD, _SOT = 0x51, 0x52, 0x90  # JPEG 2000: the picture's size, its coding, its first tile


@dataclass(frozen=True)
class Piece:
    """Bytes of one coded picture: where each part of it begins in the file, and how long it is. cut: the file ends before."""

    parts: tuple[tuple[int, int], ...]
    cut: bool = False

    def read(self, file: BinaryIO) -> bytes:
        out = []
        for start, length in self.parts:
            file.seek(start)
            out.append(file.read(length))
        return b"".join(out)


def plain_pieces(start: int, length: int, size: int, said: int) -> list[Piece]:
    """Pictures of `size` bytes that follow each other. said: how many the header names. More are taken where they fill the
    data to the last byte; what is left over otherwise is padding, or a picture that was cut."""
    whole, rest = divmod(length, size)
    if whole > said and rest > 1:  # one byte makes the length even
        whole, rest = said, 0
    pieces = [Piece(((start + i * size, size),)) for i in range(whole)]
    if rest > 1 and whole < said:
        pieces.append(Piece(((start + whole * size, rest),), cut=True))
    return pieces


def packed_pieces(file: BinaryIO, start: int, end: int, said: int, one_each: bool) -> list[Piece]:
    """Pictures in encapsulated data from `start` (its offset table) to `end`, a picture in one item or several.

    one_each: each item is a picture, as RLE has it. Otherwise a picture begins where a stream begins.
    """
    items = list(_items(file, start, end))[1:]  # the first is the offset table
    if not one_each and len(items) != said:
        begins = [piece.begins(file, _STREAMS) for piece in items]
        one_each = not any(begins)
    if one_each or len(items) == said:
        return [Piece(((item.start, item.length),), item.cut) for item in items]
    pieces: list[Piece] = []
    for item, first in zip(items, begins, strict=True):
        before = () if first or not pieces else pieces.pop().parts
        pieces.append(Piece((*before, (item.start, item.length)), item.cut))
    return pieces


@dataclass(frozen=True)
class _Item:
    start: int
    length: int
    cut: bool

    def begins(self, file: BinaryIO, with_one_of: tuple[bytes, ...]) -> bool:
        file.seek(self.start)
        return file.read(min(self.length, 8)).startswith(with_one_of)


def _items(file: BinaryIO, at: int, end: int) -> Iterator[_Item]:
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if head[:4] != ITEM:
            return
        length = int.from_bytes(head[4:], "little")
        left = end - at - 8
        yield _Item(at + 8, min(length, left), length > left)
        at += 8 + length


@dataclass(frozen=True)
class Stream:
    """What a compressed picture says of itself. whole: it ends as it must. ybr: whether its three values a pixel, as a decoder
    gives them that converts nothing, are luma and two colour differences; None: it does not say."""

    width: int
    height: int
    whole: bool
    ybr: bool | None = None


def stream_of(data: bytes) -> Stream | None:
    """None for what is no JPEG, JPEG-LS or JPEG 2000."""
    if data.startswith(b"\xff\xd8"):
        jpeg = scan_jpeg(data)
        return Stream(jpeg.width, jpeg.height, jpeg.whole, jpeg.ybr)
    start = data.find(_STREAMS[1]) if data.startswith((_STREAMS[1], _STREAMS[2])) else -1
    if start < 0:
        return None
    width = height = 0
    ybr: bool | None = None
    at = start + 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SOT:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == _SIZ and len(body) >= 18:
            x1, y1, x0, y0 = (int.from_bytes(body[i : i + 4], "big") for i in (2, 6, 10, 14))
            width, height = x1 - x0, y1 - y0
        if data[at + 1] == _COD and len(body) >= 5 and body[4]:  # its own transform, which the decoder takes back
            ybr = False
        at += 2 + length
    return Stream(width, height, _END in data[-4:], ybr)
