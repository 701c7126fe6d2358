"""What an exam has counted carries no evidence again: a loop that is replayed, the fields of a frozen picture.

Pictures are known by their fingerprints. Those between two counted ones are remembered as well: they came too soon to
count, and a replay that falls out of step must not count them instead.
"""

from __future__ import annotations

import numpy as np

from edge.records import Fingerprint
from edge.screen.likeness import differences

PICTURES = 8192  # remembered of one exam, 10 MB at most: over four minutes at 30 a second; scanners replay a minute or less
POOL = 4  # cells along a side of the blocks by which likely pictures are looked up
LIKELY = 24  # of them that are compared cell by cell
RETURN = 0.7  # of the difference from the last counted picture: nearer to one before it, the screen goes back, it does not go on
RETURN_MAX = 1.5  # grey levels; as much may the noise of a source be before a frozen picture cannot be told
SHARED = 0.6  # of the cells of a fan that must lie in all fans of the exam so far, else pictures are not comparable


class Seen:
    """The pictures of one exam in one layout; not thread-safe."""

    def __init__(self) -> None:
        self._inside: np.ndarray | None = None  # bool [R,C], cells that all fingerprints so far have
        self._values = np.zeros((0, 0), np.float16)  # [n, cells]
        self._blocks = np.zeros((0, 0), np.float32)  # [n, blocks], for the first search
        self._cells = np.zeros(0, np.intp)  # where in the grid the columns of `_values` lie
        self._last: Fingerprint | None = None  # the last counted
        self._since: list[Fingerprint] = []  # seen since then
        self._count = 0  # ever kept; the newest PICTURES of them are there

    def clear(self) -> None:
        """Another exam or another layout."""
        self.__init__()  # type: ignore[misc]

    def fits(self, taken: Fingerprint) -> bool:
        """Whether a picture can be compared with those that are remembered."""
        if self._inside is None:
            return True
        shared = self._inside.shape == taken.inside.shape and np.count_nonzero(self._inside & taken.inside)
        return bool(shared >= SHARED * np.count_nonzero(taken.inside))

    def repeats(self, taken: Fingerprint) -> bool:
        """Whether a picture that `fits` was there before, up to the last counted one."""
        if self._inside is None or self._last is None:
            return False
        self._narrow(taken)
        kept = min(self._count, PICTURES)
        away = self._blocks[:kept] - _blocks(taken.values, self._inside)
        distance = np.einsum("nb,nb->n", away, away)
        likely = np.argpartition(distance, LIKELY)[:LIKELY] if kept > LIKELY else np.arange(kept)
        grids = np.zeros((len(likely) + 1, taken.values.size), np.float32)
        grids[:-1, self._cells] = self._values[likely]
        grids[-1] = self._last.values.ravel()
        found = differences(taken, grids.reshape(-1, *taken.values.shape), self._inside)
        gone_back = min(RETURN * float(found[-1]), RETURN_MAX)
        return bool(found.min() <= max(taken.alike, gone_back))

    def passed(self, taken: Fingerprint) -> None:
        """A picture that could have counted, had it not come so soon."""
        if self._last is not None and len(self._since) < PICTURES:
            self._since.append(taken)

    def counted(self, taken: Fingerprint) -> None:
        """A picture that counted."""
        if self._inside is None:
            self._inside = taken.inside.copy()
            self._cells = np.flatnonzero(self._inside)
            self._values = np.zeros((PICTURES, self._cells.size), np.float16)  # pages are taken as they are written
            self._blocks = np.zeros((PICTURES, _blocks(taken.values, self._inside).size), np.float32)
        self._narrow(taken)
        for one in (*self._since, taken):
            place = self._count % PICTURES
            self._values[place] = one.values.ravel()[self._cells]
            self._blocks[place] = _blocks(one.values, self._inside)
            self._count += 1
        self._since, self._last = [], taken

    def _narrow(self, taken: Fingerprint) -> None:
        """Leave out the cells that a better estimate of the fan leaves out."""
        assert self._inside is not None
        shared = self._inside & taken.inside
        if np.array_equal(shared, self._inside):
            return
        self._inside = shared
        keep = shared.ravel()[self._cells]
        self._cells, self._values = self._cells[keep], np.ascontiguousarray(self._values[:, keep])
        grid = np.zeros(shared.shape, np.float32)
        for place in range(min(self._count, PICTURES)):
            grid.ravel()[self._cells] = self._values[place]
            self._blocks[place, :] = _blocks(grid, shared)


def _blocks(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """[R,C] -> [blocks]: coarse means of the picture, without what a gain or an offset of all changes."""
    height, width = (-(-side // POOL) * POOL for side in values.shape)
    grids = np.zeros((2, height, width), np.float32)
    grids[0, : values.shape[0], : values.shape[1]] = np.where(inside, values, 0)
    grids[1, : values.shape[0], : values.shape[1]] = inside
    sums, counts = grids.reshape(2, height // POOL, POOL, width // POOL, POOL).sum(axis=(2, 4))
    means = sums / np.maximum(counts, 1)
    full = counts > 0
    means = np.where(full, means - means[full].mean(), 0) if full.any() else means
    return np.asarray(means / max(float(means.std()), 1e-3), np.float32).ravel()
