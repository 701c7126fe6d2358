"""The one preprocessing function, used by calibration, training, validation and the daemon alike."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.geometry import fan_mask


@dataclass(frozen=True)
class Preprocessing:
    """How a fan becomes a model input; travels in the bundle's manifest, never in code.

    size: side S of the square input, pixels. pad: grey value [0,255] outside the fan and around the letterboxed crop.
    Aspect is kept; area interpolation when shrinking (linear aliases speckle), linear when enlarging.
    """

    size: int = 192
    pad: int = 0


def to_grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W] or BGR [H,W,3] -> uint8 [H,W] (BT.601 luma, as a scanner's own grey map gives equal channels)."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def to_screen(image: np.ndarray) -> np.ndarray:
    """uint8 [H,W] or [H,W,1|3|4] -> grey [H,W] or BGR [H,W,3]: some sources add a channel that says nothing."""
    if image.ndim == 2 or image.shape[2] == 3:
        return image
    return image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])


def letterbox(grey: np.ndarray, spec: Preprocessing) -> np.ndarray:
    """uint8 [H,W] -> uint8 [S,S], centred, aspect kept."""
    height, width = grey.shape
    scale = spec.size / max(height, width)
    new_w, new_h = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey, (new_w, new_h), interpolation=interpolation)
    out = np.full((spec.size, spec.size), spec.pad, np.uint8)
    top, left = (spec.size - new_h) // 2, (spec.size - new_w) // 2
    out[top : top + new_h, left : left + new_w] = small
    return out


def prepare(image: np.ndarray, fan: Fan, spec: Preprocessing) -> np.ndarray:
    """One screen and its fan -> model input, uint8 [S,S]: everything outside the fan replaced by `pad`."""
    x0, y0, x1, y1 = fan.box
    grey = to_grey(image[y0:y1, x0:x1])
    if fan.kind == "sector":
        # As np.where, in a tenth of its time: this is done thirty times a second on most of the screen.
        outside = np.full_like(grey, spec.pad)
        grey = cv2.copyTo(grey, fan_mask(fan, fan.box).view(np.uint8), outside)
    return letterbox(grey, spec)
