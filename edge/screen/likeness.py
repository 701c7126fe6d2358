"""How alike two pictures of one source are inside the fan, whatever its camera, cable or codec adds.

A picture's fingerprint is its mean grey level over cells of the screen: noise averages out over a cell, motion does not. Cells
are laid on the screen, not on the fan, so that a better estimate of the fan leaves fingerprints comparable.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.records import Fan, Fingerprint
from edge.screen.geometry import fan_mask

CELLS = 48  # cells along the screen's longest side: 27 px of 1280, over which noise of sigma 3 leaves .16 of difference
CELL_MIN = 16  # px; fewer average too little
CELLS_MIN = 24  # cells inside the fan from which gain, offset and shift are fitted; fewer are compared as they are
ROW_CELLS_MIN = 4  # cells of a row from which its own gain and offset are fitted
ODD_SHARE = 0.03  # of the cells, those that differ most, that never count: a small caliper, a clock (chosen)
DRAWN_SHARE = 0.12  # of the cells, that do not count where some stand out: an ellipse, a line of text, a pointer (chosen)
DRAWN_SCALE = 1.2  # of noise over the cells then left: over all but ODD_SHARE, for which the limits were measured
STANDS_OUT = 100.0  # of the largest square kept, by which drawing stands out and spoils the fit; live pictures have less (chosen)
GAIN_MAX = 0.5  # of a row, either way: a lamp or a rolling bar changes less; a picture that comes out of the dark more
FLAT = 1e-6  # squared grey levels: what varies less has no direction


class Fingerprinter:
    """Makes the fingerprints of one fan on a screen of `shape` (height, width, ...), from crops of side `size`."""

    def __init__(self, fan: Fan, shape: tuple[int, ...], size: int) -> None:
        height, width = shape[:2]
        cell = max(CELL_MIN, -(-max(height, width) // CELLS))
        x0, y0, x1, y1 = fan.box
        scale = size / max(x1 - x0, y1 - y0)
        left, top = ((size - max(1, round(side * scale))) // 2 for side in (x1 - x0, y1 - y0))
        self._area = (cell * scale) ** 2
        # Where the cells' edges lie on the crop, as they are and a pixel of the screen to either side.
        columns, rows = np.arange(width // cell + 1) * cell - x0, np.arange(height // cell + 1) * cell - y0
        self._columns = [_Edges((columns + by) * scale + left, size) for by in (0, 1, -1)]
        self._rows = [_Edges((rows + by) * scale + top, size) for by in (0, 1, -1)]
        inside = np.zeros((height, width), np.uint8)
        edge = 2 * round(1 / scale) + 3  # px: crop pixels on the fan's edge hold some of what lies around it
        inside[y0:y1, x0:x1] = cv2.erode(
            fan_mask(fan, fan.box).astype(np.uint8), np.ones((edge, edge), np.uint8), borderValue=0
        )
        whole = inside[: height // cell * cell, : width // cell * cell]
        cells = whole.reshape(height // cell, cell, width // cell, cell)
        self.inside = np.asarray(cells.all(axis=(1, 3)))
        self.inside.setflags(write=False)

    def take(self, crop: np.ndarray) -> Fingerprint:
        """uint8 [S,S], a crop of this fan -> its fingerprint."""
        sums = cv2.integral(crop).astype(np.float32)
        here, right, left = self._columns
        level, below, above = (edges.of(sums) for edges in self._rows)
        values = here.cells(level)
        across = right.cells(level) - left.cells(level)
        down = here.cells(below) - here.cells(above)
        return Fingerprint(values / self._area, self.inside, np.stack([across, down]) / (2 * self._area))


class _Edges:
    """The cells' edges along one axis of a crop: where in its sums they are looked up."""

    def __init__(self, edges: np.ndarray, size: int) -> None:
        edges = np.clip(edges, 0, size)
        self._low = np.minimum(edges.astype(np.intp), size - 1)
        self._part = (edges - self._low).astype(np.float32)

    def of(self, sums: np.ndarray) -> np.ndarray:
        """[S+1,X] -> [edges,X]"""
        low, part = sums[self._low], self._part[:, None]
        return np.asarray(low + part * (sums[self._low + 1] - low))

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """[row edges, S+1] -> [R,C], sums over cells."""
        return np.diff(np.diff(self.of(rows.T), axis=0), axis=1).T


class Cells:
    """The cells of a mask, bool [R,C], along its rows: what pictures are compared over."""

    def __init__(self, inside: np.ndarray) -> None:
        self.inside = inside
        self.index = np.flatnonzero(inside)
        lengths = np.count_nonzero(inside, axis=1)
        self._lengths = lengths[lengths > 0]
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]]).astype(np.intp)
        self._row = np.repeat(np.arange(len(self._lengths)), self._lengths)  # of each cell
        self._long = self._lengths >= ROW_CELLS_MIN
        self._kept, self._bare = (len(self.index) - int(share * len(self.index)) for share in (ODD_SHARE, DRAWN_SHARE))

    def of(self, values: np.ndarray) -> np.ndarray:
        """[R,C] -> [cells]"""
        return np.asarray(values.ravel()[self.index])

    def differences(self, now: Fingerprint, others: np.ndarray) -> np.ndarray:
        """float32 [M,cells] -> float [M]: root mean square difference from `now`, grey levels.

        What a camera or a lamp does is left out: in each row a gain and an offset (flicker, a rolling bar), and a shift
        of all by part of a cell (a camera that shakes), and the cells over which a caliper may be drawn: these are found
        first, and where they stand out the rest is fitted without them. 255 without a cell.
        """
        count = len(self.index)
        if count == 0:
            return np.full(len(others), 255.0)
        values = self.of(now.values)
        rest = values - others
        if count < CELLS_MIN:
            return np.asarray(np.sqrt((rest * rest).mean(axis=1)))
        slopes = now.slopes.reshape(2, -1)[:, self.index]
        squares = self._unfitted(rest, values, slopes, np.ones((1, count), np.float32)) ** 2
        limit = np.partition(squares, self._bare - 1, axis=1)[:, self._bare - 1, None]
        drawn = squares.max(axis=1) > STANDS_OUT * limit[:, 0]
        found = self._mean(squares, self._kept)
        if drawn.any():
            counted = (squares[drawn] <= limit[drawn]).astype(np.float32)
            squares = self._unfitted(rest[drawn], values, slopes, counted) ** 2
            found[drawn] = DRAWN_SCALE * self._mean(squares, self._bare)
        return found

    def _mean(self, squares: np.ndarray, kept: int) -> np.ndarray:
        """[M,cells] -> [M]: root mean square of the smallest ones, without what was fitted."""
        least = np.partition(squares, kept - 1, axis=1)[:, :kept]
        free = max(1, kept - len(self._lengths) - int(np.count_nonzero(self._long)) - 2)
        return np.asarray(np.sqrt(least.sum(axis=1) / free))

    def _unfitted(self, rest: np.ndarray, values: np.ndarray, slopes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[M,cells] of differences, [cells] of the picture, [2,cells] of its slopes, [M or 1,cells] that count (1) or do not
        (0) -> [M,cells]: what no gain and offset of a row, and no shift, explains."""
        counts = self._sums(weights)
        per_row = 1 / np.maximum(counts, 1)

        def centred(cells: np.ndarray) -> np.ndarray:
            return np.asarray(cells - (self._sums(weights * cells) * per_row)[:, self._row])

        rest, shape, *ways = (centred(cells) for cells in (rest, values[None], slopes[:1], slopes[1:]))
        weighted = weights * shape
        strength = self._sums(weighted * shape)
        per_gain = np.where((counts >= ROW_CELLS_MIN) & (strength > FLAT), 1 / np.maximum(strength, FLAT), 0)
        gains = np.clip(self._sums(weighted * rest) * per_gain, -GAIN_MAX, GAIN_MAX)  # of the pictures, not of the slopes
        rest = rest - gains[:, self._row] * shape
        across, down = (way - (self._sums(weighted * way) * per_gain)[:, self._row] * shape for way in ways)
        down = down - _part(down, across, weights)
        for way in (across, down):
            rest = rest - _part(rest, way, weights)
        return rest

    def _sums(self, cells: np.ndarray) -> np.ndarray:
        """[M,cells] -> [M,rows]"""
        return np.add.reduceat(cells, self._starts, axis=1)


def _part(cells: np.ndarray, way: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[M,cells], [M or 1,cells] twice -> [M,cells]: the part of them that lies along a way over the cells that count."""
    length = (weights * way * way).sum(axis=1, keepdims=True)
    along = (weights * way * cells).sum(axis=1, keepdims=True)
    return np.asarray(np.where(length > FLAT * cells.shape[1], along / np.maximum(length, FLAT), 0) * way)
