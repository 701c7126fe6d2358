"""What an exam has counted carries no evidence again: a loop that is replayed, the fields of a frozen picture.

Pictures are known by their fingerprints. Those between two counted ones are remembered as well: they came too soon to
count, and a replay that falls out of step must not count them instead.
"""

from __future__ import annotations

import numpy as np

from edge.records import Fingerprint
from edge.screen.likeness import Cells

PICTURES = 8192  # remembered of one layout, 10 MB at most: over four minutes at 30 a second; scanners replay a minute or less
POOL = 4  # cells along a side of the blocks by which likely pictures are looked up
LIKELY = 12  # of them that are compared cell by cell
RETURN = 0.7  # of the difference from the last counted picture: nearer to one before it, the screen goes back, it does not go on
RETURN_MAX = 1.5  # grey levels; as much may the noise of a source be before a frozen picture cannot be told
LAYOUTS = 4  # whose pictures are remembered, the last ones used: two depths to and fro, a zoom, and one found wrongly
SAME_LAYOUT = 0.8  # IoU of the cells of two estimates of one layout; another depth or zoom of a scanner shares less (chosen)
SHARED = 0.6  # of the cells of a fan that must lie in all fans of the exam so far, else pictures are not comparable


class Seen:
    """The pictures of one exam in one layout; not thread-safe."""

    def __init__(self) -> None:
        self._shared: Cells | None = None  # cells that all fingerprints so far have: the columns of `_values`
        self._values = np.zeros((0, 0), np.float16)  # [n, cells]
        self._blocks = np.zeros((0, 0), np.float32)  # [n, blocks], for the first search
        self._last: Fingerprint | None = None  # the last counted
        self._since: list[Fingerprint] = []  # seen since then
        self._count = 0  # ever kept; the newest PICTURES of them are there

    def likeness(self, taken: Fingerprint) -> float:
        """How much of this layout and of a picture's is common: IoU of their cells."""
        if self._shared is None or self._shared.inside.shape != taken.inside.shape:
            return 0.0
        either = int(np.count_nonzero(self._shared.inside | taken.inside))
        return int(np.count_nonzero(self._shared.inside & taken.inside)) / max(1, either)

    def resume(self) -> None:
        """The layout is back: what is shown now does not follow on what it showed last."""
        self._last, self._since = None, []

    def fits(self, taken: Fingerprint) -> bool:
        """Whether a picture can be compared with those that are remembered."""
        if self._shared is None:
            return True
        if self._shared.inside.shape != taken.inside.shape:
            return False
        shared = np.count_nonzero(self._shared.inside & taken.inside)
        return bool(shared >= SHARED * np.count_nonzero(taken.inside))

    def repeats(self, taken: Fingerprint) -> bool:
        """Whether a picture that `fits` was there before, up to the last counted one."""
        if self._shared is None:
            return False
        cells = self._narrow(self._shared, taken)
        kept = min(self._count, PICTURES)
        unlike = -(self._blocks[:kept] @ _blocks(taken.values, cells.inside))  # all are of one length
        likely = np.argpartition(unlike, LIKELY)[:LIKELY] if kept > LIKELY else np.arange(kept)
        others = self._values[likely].astype(np.float32)
        if self._last is None:
            return bool(cells.differences(taken, others).min() <= taken.alike)
        found = cells.differences(taken, np.concatenate([others, cells.of(self._last.values)[None]]))
        gone_back = min(RETURN * float(found[-1]), RETURN_MAX)
        return bool(found.min() <= max(taken.alike, gone_back))

    def passed(self, taken: Fingerprint) -> None:
        """A picture that could have counted, had it not come so soon."""
        if self._last is not None and len(self._since) < PICTURES:
            self._since.append(taken)

    def counted(self, taken: Fingerprint) -> None:
        """A picture that counted."""
        if self._shared is None:
            self._shared = Cells(taken.inside)
            # Pages are taken as they are written.
            self._values = np.zeros((PICTURES, self._shared.index.size), np.float16)
            self._blocks = np.zeros((PICTURES, _blocks(taken.values, taken.inside).size), np.float32)
        cells = self._narrow(self._shared, taken)
        for one in (*self._since, taken):
            place = self._count % PICTURES
            self._values[place] = cells.of(one.values)
            self._blocks[place] = _blocks(one.values, cells.inside)
            self._count += 1
        self._since, self._last = [], taken

    def _narrow(self, cells: Cells, taken: Fingerprint) -> Cells:
        """Leaves out the cells that a better estimate of the fan leaves out; there are two or three in a layout."""
        if taken.inside is cells.inside or not (cells.inside & ~taken.inside).any():
            return cells
        narrow = Cells(cells.inside & taken.inside)
        keep = taken.inside.ravel()[cells.index]
        self._values = np.ascontiguousarray(self._values[:, keep])
        grid = np.zeros(taken.inside.shape, np.float32)
        for place in range(min(self._count, PICTURES)):
            grid.ravel()[narrow.index] = self._values[place]
            self._blocks[place] = _blocks(grid, narrow.inside)
        self._shared = narrow
        return narrow


class Layouts:
    """The pictures of one exam, each layout's by themselves: a layout that is back knows its own. Not thread-safe."""

    def __init__(self) -> None:
        self._all = [Seen()]  # the one in use last

    @property
    def seen(self) -> Seen:
        """Those of the layout in use."""
        return self._all[-1]

    def enter(self, taken: Fingerprint) -> None:
        """Another layout, which this picture shows: one that was there before, or a new one."""
        best = max(self._all, key=lambda seen: seen.likeness(taken))
        if best.likeness(taken) < SAME_LAYOUT:
            best = Seen()
        self._all = [seen for seen in self._all if seen is not best][1 - LAYOUTS :] + [best]
        best.resume()


def _blocks(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """[R,C] -> float32 [blocks] of mean 0 and variance 1: coarse means, whatever the gain and the offset of the whole."""
    height, width = (-(-side // POOL) * POOL for side in values.shape)
    grids = np.zeros((2, height, width), np.float32)
    grids[0, : values.shape[0], : values.shape[1]] = np.where(inside, values, 0)
    grids[1, : values.shape[0], : values.shape[1]] = inside
    sums, counts = grids.reshape(2, height // POOL, POOL, width // POOL, POOL).sum(axis=(2, 4))
    means = sums / np.maximum(counts, 1)
    full = counts > 0
    means = np.where(full, means - means[full].mean(), 0) if full.any() else means
    return np.asarray(means / max(float(means.std()), 1e-3), np.float32).ravel()
