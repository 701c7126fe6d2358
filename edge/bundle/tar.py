"""The .tar form of a bundle: plain files in one flat archive, read by hand.

An archive arrives unverified, so its reader takes as little as can be: POSIX ustar headers of regular files, and nothing of what
tar grew later (links, devices, sparse files, long names, extended headers). Each is refused by its type byte.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from typing import BinaryIO

BLOCK = 512  # bytes, of ustar
MAX_TAIL_BYTES = 2**20  # zeros after the end mark: tar pads to its record size, 10 KiB by default
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"L": "a long name",
    b"K": "a long link",
    b"x": "an extended header",
    b"g": "an extended header",
}


class TarFault(Exception):
    """What is wrong with the archive, in words."""


def read_members(file: BinaryIO, admit: Callable[[str, int], None]) -> dict[str, bytes]:
    """Regular files by name. `admit(name, size)` is called before a member's bytes are read, and raises to refuse it.
    TarFault for anything that is not a whole, plain ustar archive."""
    out: dict[str, bytes] = {}
    folder = False
    while True:
        header = _exactly(file, BLOCK, "the archive ends without its end mark")
        if header == bytes(BLOCK):
            break
        name, size, kind = _parse_header(header)
        if not folder and kind == b"5" and name in (".", "./") and size == 0:  # `tar -C bundle .` has one
            folder = True
            continue
        name = name.removeprefix("./")
        if kind not in (b"0", b"\0"):
            what = _REFUSED.get(kind, f"an entry of type {kind!r}")
            raise TarFault(f"{name!r}: not a regular file but {what}; pack it with `hygroma bundle sign --out`")
        admit(name, size)
        if name in out:
            raise TarFault(f"{name}: packed twice")
        data = _exactly(file, size + -size % BLOCK, f"{name}: the archive ends within this file")
        if any(data[size:]):
            raise TarFault(f"{name}: bytes hidden in the padding")
        out[name] = data[:size]
    tail = file.read(MAX_TAIL_BYTES + 1)
    if len(tail) > MAX_TAIL_BYTES or len(tail) < BLOCK or any(tail):
        raise TarFault("something other than zeros follows the end mark")
    return out


def pack(contents: Mapping[str, bytes]) -> bytes:
    """Files by name -> the bytes of an archive that `read_members` takes; equal contents give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)  # no owner, time 0
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _parse_header(header: bytes) -> tuple[str, int, bytes]:
    if header[257:262] != b"ustar":
        raise TarFault("a block that is no tar header")
    counted = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156], "checksum") != counted:
        raise TarFault("a header whose checksum is wrong")
    raw, _, rest = header[:100].partition(b"\0")
    if any(rest) or any(header[345:500].rstrip(b"\0")):
        raise TarFault("a name of more than 100 bytes")
    return raw.decode("ascii", "backslashreplace"), _octal(header[124:136], "size"), header[156:157]


def _octal(field: bytes, what: str) -> int:
    digits = field.strip(b" \0")
    if not digits or not all(c in b"01234567" for c in digits):
        raise TarFault(f"a header with {what} {field!r}, which is no octal number")
    return int(digits, 8)


def _exactly(file: BinaryIO, count: int, otherwise: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise TarFault(otherwise)
    return data
