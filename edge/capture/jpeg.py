"""What a JPEG says of itself, read from its markers alone: size, colours, and whether it is whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

START, END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _JFIF, _ADOBE = 0xDA, 0xE0, 0xEE
# Frame headers: 0xC0 to 0xCF but for tables (C4, C8, CC), and JPEG-LS's own.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
# The next marker after a scan's data, but for those of a restart. JPEG-LS stuffs bits: there FF is data before 00 to 7F.
_AFTER_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_AFTER_SCAN_LS = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]", re.DOTALL)


@dataclass(frozen=True)
class Jpeg:
    """width, height: pixels, 0 when no header names them. bits: of a value. components: values a pixel. whole: its end marker
    stands where its data end. ybr: whether its values are luma and colour differences, None when it does not say. end: where
    what lies behind it begins."""

    width: int = 0
    height: int = 0
    bits: int = 0
    components: int = 0
    whole: bool = False
    ybr: bool | None = None
    end: int = 0


def scan_jpeg(data: bytes) -> Jpeg:
    """Of bytes that begin with START. A thumbnail inside a header is passed over with it."""
    width = height = bits = components = 0
    ybr: bool | None = None
    scans, lossless_ls, at = 0, False, 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        if marker == END[1]:
            return Jpeg(width, height, bits, components, scans > 0 and width > 0, ybr, at + 2)
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) < length - 2:
            break
        if marker in _FRAMES and len(body) >= 6:
            lossless_ls = marker == 0xF7
            bits, components = body[0], body[5]
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            said = _said_by_components(body[6:], components)
            ybr = said if said is not None else ybr
        elif marker == _JFIF and body.startswith(b"JFIF\0") and ybr is None:
            ybr = True
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            ybr = body[11] != 0
        at += 2 + length
        if marker == _SCAN:
            scans += 1
            found = (_AFTER_SCAN_LS if lossless_ls else _AFTER_SCAN).search(data, at)
            if found is None:
                break
            at = found.end() - 2
    return Jpeg(width, height, bits, components, False, ybr)


def _said_by_components(listed: bytes, components: int) -> bool | None:
    """Their ids spell RGB, or two of the three have fewer values than the first: those are colour differences."""
    if components != 3 or len(listed) < 9:
        return None
    if listed[0:9:3] == b"RGB":
        return False
    return True if listed[1] != listed[4] else None
