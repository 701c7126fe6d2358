"""The pictures of a DICOM file, and nothing else of it."""

from __future__ import annotations

import logging
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from edge.capture.aspect import Squarer
from edge.capture.pacer import FALLBACK_FPS, PAUSE_MAX_S, usable_fps
from edge.errors import InputError


@dataclass(frozen=True)
class Cine:
    """The frames of a DICOM file as they are stored, uint8 grey [H,W] or BGR [H,W,3].

    fps: frames per second, 25 when it states none that can be. times_s: each frame's own, seconds from the first; None where
    they follow each other at `fps`. pixel_aspect: width of a pixel over its height, None when the file does not say.
    """

    images: list[np.ndarray]
    fps: float
    times_s: list[float] | None
    pixel_aspect: float | None

    def at_s(self, index: int) -> float:
        """When a frame was taken, seconds from the first."""
        return index / self.fps if self.times_s is None else self.times_s[index]


def read_square(path: Path) -> Cine:
    """`read_cine`, with square pixels."""
    cine = read_cine(path)
    squarer = Squarer(str(path), cine.pixel_aspect)
    return replace(cine, images=[squarer.square(image) for image in cine.images], pixel_aspect=1.0)


def read_dicom(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames of `read_square` and their frame rate."""
    cine = read_square(path)
    return cine.images, cine.fps


def read_cine(path: Path) -> Cine:
    """A DICOM file, still or moving.

    Eight bits are taken as they are stored, a rescale to other units included: they are the screen's own levels. More
    bits are stretched over all frames. InputError naming the file for anything that pydicom cannot decode. No text of
    the data set is read but pixel format and rate.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote what is odd, a patient's name included
    try:
        with warnings.catch_warnings():  # vendors' small breaches of the standard; what cannot be decoded still raises
            warnings.simplefilter("ignore")
            data = dcmread(path)
            pixels = pixel_array(data)  # YBR comes back as RGB
            kind = str(data.PhotometricInterpretation)
            if data.BitsStored <= 8 and pixels.dtype.kind == "u":  # they may lie in 16-bit cells
                pixels = pixels.astype(np.uint8)
            if kind == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, data)
                # 16-bit entries are levels of the full range, never to be stretched; some makers use the low byte only.
                pixels = (pixels >> 8 if pixels.max() > 255 else pixels).astype(np.uint8)
            elif kind.startswith("MONOCHROME") and pixels.dtype != np.uint8:
                pixels = apply_modality_lut(pixels, data)
    except Exception as error:  # many kinds for damaged files; their words quote what is odd, a patient's name included
        raise InputError(
            f"{path}: cannot be decoded as DICOM ({type(error).__name__}); export it again, uncompressed"
        ) from None
    coloured = not kind.startswith("MONOCHROME")
    frames = pixels if pixels.ndim == (4 if coloured else 3) else pixels[None]
    if frames.dtype != np.uint8:  # stretch: 12- and 16-bit data have no common window
        low, high = float(frames.min()), float(frames.max())
        frames = np.rint((frames.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
    if kind == "MONOCHROME1":
        frames = 255 - frames
    images = [np.ascontiguousarray(f[..., 2::-1] if coloured else f) for f in frames]  # RGB -> BGR
    return Cine(images, _frame_rate(data), _frame_times_s(data, len(images)), _pixel_aspect(data))


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
