"""Find the ultrasound fan on a scanner's screen.

The fan is taken to be the smallest annulus sector or rectangle that holds the picture: the fit minimises

    picture outside the fan  +  EMPTY_WEIGHT * background inside it        [pixels]

over the two side lines, the two arcs and a clipping box. "Picture" is what stands out from the screen's background after
thin things (text, rulers, caliper marks) are filtered away. Along one row a fan is an interval less an interval, so with
cumulative sums per row a candidate costs a few operations per row, and candidates are scored in batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.geometry import rasterise
from edge.screen.preprocess import to_grey

WORK_SIDE = 480  # px, longest side of the image that is fitted: finer gains < .2 % IoU, coarser merges text with the fan
COARSE_SIDE = 120  # px, longest side for the first fit, which is only to land in the right basin
RING = 0.03  # of the screen's lesser side: depth of the border that shows the background
FLAT_SHARE = 0.25  # share of the border at one grey level (+-1) that makes this level the background; tissue has < .1
BACKGROUND_MARGIN = 4  # grey levels above the background that count as picture; H.264 noise on flat black is +-2
EMPTY_WEIGHT = 0.30  # cost of a background pixel inside, in pixels of picture outside: anechoic fluid belongs to the fan
MIN_AREA = 0.03  # of the screen; a smaller fan is a thumbnail
MIN_FILL = 0.30  # picture pixels in the fan; below, the shape rests on scattered interface elements
MAX_OUTSIDE = 0.10  # of the picture outside the fan; above, the shape does not describe the picture
SECTOR_GAIN = 0.015  # of the fan's area by which a sector must beat a rectangle, as it has more parameters
DUAL_LIKENESS = 0.45  # area of the smaller fan over the larger; a thumbnail is < .2
DUAL_FILL = 0.75  # of each fan of a dual view that must be picture
COMPONENT_SHARE = 0.12  # of the largest component's area: smaller ones are logos, grey bars and thumbnails
ISLAND_SHARE = 0.01  # of the largest component's area for one that lies between the picture's sides
LIVE_ISLAND_WEIGHT = 6.0  # per pixel, for an island that moves: no interface does, so the fan must stretch to hold it


@dataclass(frozen=True)
class Evidence:
    """What a fit rests on. `weight`: float32 [h,w], cost of leaving a pixel of picture outside the fan, 0 where there is
    no picture. `scale`: its pixels per screen pixel."""

    weight: np.ndarray
    scale: float
    shape: tuple[int, int]  # (height, width) of the screen

    @property
    def picture(self) -> np.ndarray:
        """bool [h,w]: where the screen shows picture."""
        return self.weight > 0


@dataclass(frozen=True)
class Fit:
    """A fan and how well it describes the picture: `fill` = picture / area inside, `outside` = share of picture outside."""

    fan: Fan
    fill: float
    outside: float
    cost: float  # per pixel of the fan's area


def background_level(grey: np.ndarray) -> int:
    """uint8 [H,W] -> the grey level of the screen around the fan: the commonest along its border; black if none is."""
    deep = max(1, round(RING * min(grey.shape)))
    ring = np.concatenate([part.ravel() for part in (grey[:deep], grey[-deep:], grey[:, :deep], grey[:, -deep:])])
    share = np.convolve(np.bincount(ring, minlength=256).astype(np.float64), np.ones(3), "same") / ring.size
    level = int(np.argmax(share))
    return max(level - 1, 0) if level <= 1 else level if share[level] >= FLAT_SHARE else 0


def gather(grey: np.ndarray, moving: np.ndarray | None = None, screen: tuple[int, ...] | None = None) -> Evidence:
    """uint8 [H,W] (one frame, or a temporal maximum) -> Evidence.

    `moving`: bool [H,W] or None: where live video changed. Components that never move are interface.
    `screen`: (height, width) of the screen when `grey` is a thumbnail of it.
    """
    full_height, full_width = screen if screen is not None else grey.shape
    scale = min(1.0, WORK_SIDE / max(full_height, full_width))
    height, width = full_height, full_width
    if grey.shape != (round(height * scale), round(width * scale)):
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        if moving is not None:
            moving = cv2.resize(moving.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    level = background_level(grey)
    # A median of 5 removes strokes up to 2 px wide at the working scale: text, rulers, calipers, frames.
    smooth = cv2.medianBlur(np.ascontiguousarray(grey), 5)
    # Either way from the background: on a grey interface the fan's own black is picture too.
    picture = cv2.absdiff(smooth, np.full_like(smooth, level)) > BACKGROUND_MARGIN
    side = min(grey.shape)
    mask = picture.astype(np.uint8)
    # Join speckle, then drop whatever is narrower than a grey bar (about 2.5 % of the screen's height).
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(0.012 * side))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(0.025 * side))
    return Evidence(_weigh(mask, moving), scale, (height, width))


def _disc(diameter: float) -> np.ndarray:
    size = max(3, int(diameter) | 1)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _weigh(mask: np.ndarray, moving: np.ndarray | None) -> np.ndarray:
    """uint8 [h,w] -> float32 [h,w]: weight of each pixel's component in the fit; 0 for what cannot belong to a fan."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    weight = np.zeros(count, np.float32)
    area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    area[0] = 0
    if moving is not None:
        alive = np.bincount(labels.ravel(), weights=moving.ravel(), minlength=count)
        area[alive < 0.05 * area] = 0  # a fan's speckle moves everywhere; 5 % allows for deep, dark fans
    if area.max() == 0:
        return weight[labels]
    large = area >= COMPONENT_SHARE * area.max()
    weight[large] = 1
    # Islands in fluid, such as a limb above the fetus; beside the picture the like would be a logo or a thumbnail.
    left, right = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_LEFT] + stats[:, cv2.CC_STAT_WIDTH]
    among = (left >= left[large].min()) & (right <= right[large].max())
    islands = ~large & among & (area >= ISLAND_SHARE * area.max())
    weight[islands] = 1
    if moving is not None:
        weight[islands & (alive > 0.5 * area)] = LIVE_ISLAND_WEIGHT
    return weight[labels]


class _Rows:
    """Signed cumulative sums along every `step`-th row of weights [h,w]; scores batches of candidate fans."""

    def __init__(self, weight: np.ndarray, step: int = 1) -> None:
        height, width = weight.shape
        self.total = float(weight.sum())
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
        return self.cumulative.take(index) + self.signed.take(index) * (x - i)

    def score(self, p: np.ndarray) -> np.ndarray:
        """[K,10] parameters -> [K] cost in pixels. See _Shape for the parameters."""
        xlt, xlb, xrt, xrb, yt, yb, cx0, cy0, cx1, cy1 = p.T[:, :, None]
        ax, ay = _apex(xlt, xlb, xrt, xrb, self.height)
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
        cost = self.total + self.step * (inside * share).sum(axis=1)
        legal = (xrb - xlb - (xrt - xlt) > 0.02 * self.height)[:, 0] & (yb > yt)[:, 0] & (yt >= ay)[:, 0]
        return np.where(legal, cost, np.inf)


def _signed(weight: np.ndarray) -> np.ndarray:
    """What each pixel adds to the cost when it lies inside the fan."""
    return np.where(weight > 0, -weight, EMPTY_WEIGHT).astype(np.float64)


def _apex(xlt: np.ndarray, xlb: np.ndarray, xrt: np.ndarray, xrb: np.ndarray, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the side lines meet; they are given by their x at rows 0 and `height`."""
    top, bottom = xrt - xlt, xrb - xlb
    spread = np.maximum(bottom - top, 1e-6)
    t = -top / spread
    return xlt + (xlb - xlt) * t, t * height


def _refine(rows: _Rows, start: np.ndarray, steps: tuple[float, ...], moves: np.ndarray) -> tuple[np.ndarray, float]:
    """Pattern search: the best of all single moves, again and again, at shrinking steps (pixels)."""
    best, cost = start, float(rows.score(start[None])[0])
    for step in steps:
        for _ in range(24):  # enough to cross the screen at the first step; usually stops after 3 to 6
            candidates = best + step * moves
            costs = rows.score(candidates)
            k = int(np.argmin(costs))
            if not costs[k] < cost - 1e-9:
                break
            best, cost = candidates[k], float(costs[k])
    return best, cost


def _moves(free: list[tuple[int, ...]]) -> np.ndarray:
    """Groups of parameters that move together -> [2K,10] unit moves."""
    out = []
    for group in free:
        move = np.zeros(10)
        for index in group:
            move[abs(index) % 10] = -1 if index < 0 else 1
        out += [move, -move]
    return np.array(out)


# Parameters: 0 xlt, 1 xlb, 2 xrt, 3 xrb (side lines at the top and bottom row), 4 yt, 5 yb (arcs on the axis), 6..9 clip.
_SIDES = [(0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 1, 2, 3), (0, 2), (1, 3), (-10, 2), (-1, 3)]
_SECTOR_MOVES = _moves([*_SIDES, (4,), (5,), (4, 5)])
_CLIPPED_MOVES = _moves([*_SIDES, (4,), (5,), (4, 5), (6,), (7,), (8,), (9,)])


def _sector_starts(extent: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """[K,10] sectors of several opening angles, curvatures and axes that touch the picture's extent (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = extent
    starts = []
    for half in np.deg2rad([6.0, 14.0, 24.0, 34.0, 46.0, 62.0]):
        for lean in (-0.15, 0.0, 0.15):
            for shape in (0.0, 0.25, 0.5):  # r0 / r1
                a0, a1 = -half + lean, half + lean
                # The widest chord is the fan's width; the apex follows.
                r1 = (x1 - x0) / max(np.sin(a1) - np.sin(a0), 1e-3)
                r0 = r1 - (y1 - y0) if shape == 0.0 else shape * r1
                r0 = max(r0, 0.0)
                ay = y1 - r1
                ax = x1 - r1 * np.sin(a1)
                xlt, xlb = ax - np.tan(-a0) * (0 - ay), ax - np.tan(-a0) * (height - ay)
                xrt, xrb = ax + np.tan(a1) * (0 - ay), ax + np.tan(a1) * (height - ay)
                starts.append((xlt, xlb, xrt, xrb, ay + r0, ay + r1, 0, 0, width, height))
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


def fit_fan(evidence: Evidence) -> Fit | None:
    """The fan of least cost, whatever its quality; None when there is no picture at all."""
    picture = evidence.picture
    height, width = picture.shape
    if height < 16 or width < 16 or picture.sum() < 0.2 * MIN_AREA * picture.size:
        return None
    box, rect_cost = _fit_rect(evidence.weight)
    rect_area = (box[2] - box[0]) * (box[3] - box[1])

    shrink = min(1.0, COARSE_SIDE / max(height, width))
    small_size = (max(8, round(width * shrink)), max(8, round(height * shrink)))
    small = cv2.resize(evidence.weight, small_size, interpolation=cv2.INTER_AREA)
    small[small < 0.5] = 0
    sector_cost, sector = np.inf, np.zeros(10)
    if small.any():
        coarse = _Rows(small)
        starts = _sector_starts(_extent(small > 0), coarse.height, coarse.width)
        order = np.argsort(coarse.score(starts))[:3]  # the best three land in the right basin on every screen tried
        tries = [_refine(coarse, starts[k], (8.0, 4.0, 2.0, 1.0), _SECTOR_MOVES) for k in order]
        start = min(tries, key=lambda item: item[1])[0] * (height / coarse.height)
        start[8:10] = width, height
        start[6:8] = 0
        start, _ = _refine(_Rows(evidence.weight, 3), start, (4.0, 2.0), _SECTOR_MOVES)
        fine = _Rows(evidence.weight)
        sector, plain_cost = _refine(fine, start, (1.0, 0.5), _SECTOR_MOVES)
        x0, y0, x1, y1 = _extent(picture)
        clipped = np.array([*sector[:6], max(x0, box[0]), max(y0, box[1]), min(x1, box[2]), min(y1, box[3])])
        clipped, _ = _refine(_Rows(evidence.weight, 3), clipped, (8.0, 4.0, 2.0), _CLIPPED_MOVES)
        clipped, sector_cost = _refine(fine, clipped, (1.0, 0.5), _CLIPPED_MOVES)
        if plain_cost - sector_cost < 0.004 * rect_area:  # the box cuts nothing worth naming
            sector_cost = plain_cost
        else:
            sector = clipped
    if sector_cost < rect_cost - SECTOR_GAIN * rect_area:
        fan = _sector_fan(sector, evidence)
        cost = sector_cost
    else:
        x0, y0, x1, y1 = (int(round(v / evidence.scale)) for v in box)
        fan = Fan("rect", (x0, y0, min(x1, evidence.shape[1]), min(y1, evidence.shape[0])))
        cost = rect_cost
    if fan.box[2] - fan.box[0] < 8 or fan.box[3] - fan.box[1] < 8:
        return None
    inside = rasterise(scaled(fan, evidence.scale), (0, 0, width, height))
    area, held = float(inside.sum()), float((picture & inside).sum())
    return Fit(fan, held / max(area, 1.0), 1 - held / float(picture.sum()), cost / max(area, 1.0))


def _sector_fan(p: np.ndarray, evidence: Evidence) -> Fan:
    """Parameters at the working scale -> Fan in screen pixels, its box cut to the sector's own bounds and the screen."""
    height, width = evidence.picture.shape
    ax, ay = (float(v) for v in _apex(p[0], p[1], p[2], p[3], height))
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


def sector_bounds(a0: float, a1: float, r0: float, r1: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """((x0, x1), (y0, y1)) of an annulus sector relative to its apex, pixels."""
    angles = np.array([a0, a1] + ([0.0] if a0 < 0 < a1 else []))
    xs = np.outer([r0, r1], np.sin(angles))
    ys = np.outer([r0, r1], np.cos(angles))
    return (float(xs.min()), float(xs.max())), (float(ys.min()), float(ys.max()))


def scaled(fan: Fan, k: float) -> Fan:
    """The same fan on a screen resized by `k`."""
    x0, y0, x1, y1 = (int(round(v * k)) for v in fan.box)
    apex = ((fan.apex[0] + 0.5) * k - 0.5, (fan.apex[1] + 0.5) * k - 0.5)
    return replace(fan, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), apex=apex, r0=fan.r0 * k, r1=fan.r1 * k)


def plausible(fit: Fit | None, shape: tuple[int, int]) -> bool:
    """Whether a fit describes an ultrasound picture on a screen of `shape` (height, width)."""
    if fit is None or fit.fill < MIN_FILL or fit.outside > MAX_OUTSIDE:
        return False
    x0, y0, x1, y1 = fit.fan.box
    return (x1 - x0) * (y1 - y0) >= MIN_AREA * shape[0] * shape[1]


def screen_iou(one: Fan, other: Fan) -> float:
    """Intersection over union of two fans on one screen, sampled on a grid of about 200 steps."""
    x0, y0 = min(one.box[0], other.box[0]), min(one.box[1], other.box[1])
    x1, y1 = max(one.box[2], other.box[2]), max(one.box[3], other.box[3])
    k = min(1.0, 200 / max(x1 - x0, y1 - y0))
    box = (int(x0 * k), int(y0 * k), int(np.ceil(x1 * k)), int(np.ceil(y1 * k)))
    a, b = rasterise(scaled(one, k), box), rasterise(scaled(other, k), box)
    return float((a & b).sum() / max(1, (a | b).sum()))


def find_fan(image: np.ndarray) -> Fan | None:
    """One screen, uint8 grey [H,W] or BGR [H,W,3] -> its fan, or None."""
    evidence = gather(to_grey(image))
    fit = fit_fan(evidence)
    return fit.fan if fit is not None and plausible(fit, evidence.shape) else None


def find_two(evidence: Evidence) -> tuple[Fan, Fan] | None:
    """Two fans side by side (a dual view), left first; None when there is one fan or none.

    Two pictures of like size, abreast, with a clean gap between them, each filling its own fan: fluid that splits one
    picture in two leaves ragged halves.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(evidence.picture.astype(np.uint8), connectivity=8)
    if count < 3:
        return None
    order = np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1][:2] + 1
    left, right = sorted((int(k) for k in order), key=lambda k: stats[k, cv2.CC_STAT_LEFT])
    (lx, ly, lw, lh, la), (rx, ry, rw, rh, ra) = stats[left], stats[right]
    abreast = min(ly + lh, ry + rh) - max(ly, ry)
    if min(la, ra) < DUAL_LIKENESS * max(la, ra) or abreast < 0.7 * max(lh, rh):
        return None
    if rx < lx + lw - 0.15 * min(lw, rw) or min(la, ra) < MIN_AREA * evidence.picture.size:
        return None
    fans = []
    for k in (left, right):
        fit = fit_fan(replace(evidence, weight=(labels == k).astype(np.float32)))
        if fit is None or fit.fill < DUAL_FILL or fit.outside > MAX_OUTSIDE:
            return None
        fans.append(fit.fan)
    return fans[0], fans[1]
