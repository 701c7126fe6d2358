"""DICOM cines as scanners write them, with a patient in them who must be seen nowhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)


def cine(path: Path, images: list[np.ndarray], frame_time_ms: float) -> Path:
    """Grey pictures [H,W], uncompressed."""
    data = _cine(images, "MONOCHROME2")
    data.FrameTime, data.PixelData = frame_time_ms, np.stack(images).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def _cine(images: list[np.ndarray], kind: str, syntax: UID = ExplicitVRLittleEndian) -> FileDataset:
    """All but the pixels of `images`, [H,W] or [H,W,3]."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Canary^Jane", "Canary-42"
    data.Rows, data.Columns = images[0].shape[:2]
    data.NumberOfFrames = len(images)
    data.SamplesPerPixel, data.PhotometricInterpretation = images[0].ndim * 2 - 3, kind
    if images[0].ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    return data


# -- the forms in which ultrasound cines come: of RGB pictures [H,W,3], their red alone where the form has one value a pixel


def _raw(images: list[np.ndarray], kind: str, pixels: np.ndarray, **tags: Any) -> FileDataset:
    data = _cine(images, kind)
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    return data


def _red(images: list[np.ndarray]) -> list[np.ndarray]:
    return [image[..., 0] for image in images]


def _ybr(images: list[np.ndarray]) -> np.ndarray:
    """[N,H,W,3] in DICOM's order Y, Cb, Cr."""
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] for image in images])


def _half_chroma(images: list[np.ndarray]) -> np.ndarray:
    """Two pixels as Y, Y, Cb, Cr."""
    ybr = _ybr(images)
    pair = [ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]]
    return np.stack(pair, axis=-1)


def _palette(images: list[np.ndarray]) -> FileDataset:
    data = _raw(_red(images), "PALETTE COLOR", np.stack(_red(images)))
    for colour, brightest in (("Red", 255), ("Green", 128), ("Blue", 0)):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        entries = (np.arange(256) * brightest).astype(np.uint16)
        setattr(data, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    return data


def _packed(images: list[np.ndarray], kind: str, syntax: UID, format: str, **options: Any) -> FileDataset:
    def encode(image: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, format, **options)
        return out.getvalue()

    data = _cine(images, kind, syntax)
    data.PixelData = encapsulate([encode(image) for image in images])
    data["PixelData"].VR = "OB"
    return data


def _rle(data: FileDataset) -> FileDataset:
    data.compress(RLELossless)
    return data


J2K = {"format": "JPEG2000", "no_jp2": True, "irreversible": False}
JPEG = {"format": "JPEG", "quality": 95}
GREY, RGB, PALETTE = "grey", "rgb", "palette"  # what comes out
FORMS: dict[str, tuple[Callable[[list[np.ndarray]], FileDataset], str]] = {
    "grey": (lambda i: _raw(_red(i), "MONOCHROME2", np.stack(_red(i))), GREY),
    "inverted grey": (lambda i: _raw(_red(i), "MONOCHROME1", 255 - np.stack(_red(i))), GREY),
    "RGB": (lambda i: _raw(i, "RGB", np.stack(i)), RGB),
    "RGB by planes": (lambda i: _raw(i, "RGB", np.stack(i).transpose(0, 3, 1, 2), PlanarConfiguration=1), RGB),
    "YBR": (lambda i: _raw(i, "YBR_FULL", _ybr(i)), RGB),
    "YBR of half chroma": (lambda i: _raw(i, "YBR_FULL_422", _half_chroma(i)), RGB),
    "palette": (_palette, PALETTE),
    "RLE grey": (lambda i: _rle(_raw(_red(i), "MONOCHROME2", np.stack(_red(i)))), GREY),
    "RLE RGB": (lambda i: _rle(_raw(i, "RGB", np.stack(i))), RGB),
    "RLE palette": (lambda i: _rle(_palette(i)), PALETTE),
    "JPEG grey": (lambda i: _packed(_red(i), "MONOCHROME2", JPEGBaseline8Bit, **JPEG), GREY),
    "JPEG": (lambda i: _packed(i, "YBR_FULL_422", JPEGBaseline8Bit, **JPEG), RGB),
    "JPEG that calls itself RGB": (lambda i: _packed(i, "RGB", JPEGBaseline8Bit, **JPEG), RGB),
    "JPEG 2000 grey": (lambda i: _packed(_red(i), "MONOCHROME2", JPEG2000Lossless, **J2K), GREY),
    "JPEG 2000": (lambda i: _packed(i, "YBR_RCT", JPEG2000Lossless, **J2K), RGB),
}


def cine_of(form: str, path: Path, images: list[np.ndarray], **tags: Any) -> list[np.ndarray]:
    """Writes RGB pictures in one of FORMS, with further tags; what should come out of it, BGR or grey."""
    make, kind = FORMS[form]
    data = make(images)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    if kind == RGB:
        return [image[..., ::-1] for image in images]
    if kind == GREY:
        return _red(images)
    return [np.stack([0 * red, red // 2, red], axis=-1) for red in _red(images)]
