"""What is left of the difference between two pictures once one lies over the other: moved, zoomed, turned, in other greys.

A held picture may be moved by a camera that shakes, or by the operator who zooms or changes the grey map: all of it moves
alike, and little is left. What is alive moves in more ways than one, and more is left the longer ago.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from edge.records import Fingerprint
from edge.screen.likeness import Cells, Fingerprinter

SIDE = 64  # px of the picture on which one is laid over another: a shift of 4 px of the screen is a third of a pixel of it
TURNS = 8  # steps towards the best place, at most
NEAR = 0.01  # px of SIDE; a step that moves less than that is the last: .15 px of a screen
UNIT = SIDE / 4  # px from the centre at which a change of size by 1/UNIT moves a pixel by one
RIDGE = 1e-4  # share by which each way's strength is raised: an even picture has none
COMMON = 0.5  # of the fan, that two pictures which lie over each other share at least
LEVELS = 60.0  # grey levels that make a unit of gain
SMOOTH = (5, 5)  # px of a crop over which both are smoothed at the end: halves what moving by parts of a pixel leaves (measured)

Place = np.ndarray  # float64 [3,3]: where on one picture the points of the other lie, pixels of SIDE from the centre


@dataclass(frozen=True)
class Reference:
    """A picture that others are laid over. `crop`: uint8 [S,S]."""

    crop: np.ndarray = field(repr=False, compare=False)
    taken: Fingerprint = field(repr=False, compare=False)
    smooth: Fingerprint = field(repr=False, compare=False)  # of the crop made smooth
    small: np.ndarray = field(repr=False, compare=False)  # float32 [SIDE,SIDE]
    ways: np.ndarray = field(repr=False, compare=False)  # float32 [8,SIDE*SIDE]: what it changes by when it is moved
    strength: np.ndarray = field(repr=False, compare=False)  # float64 [8,8]
    counts: np.ndarray = field(repr=False, compare=False)  # float64 [256]: of its grey levels inside the fan, summed up


class Aligner:
    """Lays pictures of one fan over each other; `fan`: bool [S,S], where on a crop it lies."""

    def __init__(self, prints: Fingerprinter, fan: np.ndarray) -> None:
        self._prints, self._cells = prints, Cells(prints.inside)
        self._fan = np.asarray(cv2.erode(fan.astype(np.uint8), np.ones((3, 3), np.uint8)), np.uint8)
        small = cv2.resize(self._fan, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        self._small = cv2.erode(small, np.ones((5, 5), np.uint8)).astype(np.float32)
        self._box = np.flatnonzero(self._fan)
        across = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2) / UNIT
        self.grain = 1.0  # correlation of the finest detail, -1 to 1, of the two that were laid over each other last
        self._x, self._y = np.meshgrid(across, across)

    def reference(self, crop: np.ndarray, taken: Fingerprint) -> Reference:
        """uint8 [S,S] with its fingerprint."""
        small = _small(crop)
        right, down = (cv2.Scharr(small, cv2.CV_32F, *way) / 32 for way in ((1, 0), (0, 1)))
        ways = np.stack(
            [right * self._x, right * self._y, right, down * self._x, down * self._y, down, small / LEVELS, self._small]
        )
        ways = (ways * self._small).reshape(8, -1)
        strength = (ways @ ways.T).astype(np.float64)
        strength[np.diag_indices(8)] += RIDGE * strength.diagonal() + 1e-2
        smooth = self._prints.take(cv2.GaussianBlur(crop, SMOOTH, 0))
        return Reference(crop, taken, smooth, small, ways, strength, self._counted(crop))

    def left(self, over: Reference, crop: np.ndarray, start: Place | None = None) -> tuple[float, Place]:
        """(what is left of the difference, grey levels of cells; where it lies on the other), from a first guess."""
        place = np.eye(3) if start is None else start
        crop = cv2.LUT(crop, self._greys(over, crop))
        small = _small(crop)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for _ in range(TURNS):
            moved = cv2.warpAffine(small, _from_corner(place, SIDE), (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            by = np.linalg.solve(over.strength, over.ways @ (moved - over.small).ravel())
            zoom = by / UNIT
            step = np.array([[1 + zoom[0], zoom[1], by[2]], [zoom[3], 1 + zoom[4], by[5]], [0, 0, 1]])
            place = place @ np.linalg.inv(step)
            if np.abs(by[:6]).max() < NEAR:
                break
        size = (crop.shape[1], crop.shape[0])
        full = _from_corner(place, size[0])
        there = np.asarray(cv2.warpAffine(self._fan, full, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP), np.uint8)
        if np.count_nonzero(there & self._fan) < COMMON * self._box.size:
            self.grain = 0.0
            return float("inf"), np.eye(3)  # it ran away: with next to nothing in common nothing would be left
        moved = cv2.warpAffine(crop, full, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        fine = moved.astype(np.float32) - cv2.GaussianBlur(moved, SMOOTH, 0)
        own = over.crop.astype(np.float32) - cv2.GaussianBlur(over.crop, SMOOTH, 0)
        both = cv2.erode(there & self._fan, np.ones((3, 3), np.uint8)).astype(np.float32)
        strength = float(np.sqrt((both * fine * fine).sum() * (both * own * own).sum()))
        self.grain = float((both * fine * own).sum()) / strength if strength > 1.0 else 1.0
        laid = cv2.GaussianBlur(cv2.copyTo(moved, there, over.crop.copy()), SMOOTH, 0)
        values = self._cells.of(self._prints.take(laid).values)
        return float(self._cells.differences(over.smooth, values[None])[0]), place

    def apart(self, one: Fingerprint, taken: Fingerprint) -> float:
        """What differs as the pictures are, grey levels of cells."""
        return float(self._cells.differences(one, self._cells.of(taken.values)[None])[0])

    def contrast(self, taken: Fingerprint) -> float:
        """Grey levels: the standard deviation of a picture's cells."""
        values = self._cells.of(taken.values)
        return float(values.std()) if values.size else 0.0

    def _counted(self, crop: np.ndarray) -> np.ndarray:
        return np.bincount(crop.ravel()[self._box], minlength=256).cumsum().astype(np.float64)

    def _greys(self, over: Reference, crop: np.ndarray) -> np.ndarray:
        """uint8 [256]: each grey level of a picture -> the level of the other that as many pixels are darker than."""
        counts = self._counted(crop)
        own = np.diff(counts, prepend=0.0)
        middle = counts - own / 2
        there = np.diff(over.counts, prepend=0.0)
        levels = np.flatnonzero(there)
        if not levels.size:
            return np.arange(256, dtype=np.uint8)
        return np.rint(np.interp(middle, over.counts[levels] - there[levels] / 2, levels)).astype(np.uint8)


def _small(crop: np.ndarray) -> np.ndarray:
    """uint8 [S,S] -> float32 [SIDE,SIDE], smooth enough to be moved by a pixel along its slopes."""
    return cv2.GaussianBlur(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32), (3, 3), 0)


def _from_corner(place: Place, side: int) -> np.ndarray:
    """float64 [2,3], as OpenCV wants it: in pixels of a picture of `side` from its corner."""
    centre = (side - 1) / 2
    out = place[:2].copy()
    out[:, 2] = place[:2, 2] * side / SIDE + centre - place[:2, :2] @ (centre, centre)
    return out
