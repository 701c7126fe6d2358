"""Simulated nuchal lesions on real mid-sagittal stills, and sham operations that leave the thickness normal.

The annotated translucency is opened along its darkest line: tissue posterior to the line is pushed away from the fetus, the
gap is filled with fluid whose level and grain are those of the picture's own fluid. A sham goes through the very same
operator (line, warp, fill, blur) with a normal target thickness, so that the edit itself tells nothing; the same decoy warp
is applied elsewhere in both. Not a clinical image: every figure measured on these is labelled "simulated lesion".

Millimetres are equivalents: no pixel spacing exists, so the long side of the thalami box is taken as 6 mm (the calipers read
on six images put it at 5.4-6.0 mm; ../shared/data nt_weak_flags.csv).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

THALAMI_MM = 6.0  # long side of the thalami box, see above
NORMAL_NT_MM = (0.8, 2.3)  # 95th centile at CRL 57 mm is about 2.3 mm (DESIGN section 5)
LESION_MM = (3.2, 12.0)  # below 3.2 mm a thick NT and a hygroma cannot be told apart by thickness
LESION_MEDIAN_MM, LESION_SIGMA = 6.0, 0.38  # lognormal, chosen in DESIGN section 5
EDGE_PX = 1.6  # softness of the fluid's border: about one axial point-spread width at 512 px
SKIN_PX = 14  # the skin line and its neighbour keep their thickness; compression starts behind them
SMOOTH_TRACE_PX = 9.0  # the spine-side border is smooth over about a vertebra


@dataclass(frozen=True)
class NuchalAnatomy:
    """Boxes in pixels of the still: `nt` (x0, y0, x1, y1) and the long side of the thalami box."""

    nt: tuple[float, float, float, float]
    thalami_px: float
    posterior_down: bool  # the back faces the lower edge (else the picture is flipped for the operation)

    @property
    def px_per_mm(self) -> float:
        return self.thalami_px / THALAMI_MM


@dataclass(frozen=True)
class Operation:
    """What was done: target thickness, and the region that is now fluid as a box in pixels of the still."""

    thickness_mm: float
    nuchal_box: tuple[float, float, float, float]
    septa: int


def draw_lesion_mm(rng: np.random.Generator) -> float:
    """A hygroma's thickness, mm: lognormal, truncated to LESION_MM."""
    while True:
        mm = float(LESION_MEDIAN_MM * np.exp(LESION_SIGMA * rng.standard_normal()))
        if LESION_MM[0] <= mm <= LESION_MM[1]:
            return mm


def dark_line(grey: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The translucency's centre line: for every column of the box the row of the darkest smooth path (dynamic
    programming, at most one row of slope a column). float32 [columns]."""
    x0, y0, x1, y1 = (int(round(v)) for v in box)
    strip = cv2.GaussianBlur(grey, (0, 0), 2.0)[y0:y1, x0:x1].astype(np.float32)
    cost = strip.copy()
    back = np.zeros(strip.shape, np.int8)
    for x in range(1, strip.shape[1]):
        before = cost[:, x - 1]
        options = np.stack([np.r_[np.inf, before[:-1]], before, np.r_[before[1:], np.inf]])
        options[[0, 2]] += 2.0  # grey levels a row of slope costs: keeps the path from jumping between bands
        back[:, x] = options.argmin(0) - 1
        cost[:, x] += options.min(0)
    row = int(cost[:, -1].argmin())
    path = np.empty(strip.shape[1], np.float32)
    for x in range(strip.shape[1] - 1, -1, -1):
        path[x] = row
        row += back[row, x]
    return cv2.GaussianBlur(path[None], (0, 0), SMOOTH_TRACE_PX, borderType=cv2.BORDER_REPLICATE)[0] + y0


def half_widths(grey: np.ndarray, line: np.ndarray, x0: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance in px from the dark line to the half-height of the bright border on either side: (anterior, posterior)."""
    blur = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)
    reach = 24  # px; a normal translucency is 15-20 px high at 512 px
    out = np.empty((2, len(line)), np.float32)
    for i, y in enumerate(line):
        column = blur[:, min(x0 + i, grey.shape[1] - 1)]
        yi = int(np.clip(round(float(y)), reach, len(column) - reach - 1))
        for side, ray in enumerate((column[yi : yi - reach : -1], column[yi : yi + reach])):
            half = (ray[0] + ray[: reach // 2].max()) / 2
            out[side, i] = max(2.0, float(np.argmax(ray > half)))
    smooth = cv2.GaussianBlur(out, (0, 0), SMOOTH_TRACE_PX, sigmaY=1e-3, borderType=cv2.BORDER_REPLICATE)
    return smooth[0], smooth[1]


def paint_out_calipers(grey: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Remove small bright crosses and dots in and around the nuchal box by inpainting what is brighter than an opening of
    its neighbourhood and no larger than a caliper cross (11 px)."""
    x0, y0, x1, y1 = (int(v) for v in box)
    pad = 14
    rows, columns = slice(max(0, y0 - pad), y1 + pad), slice(max(0, x0 - pad), x1 + pad)
    region = grey[rows, columns]
    hat_h = cv2.morphologyEx(region, cv2.MORPH_TOPHAT, np.ones((1, 13), np.uint8))
    hat_v = cv2.morphologyEx(region, cv2.MORPH_TOPHAT, np.ones((13, 1), np.uint8))
    spots = (np.minimum(hat_h, hat_v) > 28).astype(np.uint8)
    spots = np.asarray(cv2.dilate(spots, np.ones((5, 5), np.uint8)), np.uint8)
    out = grey.copy()
    out[rows, columns] = cv2.inpaint(region, spots, 3, cv2.INPAINT_TELEA)
    return out


def fluid(grey: np.ndarray, shape: tuple[int, int], level: float, rng: np.random.Generator) -> np.ndarray:
    """Fluid texture float32 [h,w]: this picture's own darkest grain (its 20 % quietest 16-px tiles) on the given level."""
    tiles = grey[: grey.shape[0] // 16 * 16, : grey.shape[1] // 16 * 16].reshape(grey.shape[0] // 16, 16, -1, 16)
    means, stds = tiles.mean((1, 3)), tiles.std((1, 3))
    live = means > 1.0  # the screen's black outside the fan has no grain at all
    dark = live & (means < np.quantile(means[live], 0.25)) if live.any() else live
    grain = float(np.median(stds[dark])) if dark.any() else 3.0
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 2.2, sigmaY=1.1)
    slow = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 14.0)
    noise, slow = noise / noise.std(), slow / slow.std()
    return np.clip(level + min(grain, 9.0) * (0.8 * noise + 0.35 * slow), 0, 255)


def _smooth_noise(n: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal((1, n + int(8 * sigma))).astype(np.float32), (0, 0), sigma)[0]
    noise = noise[int(4 * sigma) : int(4 * sigma) + n]
    return noise / (noise.std() + 1e-6)


def operate(
    grey: np.ndarray, anatomy: NuchalAnatomy, thickness_mm: float, rng: np.random.Generator, septa: int = 0
) -> tuple[np.ndarray, Operation]:
    """Set the nuchal thickness of a still to `thickness_mm` at its widest. uint8 [H,W] -> (uint8 [H,W], what was done).

    Deterministic given `rng`'s state. Lesion and sham differ in `thickness_mm` and `septa` only.
    """
    height, width = grey.shape
    nx0, ny0, nx1, ny1 = anatomy.nt
    if not anatomy.posterior_down:
        flipped = NuchalAnatomy((nx0, height - ny1, nx1, height - ny0), anatomy.thalami_px, True)
        out, done = operate(np.ascontiguousarray(grey[::-1]), flipped, thickness_mm, rng, septa)
        bx0, by0, bx1, by1 = done.nuchal_box
        return np.ascontiguousarray(out[::-1]), Operation(
            done.thickness_mm, (bx0, height - by1, bx1, height - by0), septa
        )

    clean = paint_out_calipers(grey, anatomy.nt)
    x0, x1 = int(max(0, round(nx0))), int(min(width, round(nx1)))
    pad_y = 3
    line = dark_line(clean, (x0, max(0, ny0 - pad_y), x1, min(height, ny1 + pad_y)))
    anterior, posterior = half_widths(clean, line, x0)

    # extend the line beyond the box along its end tangents, fading out: a collection has no vertical end wall
    n = x1 - x0
    margin = int(0.35 * n)
    span = np.arange(-margin, n + margin)
    slope_l = np.clip((line[min(20, n - 1)] - line[0]) / 20, -0.6, 0.6)
    slope_r = np.clip((line[-1] - line[max(0, n - 21)]) / 20, -0.6, 0.6)
    centre = np.interp(span, np.arange(n), line)
    centre = centre + np.where(span < 0, span * slope_l, 0) + np.where(span >= n, (span - n + 1) * slope_r, 0)
    ant, post = np.interp(span, np.arange(n), anterior), np.interp(span, np.arange(n), posterior)

    # target thickness along the back: widest somewhere in the middle half, falling smoothly to nothing at both ends
    peak = rng.uniform(0.3, 0.7) * n
    reach_l, reach_r = rng.uniform(0.5, 0.95) * n * 0.8, rng.uniform(0.5, 0.95) * n * 0.8
    u = np.where(span < peak, (peak - span) / reach_l, (span - peak) / reach_r)
    profile = np.where(u < 1, np.cos(np.clip(u, 0, 1) * np.pi / 2) ** rng.uniform(0.7, 1.3), 0)
    wobble = 1 + 0.07 * _smooth_noise(len(span), rng.uniform(10, 30), rng)
    target = thickness_mm * anatomy.px_per_mm * profile * wobble
    gap = (target - (ant + post) * np.clip(profile, 0, 1)).astype(np.float32)  # > 0 opens, < 0 closes
    gap = np.maximum(gap, -0.75 * (ant + post))

    columns = span + x0
    keep = (columns >= 0) & (columns < width)
    full_gap, full_centre = np.zeros(width, np.float32), np.full(width, float(np.mean(centre)), np.float32)
    full_centre[: max(0, columns[keep][0])] = centre[keep][0]
    full_centre[columns[keep][-1] :] = centre[keep][-1]
    full_gap[columns[keep]], full_centre[columns[keep]] = gap[keep], centre[keep]
    full_gap = cv2.GaussianBlur(full_gap[None], (0, 0), 4.0)[0]
    room = height - full_centre - SKIN_PX - 4
    full_gap = np.minimum(full_gap, np.maximum(room * 0.8, 0))

    # inverse map: each output row asks where it came from
    ys = np.arange(height, dtype=np.float32)[:, None]
    xs = np.broadcast_to(np.arange(width, dtype=np.float32)[None], (height, width))
    depth = ys - full_centre[None] - full_gap[None]  # rows behind the gap
    decay = np.maximum(30.0, 2.2 * np.abs(full_gap))[None]
    behind = full_centre[None] + depth + full_gap[None] * (1 - np.exp(-np.maximum(depth - SKIN_PX, 0) / decay))
    source = np.where(ys <= full_centre[None], ys, np.where(depth < 0, full_centre[None], behind))
    warped = cv2.remap(clean, xs, source.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(
        np.float32
    )

    # fluid from the anterior to the posterior border; the sham gets its own band refilled in the same way
    full_ant, full_post = np.zeros(width, np.float32), np.zeros(width, np.float32)
    full_ant[columns[keep]], full_post[columns[keep]] = ant[keep], post[keep]
    upper = full_centre - 0.75 * full_ant
    lower = full_centre + np.maximum(full_gap, 0) + 0.75 * full_post * (full_gap > -0.5)
    present = np.zeros(width, np.float32)
    present[columns[keep]] = np.clip(profile[keep] * 4, 0, 1)
    present = cv2.GaussianBlur(present[None], (0, 0), 6.0)[0]
    inside = np.clip((ys - upper[None]) / EDGE_PX, 0, 1) * np.clip((lower[None] - ys) / EDGE_PX, 0, 1) * present[None]
    inside = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.9)
    on_line = clean[np.clip(np.round(line).astype(int), 0, height - 1), np.arange(x0, x1)]
    level = float(np.quantile(on_line, 0.35)) * rng.uniform(0.85, 1.25)
    gap_fluid = fluid(clean, (height, width), level, rng)
    out = warped * (1 - inside) + np.minimum(gap_fluid, np.maximum(warped, gap_fluid)) * inside

    for _ in range(septa):
        x_at = x0 + rng.uniform(0.2, 0.8) * n
        lean, bow = rng.uniform(-0.5, 0.5), rng.uniform(-6, 6)
        top, bottom = np.interp(x_at, np.arange(width), upper), np.interp(x_at, np.arange(width), lower)
        if bottom - top < 14:  # px: no room for a septum that could be seen
            continue
        t = np.linspace(0, 1, 30)
        points = np.stack(
            [x_at + lean * (bottom - top) * (t - 0.5) + bow * np.sin(np.pi * t), top + t * (bottom - top)], 1
        )
        septum: np.ndarray = np.zeros((height, width), np.float32)
        cv2.polylines(septum, [np.round(points * 8).astype(np.int32)], False, 1.0, 2, cv2.LINE_AA, 3)
        septum = cv2.GaussianBlur(septum, (0, 0), 1.0) * (
            0.6 + 0.4 * _smooth_noise(height, 5, rng)[:, None].clip(-1, 1)
        )
        out = out + np.clip(septum, 0, 1) * rng.uniform(0.35, 0.75) * float(np.quantile(clean, 0.93))

    bright = np.where(present > 0.5)[0]
    b0, b1 = (int(bright[0]), int(bright[-1]) + 1) if len(bright) else (x0, x1)
    box = (float(b0), float(max(0, upper[b0:b1].min())), float(b1), float(min(height, lower[b0:b1].max())))
    return np.clip(out, 0, 255).astype(np.uint8), Operation(float(thickness_mm), box, septa)


def add_calipers(grey: np.ndarray, box: tuple[float, float, float, float], rng: np.random.Generator) -> np.ndarray:
    """A pair of caliper marks across the box, or anywhere: drawn at random in every class, so that they tell nothing."""
    out = grey.copy()
    x0, y0, x1, y1 = box
    if rng.random() < 0.7:
        x = rng.uniform(x0, x1)
        centre, half = (y0 + y1) / 2, rng.uniform(0.2, 0.6) * (y1 - y0)
        ends = [(x, centre - half), (x + rng.uniform(-5, 5), centre + half)]
    else:
        ends = [(rng.uniform(0, grey.shape[1]), rng.uniform(0, grey.shape[0])) for _ in range(2)]
    level, arm = int(rng.uniform(110, 255)), int(rng.integers(2, 5))
    for x, y in ends:
        cv2.drawMarker(out, (int(x), int(y)), level, cv2.MARKER_CROSS, 2 * arm + 1, 1)
    if rng.random() < 0.3:
        (xa, ya), (xb, yb) = ends
        for t in np.linspace(0, 1, max(2, int(np.hypot(xb - xa, yb - ya) / 5))):
            cv2.circle(out, (int(xa + t * (xb - xa)), int(ya + t * (yb - ya))), 0, level, -1)
    return out
