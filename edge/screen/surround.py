"""Whether a screen without a fan is a menu for sure: not the same screen with a dark picture, and not a notice.

A new exam hangs on it, so that doubt is told.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.geometry import rasterise, scaled
from edge.screen.preprocess import to_grey
from edge.screen.signal import NOTICE_SPREAD

CHANGED_LEVELS = 16  # grey levels by which a pixel around the fan has become another
CHANGED_SHARE = 0.3  # of the lettering then and now around the fan: a menu leaves little, a clock changes less (chosen)
BACKGROUND_LEVELS = 8  # grey levels around the commonest one that are no lettering


class Surround:
    """Remembers what stood around the fan."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None  # uint8, the last screen with a fan, small
        self._around = np.zeros((0, 0), bool)
        self._fan: Fan | None = None

    def see(self, tiny: np.ndarray, fan: Fan, shape: tuple[int, ...]) -> None:
        """A small screen, uint8 grey or BGR, with its fan, of one of `shape` (height, width, ...)."""
        self._last = to_grey(tiny)
        if fan is not self._fan:
            height, width = self._last.shape
            covered = rasterise(scaled(fan, width / shape[1]), (0, 0, width, height)).astype(np.uint8)
            self._around, self._fan = cv2.dilate(covered, np.ones((5, 5), np.uint8)) == 0, fan

    def is_menu(self, tiny: np.ndarray) -> bool:
        """Whether a small screen without a fan is a menu for sure."""
        grey = to_grey(tiny)
        lettering = _lettering(grey)
        rows, columns = np.flatnonzero(lettering.any(axis=1)), np.flatnonzero(lettering.any(axis=0))
        if not rows.size or (np.ptp(rows) + 1) * (np.ptp(columns) + 1) < NOTICE_SPREAD * grey.size:
            return False  # a notice or a logo, wherever it stands
        if self._last is None or self._last.shape != grey.shape:
            return True
        written = (_lettering(self._last) | lettering) & self._around
        if not written.any():
            return True  # there was nothing around the fan to know the screen by
        changed = (cv2.absdiff(grey, self._last) > CHANGED_LEVELS) & written
        return bool(np.count_nonzero(changed) > CHANGED_SHARE * np.count_nonzero(written))


def _lettering(grey: np.ndarray) -> np.ndarray:
    """bool [h,w]: what is not the commonest grey level."""
    mode = int(np.argmax(np.bincount(grey.ravel(), minlength=256)))
    return cv2.absdiff(grey, np.full_like(grey, mode)) > BACKGROUND_LEVELS
