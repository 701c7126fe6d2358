"""What a clip's container says of its own wholeness, read from its structure and not from a number of pictures.

A number of pictures is often an estimate, length times rate, and wrong for a clip with pauses or with a longer sound track. How
many bytes belong together is stated exactly by MP4, AVI, Matroska and WMV; FLV, Ogg, MPEG program and transport streams state it
for each of their pieces, so that a cut between two of these is not seen. A transport stream counts its packets.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge.kinds import HEAD, TS_PACKET, TS_STAMP, TS_SYNC, clip_by_content

MOOV_MAX = 64 * 2**20  # bytes of an MP4's index that are read; an hour's is 2 MB
EDITS_MAX = 1000  # edits of a track that are looked at; two are enough to know
_PROGRAMS, _SERVICES = 0, 17  # streams of a transport stream that say what the others are
TS_READ = 4096  # packets read at once: 770 kB
ASF_HEADER = 65536  # bytes in which a WMV's properties stand; its header begins with them
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TOP = frozenset({_CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, 0xEC, 0xBF})
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF})


def cut_off(path: Path) -> str:
    """In words, when the file ends before what its container says; "" when not, or when the container does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = clip_by_content(file.read(HEAD))
        ends = _ENDS.get(kind)
        try:
            end = ends(file, size) if ends else size
        except (struct.error, ValueError):
            return ""  # too damaged to say
    return f"it is cut off: {end} bytes belong together, {size} are there" if end > size else ""


def broken_inside(path: Path) -> bool:
    """Whether the structure of a Matroska or transport stream is broken somewhere, so that pictures may be lost there."""
    with path.open("rb") as file:
        kind = clip_by_content(file.read(HEAD))
        if kind in ("ts", "m2ts"):
            return _ts_broken(file, TS_STAMP if kind == "m2ts" else 0)
        return kind == "matroska" and _matroska_broken(file, path.stat().st_size)


def is_trimmed(path: Path) -> bool:
    """Whether an MP4's edit list leaves out pictures that are in the file: phones and editors trim so."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if clip_by_content(file.read(HEAD)) != "mp4":
            return False
        try:
            for kind, start, end in _boxes(file, 0, size):
                if kind == b"moov" and end - start <= MOOV_MAX:
                    file.seek(start)
                    moov = file.read(end - start)
                    return any(_track_trimmed(moov[a:b]) for kind, a, b in _parts(moov) if kind == b"trak")
        except struct.error:  # ends in the middle of a number
            pass
    return False


def _mp4_end(file: BinaryIO, size: int) -> int:
    return max((end for _, _, end in _boxes(file, 0, size)), default=0)


def _boxes(file: BinaryIO, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, end) of the boxes side by side; the last end may lie beyond the file."""
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        start = at + 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            start = at + 16
        elif length == 0:  # to the end of the file
            length = size - at
        if length < start - at or not kind.isascii():
            return  # rubbish behind the clip, or damage: nothing is known of what follows
        yield kind, start, at + length
        at += length


def _parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """As `_boxes`, in memory."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8:
            return
        yield kind, at + 8, min(at + length, len(data))
        at += length


def _part(data: bytes, *kinds: bytes) -> bytes:
    """The content of the first box at a path; b"" when there is none."""
    for wanted in kinds:
        data = next((data[a:b] for kind, a, b in _parts(data) if kind == wanted), b"")
    return data


def _track_trimmed(track: bytes) -> bool:
    """Whether pictures lie before the edit's start, which normally is the first picture's own delay in decoding."""
    edits = _part(track, b"edts", b"elst")
    if _part(track, b"mdia", b"hdlr")[8:12] != b"vide" or not edits:
        return False
    (count,) = struct.unpack_from(">I", edits, 4)
    form = ">Qq4x" if edits[0] else ">Ii4x"  # version 1 has long numbers
    starts = [struct.unpack_from(form, edits, 8 + i * struct.calcsize(form))[1] for i in range(min(count, EDITS_MAX))]
    starts = [start for start in starts if start >= 0]  # -1 is a wait before the first picture
    delays = _part(track, b"mdia", b"minf", b"stbl", b"ctts")
    delay = struct.unpack_from(">i", delays, 12)[0] if len(delays) >= 16 else 0
    return len(starts) > 1 or any(start > delay for start in starts)


def _avi_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 12 <= size:  # beyond 1 GB further RIFF lists follow the first
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or not length:  # 0: the recorder never closed the file, and FFmpeg reads on
            break
        at += 8 + length
    return at


def _asf_end(file: BinaryIO, size: int) -> int:
    file.seek(0)
    header = file.read(ASF_HEADER)
    at = header.find(_ASF_FILE)
    if at < 0:
        return size
    (length,) = struct.unpack_from("<Q", header, at + 40)
    (flags,) = struct.unpack_from("<I", header, at + 88)
    return size if flags & 1 else length  # 1: a broadcast, whose length was not known


def _flv_end(file: BinaryIO, size: int) -> int:
    file.seek(5)
    at = struct.unpack(">I", file.read(4))[0] + 4  # behind the header stands the length of no tag
    while at + 11 <= size:
        file.seek(at)
        kind, length = divmod(struct.unpack(">I", file.read(4))[0], 1 << 24)
        if kind & 0x1F not in (8, 9, 18):  # sound, picture, words
            return size
        at += 11 + length + 4
    return at + 11 if at < size else at


def _ogg_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(27)
        if not head.startswith(b"OggS"[: len(head)]):
            return size
        pieces = head[26] if len(head) == 27 else 0
        at += 27 + pieces + sum(file.read(pieces))
    return at


def _mpeg_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(14)
        if not head.startswith(b"\0\0\1"[: len(head)]) or len(head) >= 4 and head[3] < 0xB9:
            return size
        if len(head) < 4 or head[3] == 0xB9:  # the end of a recording; another may follow
            at += 4
        elif head[3] == 0xBA:  # a pack; MPEG-1's is shorter
            at += 12 if len(head) > 4 and head[4] >> 4 == 2 else 14 + (head[13] & 7 if len(head) == 14 else 0)
        else:
            at += 6 + (int.from_bytes(head[4:6], "big") if len(head) >= 6 else 0)
    return at


def _ts_end(file: BinaryIO, size: int) -> int:
    return -(-size // TS_PACKET) * TS_PACKET


def _m2ts_end(file: BinaryIO, size: int) -> int:
    return -(-size // (TS_PACKET + TS_STAMP)) * (TS_PACKET + TS_STAMP)


def _matroska_end(file: BinaryIO, size: int) -> int:
    start, end = _segment(file)
    return end if end is not None else size


def _segment(file: BinaryIO) -> tuple[int, int | None]:
    """Where the content of the segment starts and ends; None: a live recording does not say."""
    file.seek(0)
    _, length = _element(file)
    file.seek(length or 0, os.SEEK_CUR)
    kind, length = _element(file)
    if kind != _SEGMENT:
        raise ValueError("no segment")
    return file.tell(), None if length is None else file.tell() + length


def _element(file: BinaryIO) -> tuple[int, int | None]:
    """(id, length of the content) of the EBML element here; None: unknown length. ValueError when there is none."""
    kind = _number(file, keep_marker=True)
    length = _number(file, keep_marker=False)
    return kind, None if length < 0 else length


def _number(file: BinaryIO, keep_marker: bool) -> int:
    """EBML's number of varying length; -1 for the length that stands for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        raise ValueError("no EBML")
    width = 9 - first[0].bit_length()
    data = first + file.read(width - 1)
    if len(data) < width:
        raise ValueError("ends in the middle")
    value = int.from_bytes(data, "big")
    if keep_marker:
        return value
    value &= (1 << 7 * width) - 1
    return -1 if value == (1 << 7 * width) - 1 else value


def _matroska_broken(file: BinaryIO, size: int) -> bool:
    try:
        at, end = _segment(file)
        end = size if end is None else min(end, size)
        cluster_end = 0
        while at < end:
            file.seek(at)
            kind, length = _element(file)
            start = file.tell()
            inside = at < cluster_end
            if inside and kind not in _IN_CLUSTER and kind not in _TOP or not inside and kind not in _TOP:
                return True
            if kind == _CLUSTER:
                cluster_end = end if length is None else start + length
                at = start
            elif length is None:
                return True
            else:
                at = start + length
    except ValueError:
        return True
    return at > end


def _ts_broken(file: BinaryIO, stamp: int) -> bool:
    """Whether a packet does not begin as one, or a stream's counter of its packets leaves some out. `stamp`: bytes before each.

    Where the table of programs and after it every stream begins anew at 0 with a new piece, a second recording was joined on.
    """
    file.seek(0)
    counters: dict[int, int] = {}
    ended: set[int] = set()  # streams of the recording before a join, which have not begun anew yet
    while data := file.read(TS_READ * (TS_PACKET + stamp)):
        packets = np.frombuffer(data[: len(data) // (TS_PACKET + stamp) * (TS_PACKET + stamp)], np.uint8)
        packets = packets.reshape(-1, TS_PACKET + stamp)[:, stamp : stamp + 4]
        if (packets[:, 0] != TS_SYNC).any():
            return True
        for _, high, low, flags in packets.tolist():
            stream, counter = (high & 0x1F) << 8 | low, flags & 0x0F
            if stream == 0x1FFF or not flags & 0x10:  # padding, or no content: not counted
                continue
            last = counters.get(stream)
            if last is not None and counter not in (last, (last + 1) % 16):
                begins = counter == 0 and high & 0x40
                if begins and stream in (_PROGRAMS, _SERVICES):
                    ended = set(counters)
                elif not (begins and stream in ended):
                    return True
            ended.discard(stream)
            counters[stream] = counter
    return False


_ENDS = {
    "mp4": _mp4_end, "avi": _avi_end, "matroska": _matroska_end, "asf": _asf_end, "flv": _flv_end, "ogg": _ogg_end,
    "mpeg": _mpeg_end, "ts": _ts_end, "m2ts": _m2ts_end,
}  # fmt: skip
