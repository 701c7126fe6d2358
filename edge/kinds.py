"""What is a clip, what a still, what DICOM: the one table that `run`, `score`, folders, help texts and docs follow."""

from __future__ import annotations

import re
from pathlib import Path

# Endings of the containers that FFmpeg plays, as scanners, grabbers, phones and screen recorders write them.
CLIPS = frozenset({
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf",
    ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mpv", ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".qt", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
STILLS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm"})
DICOMS = frozenset({".dcm", ".dicom"})
KNOWN = CLIPS | STILLS | DICOMS
PIXELS_MAX = 2**26  # of one picture, read before it is decoded: 8192 x 8192; a scanner's screen has two million

TS_PACKET = 188  # bytes of a transport stream's packet, which begins with TS_SYNC
TS_SYNC = 0x47
TS_PACKETS = 4  # packets whose first byte is looked at: four bytes by chance are one file in four thousand million
TS_STAMP = 4  # bytes of time before each packet, where a camcorder's AVCHD card or a Blu-ray has them
HEAD = TS_STAMP + 3 * (TS_PACKET + TS_STAMP) + 1  # bytes of a file that `clip_by_content` wants

# What streams without a container, and containers of studios, begin with.
_STARTS = {
    b"\x00\x00\x01\xb3": "mpeg video", b"\x00\x00\x00\x01\x67": "h264", b"\x00\x00\x00\x01\x09": "h264",
    b"\x00\x00\x00\x01\x40\x01": "hevc", b"\x00\x00\x00\x01\x46\x01": "hevc", b"DKIF": "ivf", b"YUV4MPEG2 ": "y4m",
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01": "mxf", b"nut/multimedia container\x00": "nut",
}  # fmt: skip


def clip_by_content(head: bytes) -> str:
    """The container that a file's first HEAD bytes tell, in a word; "" when they tell none."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
        return ""  # a picture in a clip's container
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    if head[:4] in (b"FLV\x01", b"OggS"):
        return "flv" if head[:3] == b"FLV" else "ogg"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    for kind, stamp in (("ts", 0), ("m2ts", TS_STAMP)):
        syncs = head[stamp :: TS_PACKET + stamp][:TS_PACKETS]
        if len(syncs) == TS_PACKETS and set(syncs) == {TS_SYNC}:
            return kind
    return ""


# What operating systems, notebooks and file servers leave in a folder: nobody's data, whatever its ending.
_LITTER = re.compile(
    r"\..*|__MACOSX|@eaDir|#recycle|#snapshot|\$RECYCLE\.BIN|System Volume Information|lost\+found|"
    r"Thumbs\.db(:.*)?|ehthumbs(_vista)?\.db|desktop\.ini|Icon\r|~\$.*|.*:Zone\.Identifier",
    re.IGNORECASE,
)


def is_litter(path: Path, under: Path | None = None) -> bool:
    """Whether a file or folder is nobody's data: hidden, or named as systems name what they leave behind. `under`: a folder
    that it lies in; the folders between count too, those above do not."""
    parts = path.relative_to(under).parts if under is not None else (path.name,)
    return any(_LITTER.fullmatch(part) is not None for part in parts)


def is_dicom(path: Path) -> bool:
    """By its preamble or, without one, by its first element. OSError when it cannot be opened."""
    with path.open("rb") as file:
        return dicom_by_content(file.read(HEAD))


# Representations of values that the first elements of a file have: of group 2 and of group 8.
_FIRST_VALUES = (b"UL", b"OB", b"UI", b"SH", b"CS", b"DA", b"LO", b"TM", b"DT")


def dicom_by_content(head: bytes) -> bool:
    """By a file's first bytes, 132 at least where it has a preamble."""
    if head[128:132] == b"DICM":
        return True
    if head[4:6] in _FIRST_VALUES:
        groups = (b"\x02\0", b"\x08\0", b"\0\x08", b"\0\x02")
        return head[:2] in groups
    # Implicit: the length of a date, a code or an identifier; group 8 begins with a handful of elements.
    element, length = (int.from_bytes(head[i:j], "little") for i, j in ((2, 4), (4, 8)))
    return head[:2] == b"\x08\0" and element in (0, 1, 5, 6, 8, 0x12, 0x13, 0x14, 0x16, 0x18) and 0 < length <= 256


# What stills begin with, as far as it cannot be chance.
_STILL_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def kind_of(path: Path) -> str:
    """"clip", "dicom", "still", or "" for none of them: by content, and by its ending where that tells nothing. OSError when it
    cannot be opened."""
    ending = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[128:132] == b"DICM":
        return "dicom"
    if clip_by_content(head):
        return "clip"
    if ending not in CLIPS and (head.startswith(_STILL_STARTS) or head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "still"
    if ending in CLIPS | STILLS:
        return "clip" if ending in CLIPS else "still"
    return "dicom" if ending in DICOMS or dicom_by_content(head) else ""


def is_clip(path: Path) -> bool:
    """By its ending, or by its content whatever the ending. OSError when it cannot be opened."""
    if path.suffix.lower() in CLIPS:
        return True
    with path.open("rb") as file:
        return bool(clip_by_content(file.read(HEAD)))
