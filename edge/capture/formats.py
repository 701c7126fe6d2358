"""What a picture file says of itself, read from its structure before anything decodes it: size, pictures in it, all there or not.

Decoders differ in what they make of half a file: some refuse it, some show what lay in memory before. So that is asked here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from struct import error as StructError
from struct import unpack_from

from edge.capture.jpeg import START, scan_jpeg


@dataclass(frozen=True)
class Look:
    """kind: the format's name. width, height: of the (first) picture, pixels. pictures: how many the file holds. whole: all of
    the bytes that its structure speaks of are there."""

    kind: str
    width: int
    height: int
    pictures: int
    whole: bool


def look(data: bytes) -> Look | None:
    """None for what is none of the formats that are read: PNG, JPEG, BMP, TIFF, WebP, GIF, PGM and its kin."""
    for start, kind, of in _FORMATS:
        if start.match(data):
            try:
                return of(data)
            except (IndexError, StructError, ValueError):  # ends inside its header
                return Look(kind, 0, 0, 1, False)
    return None


_FOLLOWING_MAX = 2**22  # bytes of each further JPEG that are looked at for its end


def _jpeg(data: bytes) -> Look:
    """Others may follow the first: a film of JPEGs. What a phone's index (MPF) names is a smaller or deeper copy of it."""
    found, pictures, at = scan_jpeg(data), 1, 0
    end = found.end
    while end > at and data.startswith(START + b"\xff", end) and b"MPF\0" not in data[: found.end]:
        pictures, at = pictures + 1, end
        end = at + (scan_jpeg(data[at : at + _FOLLOWING_MAX]).end or len(data))
    return Look("JPEG", found.width, found.height, pictures, found.whole)


def _png(data: bytes) -> Look:
    """Chunks with a checksum each, the last one IEND. acTL counts the pictures of an animation."""
    width, height, pictures, at, pixels = 0, 0, 1, 8, False
    while at + 12 <= len(data):
        (length,) = unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        # An upper-case letter: the picture cannot be told without it.
        if end + 4 > len(data) or (kind[:1].isupper() and zlib.crc32(data[at + 4 : end]) != unpack_from(">I", data, end)[0]):
            break
        if kind == b"IHDR":
            width, height = unpack_from(">II", data, at + 8)
        elif kind == b"acTL":
            pictures = max(1, unpack_from(">I", data, at + 8)[0])
        elif kind == b"IDAT":
            pixels = True
        elif kind == b"IEND":
            return Look("PNG", width, height, pictures, pixels)
        at = end + 4
    return Look("PNG", width, height, pictures, False)


def _webp(data: bytes) -> Look:
    (stated,) = unpack_from("<I", data, 4)
    width = height = pictures = 0
    at, whole = 12, False
    while at + 8 <= min(len(data), stated + 8):
        kind, (length,) = data[at : at + 4], unpack_from("<I", data, at + 4)
        body = at + 8
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(data[body + i : body + i + 3], "little") for i in (4, 7))
        elif kind == b"VP8 ":
            pictures += 1
            if not width:
                width, height = (side & 0x3FFF for side in unpack_from("<HH", data, body + 6))
        elif kind == b"VP8L":
            pictures += 1
            if not width:
                (bits,) = unpack_from("<I", data, body + 1)
                width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"ANMF":
            pictures += 1
        whole = body + length <= len(data)
        at = body + length + length % 2
    # A file of odd length may lack its last byte, which only pads.
    return Look("WebP", width, height, max(1, pictures), whole and pictures > 0 and stated + 8 <= len(data) + stated % 2)


_GIF_SCREEN, _GIF_PICTURE, _GIF_MORE, _GIF_END = 13, 0x2C, 0x21, 0x3B  # bytes of the header; what begins each part


def _gif(data: bytes) -> Look:
    width, height, flags = unpack_from("<HHB", data, 6)
    at, pictures = _GIF_SCREEN + _gif_table(flags), 0
    while at < len(data) and data[at] != _GIF_END:
        if data[at] == _GIF_PICTURE:
            pictures += 1
            at += 11 + _gif_table(data[at + 9])  # its place, its table, the size of its codes
        elif data[at] == _GIF_MORE:
            at += 2
        else:
            break
        while data[at]:  # blocks, each after its length
            at += 1 + data[at]
        at += 1
    return Look("GIF", width, height, max(1, pictures), pictures > 0 and data[at : at + 1] == bytes([_GIF_END]))


def _gif_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(data: bytes) -> Look:
    (offset, header, width) = unpack_from("<III", data, 10)
    if header == 12:  # OS/2
        width, height, _, bits = unpack_from("<HHHH", data, 18)
        packing = size = 0
    else:
        height, _, bits, packing, size = unpack_from("<iHHII", data, 22)
    line = (width * bits + 31) // 32 * 4
    needed = size if packing in (1, 2) else line * abs(height)  # run lengths tell their own size
    return Look("BMP", width, abs(height), 1, needed > 0 and offset + needed <= len(data))


_PAGE_WIDTH, _PAGE_HEIGHT, _SMALLER, _PARTS = 256, 257, 254, ((273, 279), (324, 325))  # tags; offsets and lengths
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff(data: bytes) -> Look:
    """Pages linked to each other. One that is marked as a smaller copy of another is none."""
    order = "<" if data[:2] == b"II" else ">"
    big = unpack_from(order + "H", data, 2)[0] == 43
    at = unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    seen: set[int] = set()
    pages: list[tuple[int, int]] = []
    whole = True
    while at and at not in seen and len(seen) < 65536:
        seen.add(at)
        try:
            tags, at = _tiff_page(data, order, big, at)
        except StructError:  # its table lies behind the end
            whole = False
            pages += [(0, 0)] if not pages else []
            break
        if tags.get(_SMALLER, [0])[0] & 1:
            continue
        pages.append((tags[_PAGE_WIDTH][0], tags[_PAGE_HEIGHT][0]) if {_PAGE_WIDTH, _PAGE_HEIGHT} <= tags.keys() else (0, 0))
        starts, lengths = next(((tags[a], tags[b]) for a, b in _PARTS if a in tags and b in tags), ([], []))
        whole &= bool(starts) and all(s + n <= len(data) for s, n in zip(starts, lengths, strict=False))
    width, height = pages[0] if pages else (0, 0)
    return Look("TIFF", width, height, max(1, len(pages)), whole and bool(pages))


def _tiff_page(data: bytes, order: str, big: bool, at: int) -> tuple[dict[int, list[int]], int]:
    """The tags with whole numbers that are asked for, and where the next page is."""
    (count,) = unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    entry, inline = (20, 8) if big else (12, 4)
    if at + count * entry > len(data):
        raise StructError
    tags = {}
    for place in range(at, at + count * entry, entry):
        tag, kind = unpack_from(order + "HH", data, place)
        (n,) = unpack_from(order + ("Q" if big else "I"), data, place + 4)
        if kind not in _TIFF_TYPES or tag not in _WANTED:
            continue
        form = _TIFF_TYPES[kind]
        value = place + entry - inline
        if n * {"B": 1, "H": 2, "I": 4, "Q": 8}[form] > inline:
            (value,) = unpack_from(order + ("Q" if big else "I"), data, value)
        if n > len(data):
            raise StructError
        tags[tag] = list(unpack_from(f"{order}{n}{form}", data, value))
    tags = {tag: values for tag, values in tags.items() if values}
    return tags, unpack_from(order + ("Q" if big else "I"), data, at + count * entry)[0]


_WANTED = frozenset({_PAGE_WIDTH, _PAGE_HEIGHT, _SMALLER, *(tag for pair in _PARTS for tag in pair)})
_SPACE = rb"(?:\s|#[^\n]*\n)+"  # between the numbers of a header, comments among them
_PNM = re.compile(rb"P([1-6])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})(?:" + _SPACE + rb"(\d{1,5}))?")


def _pnm(data: bytes) -> Look:
    """P1 to P3 in digits, P4 to P6 in bytes: bits, grey, colour. Bits have no highest value. Several may follow each other."""
    pictures, at, first, whole = 0, 0, (0, 0), True
    while whole and at < len(data) and (head := _PNM.match(data, at)):
        form, width, height = int(head[1]), int(head[2]), int(head[3])
        first = first if pictures else (width, height)
        pictures += 1
        values = width * height * (3 if form in (3, 6) else 1)
        bits = form in (1, 4)
        begin = head.end(3) if bits else head.end()
        whole = bits or head[4] is not None
        if form > 3:
            size = (width + 7) // 8 * height if bits else values * (2 if int(head[4] or 0) > 255 else 1)
            at = begin + 1 + size
            whole &= at <= len(data)
        else:
            digits = re.findall(rb"[01]" if bits else rb"\d+", data[begin:])
            whole &= len(digits) >= values
            break
        while data[at : at + 1].isspace():
            at += 1
    return Look("PGM", *first, max(1, pictures), whole and pictures > 0)


_FORMATS: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], Look]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", _png),
    (re.compile(re.escape(START) + rb"\xff"), "JPEG", _jpeg),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP", _webp),
    (re.compile(rb"GIF8[79]a"), "GIF", _gif),
    (re.compile(rb"BM"), "BMP", _bmp),
    (re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"), "TIFF", _tiff),
    (re.compile(rb"P[1-6]\s"), "PGM", _pnm),
)
