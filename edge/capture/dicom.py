"""The pictures of a DICOM file, and nothing else of it."""

from __future__ import annotations

import io
import logging
import statistics
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np

from edge.capture.aspect import Squarer
from edge.capture.dicom_frames import UNDEFINED, Piece, packed_pieces, plain_pieces, stream_of
from edge.capture.jpeg import scan_jpeg
from edge.capture.pacer import FALLBACK_FPS, PAUSE_MAX_S, usable_fps
from edge.errors import InputError
from edge.kinds import PIXELS_MAX

log = logging.getLogger(__name__)

VALUE_MAX = 2**20  # bytes of one value of the header that is kept in memory: larger ones are none that are read
INFLATED_MAX = 2**28  # bytes of a deflated file once inflated: a minute of VGA in grey
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_DIRECTORY = "1.2.840.10008.1.3.10"
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation")
# How much greyer a picture must be, read as luma and colour differences or as RGB, to be taken for that whatever it is called.
# Of ultrasound nearly all is grey or black: black read as the wrong one is 256 levels from grey.
GREYER, GREY_ENOUGH = 4.0, 16.0  # times; levels that the other reading must be off by at least
SAMPLED = 4  # every so many pixels and lines are looked at for that


@dataclass(frozen=True)
class Cine:
    """A DICOM file whose pictures are read one by one.

    count: pictures in it, damaged ones included. fps: frames per second, 25 when it states none that can be. times_s: each
    picture's own, seconds from the first; None where they follow each other at `fps`. pixel_aspect: width of a pixel over its
    height, None when the file does not say.
    """

    path: Path
    count: int
    fps: float
    times_s: list[float] | None
    pixel_aspect: float | None

    def at_s(self, index: int) -> float:
        """When a frame was taken, seconds from the first."""
        return index / self.fps if self.times_s is None else self.times_s[index]

    def pictures(self, damaged: Callable[[int], None] = lambda index: None) -> Iterator[tuple[int, np.ndarray]]:
        """Each whole picture and its place, uint8 grey [H,W] or BGR [H,W,3] as it is stored; one in memory at a time.

        `damaged` is told the place of each that is not whole. InputError when none is.
        """
        with _opened(self.path) as (file, head):
            yield from _pictures(self.path, file, head, damaged)

    def square_pictures(self, damaged: Callable[[int], None] = lambda index: None) -> Iterator[tuple[int, np.ndarray]]:
        """The same, with square pixels."""
        squarer = Squarer(str(self.path), self.pixel_aspect)
        return ((index, squarer.square(image)) for index, image in self.pictures(damaged))


def read_dicom(path: Path) -> tuple[list[np.ndarray], float]:
    """All whole pictures of a DICOM file with square pixels, in memory, and their frame rate. InputError as `open_cine`."""
    cine = open_cine(path)
    return [image for _, image in cine.square_pictures()], cine.fps


def open_cine(path: Path) -> Cine:
    """A DICOM file, still or moving, with or without its preamble. No picture is decoded yet.

    Eight bits are taken as they are stored, a rescale to other units included: they are the screen's own levels. More
    bits are stretched over all frames. InputError says what the file is when it has no picture that can be read. No text
    of the data set is read but pixel format and rate.
    """
    with _opened(path) as (file, head):
        count = len(_pieces(path, file, head))
        return Cine(path, count, _frame_rate(head), _frame_times_s(head, count), _pixel_aspect(head))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """The file, at the element of its pixels, and the data set before it."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote what is odd, a patient's name included
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; give a DICOM file")
    with warnings.catch_warnings(), path.open("rb") as raw:
        warnings.simplefilter("ignore")  # vendors' small breaches of the standard; what cannot be read still raises
        try:
            file, head = _read_head(path, raw)
        except InputError:
            raise
        except Exception:  # many kinds for damaged files; their words quote what is odd, a patient's name included
            raise InputError(f"{path}: its DICOM header is damaged or cut off; copy it again") from None
        yield file, head


def _read_head(path: Path, raw: BinaryIO) -> tuple[BinaryIO, Any]:
    from pydicom import dcmread
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import ExplicitVRLittleEndian

    read_preamble(raw, True)
    meta = _read_file_meta_info(raw)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        raw.seek(0)
        return raw, dcmread(raw, stop_before_pixels=True, force=True, defer_size=VALUE_MAX)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = io.BytesIO(inflater.decompress(raw.read(), INFLATED_MAX))
    if inflater.unconsumed_tail:
        raise InputError(f"{path}: more than {INFLATED_MAX >> 20} MiB once inflated; export it without deflation, or in parts")
    head = dcmread(inflated, stop_before_pixels=True, force=True)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head.file_meta = meta
    return inflated, head


def _syntax(head: Any) -> Any:
    """The transfer syntax; where the file names none, the plain one that it was read in."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if said := getattr(head, "file_meta", {}).get("TransferSyntaxUID"):
        return UID(said)
    implicit, little = head.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _pieces(path: Path, file: BinaryIO, head: Any) -> list[Piece]:
    """Where each picture lies. InputError saying what the file is when it holds none that can be read."""
    try:
        return _found(path, file, head)
    except InputError:
        raise
    except Exception:  # pydicom converts a value when it is asked for, and raises many kinds
        raise InputError(f"{path}: its DICOM header is damaged; export it again") from None


def _found(path: Path, file: BinaryIO, head: Any) -> list[Piece]:
    from pydicom.uid import AllTransferSyntaxes

    syntax, element = _syntax(head), file.read(8)
    at = file.tell()
    if syntax not in AllTransferSyntaxes:
        raise InputError(f"{path}: compressed with a maker's own compression, which is not read; export it uncompressed")
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    tag = tuple(int.from_bytes(element[i : i + 2], order) for i in (0, 2))
    if len(element) < 8 or tag[0] != 0x7FE0:
        raise InputError(f"{path}: {_what(head)}")
    if tag[1] != 0x0010:
        raise InputError(f"{path}: its pixels are floating-point numbers, no picture of a screen; export the picture itself")
    if missing := [name for name in NEEDED if getattr(head, name, None) in (None, "")]:
        raise InputError(f"{path}: its DICOM header lacks {', '.join(missing)}; export it again")
    if syntax.is_implicit_VR:
        length, start = int.from_bytes(element[4:], order), at
    else:  # the tag, OB or OW, two bytes that are reserved, the length
        length, start = int.from_bytes(file.read(4), order), at + 4
    if head.Rows < 1 or head.Columns < 1 or head.Rows * head.Columns > PIXELS_MAX:
        raise InputError(f"{path}: {head.Columns} x {head.Rows} pixels; a picture has up to {PIXELS_MAX >> 20} million")
    said = _count(head)
    end = file.seek(0, io.SEEK_END)
    if syntax.is_encapsulated and length == UNDEFINED:
        _require_decoder(path, syntax, head.BitsStored)
        pieces = packed_pieces(file, start, end, said, syntax == _RLE)
    elif length == UNDEFINED or syntax.is_encapsulated:
        raise InputError(f"{path}: its DICOM header says {syntax.name}, its pixels are otherwise; export it again")
    else:
        size = _plain_size(head)
        pieces = plain_pieces(start, min(length, end - start), size, said)
    if not pieces:
        raise InputError(f"{path}: cut off before its first picture; copy it again")
    return pieces


def _what(head: Any) -> str:
    """What a DICOM file without pictures is, from the standard's own list of kinds."""
    from pydicom.uid import UID_dictionary

    kind = str(getattr(head, "SOPClassUID", "") or getattr(head, "file_meta", {}).get("MediaStorageSOPClassUID", ""))
    if kind == _DIRECTORY or "DirectoryRecordSequence" in head:
        return "the table of contents of a DICOM medium, without a picture; give the folder, or a file that it lists"
    if kind in UID_dictionary:
        name = UID_dictionary[kind][0].removesuffix(" Storage")
        return f"DICOM of the kind {name}, without a picture; export the picture or the clip itself"
    if "SOPClassUID" in head or "PixelData" in head or "Rows" in head:
        return "a DICOM file without a picture, or cut off before it; export the picture or the clip itself"
    return "not DICOM that can be read; export it again"


def _count(head: Any) -> int:
    try:
        return max(1, int(head.NumberOfFrames))
    except Exception:  # absent, empty, or no number
        return 1


def _require_decoder(path: Path, syntax: Any, bits: int) -> None:
    """InputError naming a compression that nothing here decodes, and the fix."""
    from pydicom.pixels import get_decoder

    name = syntax.name
    if syntax.startswith("1.2.840.10008.1.2.4.10"):  # MPEG-2, MPEG-4 and HEVC
        raise InputError(f"{path}: a clip in {name}; export it as a video file (MP4), or as DICOM with JPEG")
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        raise InputError(f"{path}: compressed with {name}, which is not read; export it uncompressed") from None
    if syntax in _JPEG and bits > 8:
        raise InputError(f"{path}: compressed with {name}, {bits} bits, which is not read; export it uncompressed")
    if not usable:
        raise InputError(
            f"{path}: compressed with {name}; install what decodes it (pip install 'hygroma-edge[dicom]'), or export it "
            "uncompressed"
        )


def _plain_size(head: Any) -> int:
    """Bytes of one uncompressed picture."""
    values = 2 if str(head.PhotometricInterpretation) == "YBR_FULL_422" else int(head.SamplesPerPixel)
    return max(1, (head.Rows * head.Columns * values * head.BitsAllocated + 7) // 8)


def _pictures(
    path: Path, file: BinaryIO, head: Any, damaged: Callable[[int], None]
) -> Iterator[tuple[int, np.ndarray]]:
    pieces, said = _pieces(path, file, head), _count(head)
    if len(pieces) != said:
        log.warning("%s: its header says %d pictures, it holds %d: those are taken", path, said, len(pieces))
    reader = _FrameReader(path, head)
    decoded = partial(_decoded, file, pieces, reader)
    stretch = _stretch(decoded()) if reader.deep else None
    given = 0
    for index, pixels in decoded():
        if pixels is None:
            damaged(index)
            continue
        given += 1
        if stretch is not None:
            low, high = stretch
            pixels = np.rint((pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
        if reader.kind == "MONOCHROME1" and pixels.ndim == 2:
            pixels = 255 - pixels
        yield index, np.ascontiguousarray(pixels)
    if not given:
        what = "its picture" if len(pieces) == 1 else f"none of its {len(pieces)} pictures"
        raise InputError(
            f"{path}: {what} {'cannot' if len(pieces) == 1 else 'can'} be decoded ({_syntax(head).name}); "
            "it is cut off or damaged: copy it again, or export it uncompressed"
        )
    if given < len(pieces):
        log.warning("%s: %d of its %d pictures are cut off or damaged, left out", path, len(pieces) - given, len(pieces))


def _decoded(file: BinaryIO, pieces: list[Piece], reader: _FrameReader) -> Iterator[tuple[int, np.ndarray | None]]:
    """Each picture as `_FrameReader.read` gives it; None for one that is not whole."""
    for index, piece in enumerate(pieces):
        try:
            yield index, None if piece.cut else reader.read(piece.read(file))
        except InputError:
            raise
        except Exception:  # the decoders' many kinds for damaged data
            yield index, None


def _stretch(pictures: Iterator[tuple[int, np.ndarray | None]]) -> tuple[float, float]:
    """Lowest and highest value of all: 12- and 16-bit data have no common window."""
    ends = [(float(pixels.min()), float(pixels.max())) for _, pixels in pictures if pixels is not None]
    return min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)


class _FrameReader:
    """Decodes one picture after another. kind: the photometric interpretation that the header names. deep: the values have more
    than eight bits, or a sign, and are still to be stretched."""

    def __init__(self, path: Path, head: Any) -> None:
        self._path, self._head, self._syntax = path, head, _syntax(head)
        self.kind = str(head.PhotometricInterpretation)
        self._options = {
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
            "pixel_vr": "OB" if head.BitsAllocated <= 8 else "OW",
            "rows": head.Rows,
            "columns": head.Columns,
            "bits_allocated": head.BitsAllocated,
            "bits_stored": head.BitsStored,
            "samples_per_pixel": head.SamplesPerPixel,
            "photometric_interpretation": self.kind,
            "pixel_representation": head.PixelRepresentation,
            "planar_configuration": int(getattr(head, "PlanarConfiguration", None) or 0),
        }
        self.deep = (head.BitsStored > 8 or head.PixelRepresentation == 1) and self.kind != "PALETTE COLOR"
        self._ybr: bool | None = None  # of three values a pixel: colour differences, not colours; None: not known yet

    def read(self, data: bytes) -> np.ndarray:
        """Grey [H,W], of any type where `deep`, or uint8 BGR [H,W,3]. Raises many kinds."""
        from pydicom.pixels import apply_color_lut, apply_modality_lut

        stream = stream_of(data) if self._syntax.is_encapsulated else None
        if stream is not None:
            if not stream.whole:
                raise ValueError("cut off")
            if (stream.height, stream.width) != (self._head.Rows, self._head.Columns):
                raise ValueError("another size than the header's")
        pixels = self._values(data)
        if self._head.BitsStored <= 8 and pixels.dtype.kind == "u":  # they may lie in 16-bit cells
            pixels = pixels.astype(np.uint8)
        if self.kind == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, self._head)
            # 16-bit entries are levels of the full range, never to be stretched; some makers use the low byte only.
            return (pixels >> 8 if pixels.max() > 255 else pixels).astype(np.uint8)[..., 2::-1]
        if pixels.ndim == 2:
            return apply_modality_lut(pixels, self._head) if self.deep else pixels
        if pixels.dtype != np.uint8:
            pixels = (pixels >> max(0, self._head.BitsStored - 8)).astype(np.uint8)
        return self._coloured(pixels, stream.ybr if stream is not None else None)

    def _values(self, data: bytes) -> np.ndarray:
        """As they are coded, nothing converted: [H,W] or [H,W,3]."""
        from pydicom.encaps import encapsulate
        from pydicom.pixels import get_decoder

        if self._syntax in _JPEG and self._head.BitsStored <= 8:
            return _jpeg_values(data)
        decoder = get_decoder(self._syntax)
        source = encapsulate([data]) if self._syntax.is_encapsulated else data
        decode = partial(decoder.as_array, source, raw=True, **self._options)
        if self._syntax in _JPEG_2000:  # Pillow's colours are those that `stream_of` tells
            try:
                return decode(decoding_plugin="pillow")[0]
            except Exception:  # some that it refuses others can decode
                pass
        return decode()[0]

    def _coloured(self, pixels: np.ndarray, said: bool | None) -> np.ndarray:
        """uint8 [H,W,3] -> BGR. said: whether the stream calls them colour differences."""
        if self._ybr is None:
            named = self.kind.startswith("YBR") and self.kind not in ("YBR_RCT", "YBR_ICT")  # which decoders take back
            assumed = named if said is None else said
            self._ybr = _is_ybr(pixels, assumed)
            if self._ybr != named:
                log.info("%s: called %s, taken for %s as its pixels are", self._path, self.kind, "YBR" if self._ybr else "RGB")
        if not self._ybr:
            return pixels[..., 2::-1]
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., [0, 2, 1]]), cv2.COLOR_YCrCb2BGR)


def _jpeg_values(data: bytes) -> np.ndarray:
    """A JPEG's own values, [H,W] or [H,W,3]: what a decoder would make of their colours is left to be found out."""
    from PIL import Image

    jpeg = scan_jpeg(data)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if jpeg.components == 3 and jpeg.ybr is not False:
            image.draft("YCbCr", image.size)
        return np.array(image)


def _is_ybr(pixels: np.ndarray, assumed: bool) -> bool:
    """Whether three values a pixel, uint8 [H,W,3], are luma and colour differences: as assumed, unless the picture is plainly
    grey or black when read the other way, as ultrasound is."""
    first, second, third = (pixels[::SAMPLED, ::SAMPLED, i].astype(np.int16) for i in range(3))
    as_rgb = float(np.mean(np.abs(second - first) + np.abs(third - first)))
    as_ybr = float(np.mean(np.abs(second - 128) + np.abs(third - 128)))
    if as_ybr * GREYER < as_rgb > GREY_ENOUGH:
        return True
    if as_rgb * GREYER < as_ybr > GREY_ENOUGH:
        return False
    return assumed


# Tag -> frames per second. Times are in milliseconds; the first of a vector is 0, before the first frame.
_RATES: dict[str, Callable[[Any], float]] = {
    "CineRate": float,
    "RecommendedDisplayFrameRate": float,
    "FrameTime": lambda ms: 1000 / float(ms),
    "FrameTimeVector": lambda times: 1000 / statistics.fmean(times[1:]),
}


def _frame_rate(data: Any) -> float:
    """Frames per second: the first of four tags that says one from 1 to 240 fps, otherwise 25. Of frames at varying times, the
    mean."""
    for name, said in _RATES.items():
        try:
            fps = said(getattr(data, name))
        except Exception:  # pydicom converts a value when it is asked for, and raises many kinds
            continue
        if usable_fps(fps):
            return fps
    return FALLBACK_FPS


def _frame_times_s(data: Any, count: int) -> list[float] | None:
    """Of frames at varying times, each one's; None when the file gives no time to every frame, or none that can be."""
    try:
        steps_ms = [float(ms) for ms in data.FrameTimeVector]  # since the frame before; the first is 0
    except Exception:  # as in _frame_rate
        return None
    if len(steps_ms) != count or count < 2 or not all(0 < ms <= PAUSE_MAX_S * 1000 for ms in steps_ms[1:]):
        return None
    return [ms / 1000 for ms in accumulate([0.0, *steps_ms[1:]])]


def _pixel_aspect(data: Any) -> float | None:
    """Width of a pixel over its height, from the first tag that says it; both name the height first."""
    for name in ("PixelAspectRatio", "PixelSpacing"):
        try:
            high, wide = (float(part) for part in getattr(data, name))
            return wide / high
        except Exception:  # as in _frame_rate
            continue
    return None
