"""Scoring of files: stills, folders of them, DICOM, clips. Pictures in, one record a frame out; nothing is latched."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge.capture.recorded import FileSource
from edge.decision.assess import assess
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import InputError
from edge.records import Frame, Reading, Scores
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still

CLIPS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".mpeg", ".mpg", ".webm", ".m4v", ".ts"})
STILLS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm"})
DICOMS = frozenset({".dcm", ".dicom"})
MAX_BYTES = 2**30  # of one file: an hour of 720p H.264; larger is a mistake that would fill memory


@dataclass(frozen=True)
class Scored:
    """One frame's result. `reading.crop` is what the model saw when the signal is OK."""

    path: Path
    frame: int
    reading: Reading
    assessable: bool
    reasons: tuple[str, ...]
    scores: Scores
    crop: np.ndarray  # uint8 [S,S]: what was scored
    ms: float  # screen reading, preprocessing and inference


def list_files(paths: list[Path]) -> Iterator[Path]:
    """The files that are named, and those in the folders that are named (recursively, by name, known endings only)."""
    known = CLIPS | STILLS | DICOMS
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in known)
        else:
            yield path


def score_file(path: Path, scorer: Scorer, every: int = 1) -> Iterator[Scored]:
    """Every `every`-th frame of one file. InputError when it cannot be read; frames before a fault have been given."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes; at most {MAX_BYTES} are read: cut the clip")
    spec = scorer.manifest.preprocessing
    params = DecisionParams.from_manifest(scorer.manifest)
    suffix = path.suffix.lower()
    if suffix in CLIPS:
        with FileSource(path, fast=True) as source:
            frames = iter(source.read, None)
            yield from _score_cine(path, frames, scorer, spec, params, every)
    elif suffix in DICOMS or _is_dicom(path):
        images, fps = read_dicom(path)
        if len(images) == 1:
            yield _score(path, 0, images[0], read_still(images[0], spec), scorer, spec, params, time.perf_counter())
        else:
            frames = (Frame(i, round(i * 1e9 / fps), image) for i, image in enumerate(images))
            yield from _score_cine(path, frames, scorer, spec, params, every)
    else:
        started = time.perf_counter()
        image = _read_still_file(path)
        yield _score(path, 0, image, read_still(image, spec), scorer, spec, params, started)


def _score_cine(
    path: Path, frames: Iterator[Frame], scorer: Scorer, spec: Preprocessing, params: DecisionParams, every: int
) -> Iterator[Scored]:
    reader = ScreenReader(spec)
    for frame in frames:
        started = time.perf_counter()
        reading = reader.read(frame)
        if frame.id % every == 0:
            yield _score(path, frame.id, frame.image, reading, scorer, spec, params, started)


def _score(
    path: Path,
    frame: int,
    image: np.ndarray,
    reading: Reading,
    scorer: Scorer,
    spec: Preprocessing,
    params: DecisionParams,
    started: float,
) -> Scored:
    crop = reading.crop
    if crop is None:  # probabilities are given all the same; `assessable` says that they mean nothing
        crop = prepare(image, reading.fan or full_fan(image.shape), spec)
    scores = scorer.score(crop)
    assessable, reasons = assess(reading.signal, scores.plane, scores.ood, params)
    return Scored(path, frame, reading, assessable, reasons, scores, crop, (time.perf_counter() - started) * 1e3)


def _read_still_file(path: Path) -> np.ndarray:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise InputError(
            f"{path}: OpenCV refuses to decode it ({error.code}); it may be damaged or too large"
        ) from None
    if image is None:
        raise InputError(f"{path}: not a picture, clip or DICOM file that can be decoded; convert it to PNG or MP4")
    return image


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames of a DICOM file, uint8 grey [H,W] or BGR [H,W,3], and its frame rate (25 when it states none).

    InputError naming the file for anything that pydicom cannot decode. No text of the data set is read but pixel format and rate.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    try:
        with warnings.catch_warnings():  # vendors' small breaches of the standard; what cannot be decoded still raises
            warnings.simplefilter("ignore")
            data = dcmread(path)
            pixels = pixel_array(data)  # YBR comes back as RGB
            kind = str(data.PhotometricInterpretation)
            if kind == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, data)
            elif kind.startswith("MONOCHROME"):
                pixels = apply_modality_lut(pixels, data)
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise InputError(f"{path}: cannot be decoded as DICOM ({type(error).__name__}: {error})") from None
    coloured = not kind.startswith("MONOCHROME")
    frames = pixels if pixels.ndim == (4 if coloured else 3) else pixels[None]
    if frames.dtype != np.uint8:  # stretch: 12- and 16-bit data have no common window
        low, high = float(frames.min()), float(frames.max())
        frames = ((frames.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
    if kind == "MONOCHROME1":
        frames = 255 - frames
    images = [np.ascontiguousarray(f[..., 2::-1] if coloured else f) for f in frames]  # RGB -> BGR
    return images, _frame_rate(data)


def _frame_rate(data: object) -> float:
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = getattr(data, name, None)
        if rate:
            return float(rate)
    frame_time = getattr(data, "FrameTime", None)  # milliseconds
    return 1000.0 / float(frame_time) if frame_time else 25.0
