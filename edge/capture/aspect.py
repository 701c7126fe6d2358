"""Pixels that are not square. A circle on the scanner's screen must be one in the picture: geometry and model rest on it."""

from __future__ import annotations

import logging
import math

import cv2
import numpy as np

log = logging.getLogger(__name__)

SQUARE = 0.01  # of 1: a pixel that is so nearly square is taken for square; it moves the edge of a 1280 wide picture by 12
RANGE = (0.25, 4.0)  # width over height of a pixel; broadcast's lie between .53 and 2.13, anything beyond is a damaged header
# Sizes of broadcast and of camcorders, whose pixels are hardly ever square: said, when nothing says what they are.
NEVER_SQUARE = frozenset({
    (704, 480), (720, 480), (704, 576), (720, 576), (352, 480), (352, 576), (480, 480), (480, 576), (544, 576), (528, 480),
    (960, 1080), (1280, 1080), (1440, 1080),
})  # fmt: skip


class Squarer:
    """Makes a source's pixels square by stretching their shorter side, so that nothing that was sampled is lost.

    `told`: width over height of a pixel as the source tells it, None or 0 when it does not. `set_to`: what the configuration
    says, which goes before it. `words`: for people, "" while there is nothing to say.
    """

    def __init__(self, name: str, told: float | None, set_to: float | None = None) -> None:
        self._name, self.told = name, told
        self._asked = set_to is not None
        self.words = ""
        known = told is not None and math.isfinite(told) and told > 0
        self._unknown = not known and not self._asked
        aspect = set_to if set_to is not None else told if known and told is not None else 1.0
        if not RANGE[0] <= aspect <= RANGE[1]:
            self._say(f"pixels {aspect:.3g} times as wide as high cannot be: taken for square; set capture.pixel_aspect")
            aspect = 1.0
        self._aspect = aspect if abs(aspect - 1.0) > SQUARE else 1.0
        self._seen: tuple[int, int] | None = None  # width and height of the last picture

    def square(self, image: np.ndarray) -> np.ndarray:
        """uint8 grey [H,W] or BGR [H,W,3] -> the same picture with square pixels; the very array where it has them."""
        height, width = image.shape[:2]
        if self._aspect > 1.0:
            size = round(width * self._aspect), height
        else:
            size = width, round(height / self._aspect)
        if (width, height) != self._seen:
            self._seen = width, height
            self._describe(size)
        return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)

    def _describe(self, size: tuple[int, int]) -> None:
        if self._aspect != 1.0:
            whose = "capture.pixel_aspect" if self._asked else "the source"
            self._say(f"pixels {self._aspect:.4g}:1 ({whose} says so), made square: {size[0]}x{size[1]}")
        elif self._unknown and size in NEVER_SQUARE:
            self._say(
                "pixels taken for square, which they hardly ever are in this size, and nothing says it: if a circle is an"
                " ellipse, set capture.pixel_aspect"
            )

    def _say(self, words: str) -> None:
        if words != self.words:
            log.warning("%s: %s", self._name, words)
        self.words = words


def told_by_opencv(capture: cv2.VideoCapture) -> float | None:
    """Width over height of a pixel as container or stream tell it; None when they do not.

    OpenCV gives the stored picture's, also of one that it turns upright: a quarter turn makes width of height.
    """
    across, down = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    if not (across > 0 and down > 0):
        return None
    turned = capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) and round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) in (90, 270)
    return down / across if turned else across / down
