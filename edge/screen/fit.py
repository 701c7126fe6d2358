"""Fit an annulus sector or a rectangle to the picture on a screen.

The fan is taken to be the smallest shape that holds the picture: the fit minimises

    weight of picture outside the fan  +  EMPTY_WEIGHT * background pixels inside it

over the two side lines, the two arcs and a clipping box, with a slight preference for fans that
point straight down. Along one row a fan is an interval less an interval, so with cumulative sums per row a candidate
costs a few operations per row, and candidates are scored in batches. One batch, .2 to .5 ms of a core, is the step in
which a live loop does this work (see `edge.screen.steps`): a whole fit takes 40 to 80 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.geometry import rasterise, scaled, sector_bounds
from edge.screen.steps import Steps

COARSE_SIDE = 120  # px, longest side for the first fit, which is only to land in the right basin
EMPTY_WEIGHT = 0.20  # cost of background inside per cost of picture outside, per pixel: fluid belongs to the fan
LEAN_WEIGHT = 0.04  # of the picture, per unit of the two side lines' slopes added up: upright unless picture says not
MIN_PICTURE = 0.005  # of the screen that must show picture for a fit to be tried
SECTOR_GAIN = 0.010  # of the rectangle's area by which a sector must beat it: a zoomed one differs by two thin wedges
LOPSIDED_WEIGHT = 0.05  # of the box's area, per box width from its middle to the apex: half a width off costs 2.5 % (chosen)
CLIP_GAIN = 0.006  # of the picture's extent by which a clipping box must improve a sector


@dataclass(frozen=True)
class Evidence:
    """What a fit rests on.

    `weight`: float32 [h,w], cost of leaving a pixel outside the fan; 0 where there is no picture. `scale`: its pixels
    per screen pixel. `live`: seen over time; a still is read as when the models were trained on stills."""

    weight: np.ndarray
    scale: float
    frame: tuple[int, int]  # (height, width) of the whole frame
    inner: tuple[int, int, int, int]  # box of the screen in the frame, without its bars; a fit's fan is counted from there
    live: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the screen without its bars, in pixels of the frame."""
        return self.inner[3] - self.inner[1], self.inner[2] - self.inner[0]

    @property
    def picture(self) -> np.ndarray:
        """bool [h,w]: where the screen shows picture."""
        return self.weight > 0


@dataclass(frozen=True)
class Fit:
    """A fan and how well it describes the picture: `fill` is the share of the fan that is picture, `outside` the share
    of the picture that lies outside."""

    fan: Fan
    fill: float
    outside: float


class _Rows:
    """Signed cumulative sums along every `step`-th row of weights [h,w]; scores batches of candidate fans."""

    def __init__(self, weight: np.ndarray, step: int = 1) -> None:
        height, width = weight.shape
        self.total = float(weight.sum())
        self.area = float(np.count_nonzero(weight))
        self.height, self.width, self.step = height, width, step
        self.rows = np.arange(step // 2, height, step) + 0.5
        self.signed = np.zeros((self.rows.size, width + 2))  # one pixel of zeros on either side: no edge cases
        self.signed[:, 1:-1] = _signed(weight[step // 2 :: step])
        self.cumulative = np.cumsum(self.signed, axis=1) - self.signed  # sum left of each pixel
        self.base = np.arange(self.rows.size) * (width + 2) + 1

    def _upto(self, x: np.ndarray) -> np.ndarray:
        """Sum of each row's signed pixels left of x [K,R], linear within a pixel; R at most the number of rows."""
        x = np.minimum(np.maximum(x, 0.0), self.width)
        i = x.astype(np.int32)
        index = i + self.base[: x.shape[1]]
        return np.asarray(self.cumulative.take(index) + self.signed.take(index) * (x - i))

    def score(self, p: np.ndarray) -> np.ndarray:
        """[K,10] parameters (listed below at _LINES) -> [K] cost in pixels."""
        xlt, xlb, xrt, xrb, yt, yb, cx0, cy0, cx1, cy1 = p.T[:, :, None]
        ax, ay = _apex(p.T[:4, :, None], self.height)
        t = self.rows / self.height
        dy = self.rows - ay
        outer = np.sqrt(np.maximum((yb - ay) ** 2 - dy * dy, 0))
        low = np.maximum(np.maximum(xlt + (xlb - xlt) * t, ax - outer), cx0)
        high = np.minimum(np.minimum(xrt + (xrb - xrt) * t, ax + outer), cx1)
        # Rows cut by the clipping box count by the part of their height that is inside.
        half = self.step / 2
        cut = np.minimum(self.rows + half, cy1) - np.maximum(self.rows - half, cy0)
        share = np.minimum(np.maximum(cut / self.step, 0), 1) * (dy > 0)
        high = np.maximum(high, low)
        inside = self._upto(high) - self._upto(low)
        n = int(np.searchsorted(self.rows, yt.max()))  # only rows above the lowest inner arc can meet one
        if n:
            inner = np.sqrt(np.maximum((yt - ay) ** 2 - dy[:, :n] ** 2, 0))
            hole0 = np.minimum(np.maximum(ax - inner, low[:, :n]), high[:, :n])
            hole1 = np.minimum(np.maximum(ax + inner, low[:, :n]), high[:, :n])
            inside[:, :n] -= self._upto(hole1) - self._upto(hole0)
        lean = np.abs(xlb - xlt + xrb - xrt)[:, 0] / self.height
        cost = self.total + self.step * (inside * share).sum(axis=1) + LEAN_WEIGHT * self.area * lean
        legal = (xrb - xlb - (xrt - xlt) > 0.02 * self.height)[:, 0] & (yb > yt)[:, 0] & (yt >= ay)[:, 0]
        return np.where(legal, cost, np.inf)


def _signed(weight: np.ndarray) -> np.ndarray:
    """What each pixel adds to the cost when it lies inside the fan."""
    return np.where(weight > 0, -weight, EMPTY_WEIGHT).astype(np.float64)


def _apex(lines: np.ndarray, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the side lines [4,...] meet, (x, y); each is given by its x at rows 0 and `height`."""
    left_top, left_bottom, right_top, right_bottom = lines
    top, bottom = right_top - left_top, right_bottom - left_bottom
    t = -top / np.maximum(bottom - top, 1e-6)
    return left_top + (left_bottom - left_top) * t, t * height


def _refine(
    rows: _Rows, starts: np.ndarray, strides: tuple[float, ...], moves: np.ndarray
) -> Steps[tuple[np.ndarray, float]]:
    """Pattern search from each start [K,10]: the best of all single moves, again and again, at shrinking strides (pixels).
    The best of what the starts lead to, and its cost. Side by side they take half the time that they take in turn."""
    best, cost = starts.copy(), rows.score(starts)
    for stride in strides:
        going = np.arange(len(best))
        for _ in range(24):  # enough to cross the screen at the first stride; usually stops after 3 to 6
            candidates = best[going, None] + stride * moves
            costs = rows.score(candidates.reshape(-1, 10)).reshape(len(going), -1)
            yield
            k = np.argmin(costs, axis=1)
            least = costs[np.arange(len(going)), k]
            better = least < cost[going] - 1e-9
            best[going[better]], cost[going[better]] = candidates[better, k[better]], least[better]
            going = going[better]
            if not len(going):
                break
    first = int(np.argmin(cost))
    return best[first], float(cost[first])


def _moves(*moves: dict[int, int]) -> np.ndarray:
    """Each move and its opposite, as steps on the ten parameters: float64 [2K,10]."""
    out = np.zeros((2 * len(moves), 10))
    for k, move in enumerate(moves):
        for index, amount in move.items():
            out[2 * k, index], out[2 * k + 1, index] = amount, -amount
    return out


# Parameters: 0, 1 the left line's x at the top and bottom row; 2, 3 the right line's; 4, 5 where the two arcs cross the
# vertical through the apex, y; 6 to 9 the clipping box (x0, y0, x1, y1). All in pixels at the working scale.
_LINES = (
    {0: 1},
    {1: 1},
    {2: 1},
    {3: 1},
    {0: 1, 1: 1},
    {2: 1, 3: 1},
    {0: 1, 1: 1, 2: 1, 3: 1},
    {0: 1, 2: 1},
    {1: 1, 3: 1},
    {0: -1, 2: 1},
    {1: -1, 3: 1},
)
_ARCS = ({4: 1}, {5: 1}, {4: 1, 5: 1})
_WHOLE_MOVES = _moves(*_LINES, *_ARCS)
_CLIPPED_MOVES = _moves(*_LINES, *_ARCS, {6: 1}, {7: 1}, {8: 1}, {9: 1})


def _whole_starts(extent: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """[K,10] whole sectors of several openings, axes and curvatures that touch the extent (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = extent
    starts = []
    for half in np.deg2rad([6.0, 14.0, 24.0, 34.0, 46.0, 62.0]):
        for lean in (-0.15, 0.0, 0.15):
            a0, a1 = lean - half, lean + half
            r1 = (x1 - x0) / (np.sin(a1) - np.sin(a0))  # the widest chord is the extent's width
            ax, ay = x1 - r1 * np.sin(a1), y1 - r1
            lines = [ax + np.tan(a) * (y - ay) for a in (a0, a1) for y in (0, height)]
            for r0 in (max(r1 - (y1 - y0), 0.0), 0.25 * r1, 0.5 * r1):
                starts.append((*lines, ay + r0, ay + r1, 0, 0, width, height))
    return np.array(starts, np.float64)


def _clipped_starts(extent: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """[K,10] sectors that fill a box but for corners cut off by their side lines: a zoomed view."""
    x0, y0, x1, y1 = extent
    starts = []
    for inset in (0.06, 0.15, 0.25):  # of the width, from the box's corner to where a line crosses its top
        for depth in (0.5, 0.8, 1.2):  # of the height, where the line leaves the box through its side
            for left, right in ((1, 1), (1, 0.2), (0.2, 1)):
                lines = []
                for side, sign, size in ((x0, 1, left), (x1, -1, right)):
                    slope = -sign * size * inset * (x1 - x0) / (depth * (y1 - y0))
                    lines += [side + slope * (y - y0 - depth * (y1 - y0)) for y in (0, height)]
                starts.append((*lines, y0, y1 + width, x0, y0, x1, y1))
    return np.array(starts, np.float64)


def _extent(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Box (x0, y0, x1, y1), half open, of a non-empty bool image."""
    xs, ys = np.flatnonzero(picture.any(axis=0)), np.flatnonzero(picture.any(axis=1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _fit_rect(weight: np.ndarray) -> tuple[np.ndarray, float]:
    """The rectangle of least cost -> ((x0, y0, x1, y1), cost), by alternating exact one-dimensional searches."""
    signed = _signed(weight)
    x0, y0, x1, y1 = _extent(weight > 0)
    for _ in range(4):
        x0, x1 = _best_interval(signed[y0:y1].sum(axis=0))
        y0, y1 = _best_interval(signed[:, x0:x1].sum(axis=1))
    return np.array([x0, y0, x1, y1], np.float64), float(weight.sum() + signed[y0:y1, x0:x1].sum())


def _best_interval(values: np.ndarray) -> tuple[int, int]:
    """The half-open interval with the least sum (Kadane 1984)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    peak = np.maximum.accumulate(total)
    stop = int(np.argmin(total - peak))
    start = int(np.argmax(total[: stop + 1]))
    return start, max(stop, start + 1)


def fitting(evidence: Evidence) -> Steps[Fit | None]:
    """The fan of least cost, whatever its quality; None when there is no picture to speak of. In steps."""
    weight, picture = evidence.weight, evidence.picture
    if min(picture.shape) < 16 or picture.sum() < MIN_PICTURE * picture.size:
        return None
    box, cost = _fit_rect(weight)
    yield
    gain = SECTOR_GAIN * (box[2] - box[0]) * (box[3] - box[1])
    fan = _rect_fan(box, evidence)
    if cost > gain:  # else no sector can be better by enough
        sector, sector_cost = yield from _fit_sector(weight)
        if sector_cost + (_lopsided(sector, weight.shape) if evidence.live else 0.0) < cost - gain:
            fan = _sector_fan(sector, evidence)
    if fan.box[2] - fan.box[0] < 8 or fan.box[3] - fan.box[1] < 8:
        return None
    inside = rasterise(scaled(fan, evidence.scale), (0, 0, picture.shape[1], picture.shape[0]))
    held = float((picture & inside).sum())
    return Fit(fan, held / max(float(inside.sum()), 1.0), 1 - held / float(picture.sum()))


def _fit_sector(weight: np.ndarray) -> Steps[tuple[np.ndarray, float]]:
    """The sector of least cost -> ([10] parameters, cost). Coarse to fine; clipped by a box only where that pays."""
    height, width = weight.shape
    shrink = min(1.0, COARSE_SIDE / max(height, width))
    size = (max(8, round(width * shrink)), max(8, round(height * shrink)))
    small = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    small[small < 0.5] = 0
    if not small.any():
        return np.zeros(10), np.inf
    coarse = _Rows(small)
    extent = _extent(small > 0)
    whole_starts = _whole_starts(extent, coarse.height, coarse.width)
    whole, whole_cost = yield from _coarse_fit(coarse, whole_starts, _WHOLE_MOVES)
    clipped_starts = _clipped_starts(extent, coarse.height, coarse.width)
    clipped, clipped_cost = yield from _coarse_fit(coarse, clipped_starts, _CLIPPED_MOVES)
    again, again_cost = yield from _refine(coarse, np.array([[*whole[:6], *extent]]), (4.0, 2.0, 1.0), _CLIPPED_MOVES)
    if again_cost < clipped_cost:
        clipped, clipped_cost = again, again_cost
    box_area = (extent[2] - extent[0]) * (extent[3] - extent[1])
    is_clipped = clipped_cost < whole_cost - CLIP_GAIN * box_area
    sector, moves = (clipped, _CLIPPED_MOVES) if is_clipped else (whole, _WHOLE_MOVES)
    sector = sector * (height / coarse.height)
    if not is_clipped:
        sector[6:] = 0, 0, width, height
    sector, _ = yield from _refine(_Rows(weight, 3), sector[None], (3.0, 1.5), moves)
    return (yield from _refine(_Rows(weight), sector[None], (1.0, 0.5), moves))


def _lopsided(p: np.ndarray, shape: tuple[int, ...]) -> float:
    """What a sector costs beside the rectangle for an apex that is not above the middle of its clipping box, pixels: fluid at
    one side of a rectangle's top looks like an arc about such an apex, a zoomed sector seldom has one."""
    x0, y0, x1, y1 = p[6:]
    if x0 <= 0 and x1 >= shape[1]:
        return 0.0  # not clipped at its sides
    ax, _ = _apex(p[:4], shape[0])
    return float(LOPSIDED_WEIGHT * (y1 - y0) * abs(ax - (x0 + x1) / 2))


def _coarse_fit(rows: _Rows, starts: np.ndarray, moves: np.ndarray) -> Steps[tuple[np.ndarray, float]]:
    """The best of the three most promising starts."""
    order = np.argsort(rows.score(starts))[:3]
    yield
    return (yield from _refine(rows, starts[order], (6.0, 3.0, 1.0), moves))


def _rect_fan(box: np.ndarray, evidence: Evidence) -> Fan:
    """Box at the working scale -> Fan in screen pixels."""
    height, width = evidence.shape
    x0, y0, x1, y1 = (round(float(v) / evidence.scale) for v in box)
    return Fan("rect", (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))


def _sector_fan(p: np.ndarray, evidence: Evidence) -> Fan:
    """Parameters at the working scale -> Fan in screen pixels, its box cut to the sector's bounds and the screen."""
    height, width = evidence.picture.shape
    ax, ay = (float(v) for v in _apex(p[:4], height))
    a0, a1 = float(np.arctan2(p[1] - ax, height - ay)), float(np.arctan2(p[3] - ax, height - ay))
    k = 1 / evidence.scale
    r0, r1 = max(float(p[4]) - ay, 0.0), float(p[5]) - ay
    xs, ys = sector_bounds(a0, a1, r0, r1)
    x0, x1 = max(p[6], ax + xs[0], 0), min(p[8], ax + xs[1], width)
    y0, y1 = max(p[7], ay + ys[0], 0), min(p[9], ay + ys[1], height)
    box = (int(np.floor(x0 * k)), int(np.floor(y0 * k)), int(np.ceil(x1 * k)), int(np.ceil(y1 * k)))
    box = (max(box[0], 0), max(box[1], 0), min(box[2], evidence.shape[1]), min(box[3], evidence.shape[0]))
    # Half a pixel: the fit counts x from pixels' edges, masks from their centres.
    return Fan("sector", box, (ax * k - 0.5, ay * k - 0.5), r0 * k, r1 * k, a0, a1)
