"""What is a clip, what a still, what DICOM: the one table that `run`, `score`, folders, help texts and docs follow."""

from __future__ import annotations

from pathlib import Path

# Endings of the containers that FFmpeg plays, as scanners, grabbers, phones and screen recorders write them.
CLIPS = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".264", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm",
    ".wmv",
})  # fmt: skip
STILLS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm"})
DICOMS = frozenset({".dcm", ".dicom"})
KNOWN = CLIPS | STILLS | DICOMS

TS_PACKET = 188  # bytes of a transport stream's packet, which begins with TS_SYNC
TS_SYNC = 0x47
TS_PACKETS = 4  # packets whose first byte is looked at: four bytes by chance are one file in four thousand million
HEAD = 3 * TS_PACKET + 1  # bytes of a file that `clip_by_content` wants


def clip_by_content(head: bytes) -> str:
    """The container that a file's first HEAD bytes tell, in a word; "" when they tell none."""
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
    syncs = head[: TS_PACKETS * TS_PACKET : TS_PACKET]
    return "ts" if len(syncs) == TS_PACKETS and set(syncs) == {TS_SYNC} else ""


def is_clip(path: Path) -> bool:
    """By its ending; of a file whose ending is in no table, by its content. OSError when it cannot be opened."""
    suffix = path.suffix.lower()
    if suffix in KNOWN:
        return suffix in CLIPS
    with path.open("rb") as file:
        return bool(clip_by_content(file.read(HEAD)))
