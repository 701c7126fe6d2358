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

from calibration.drawn import fixed_screen

THALAMI_MM = 6.0  # long side of the thalami box, see above
NORMAL_NT_MM = (0.8, 2.3)  # 95th centile at CRL 57 mm is about 2.3 mm (DESIGN section 5)
LESION_MM = (3.2, 12.0)  # below 3.2 mm a thick NT and a hygroma cannot be told apart by thickness
LESION_MEDIAN_MM, LESION_SIGMA = 6.0, 0.38  # lognormal, chosen in DESIGN section 5
EDGE_PX = 1.6  # softness of the fluid's border: about one axial point-spread width at 512 px
BEND_PX = 30.0  # over which the line's slope at the ends of the box levels out beyond them
MIN_REACH_PX = 20.0  # from the widest place to an end: shorter is a notch
STEEPEST = 1.3  # length of an end in thicknesses at least: a collection tapers along the back
PLATEAU = 0.5  # of the way to an end that keeps the full thickness, at most
WALL_PX = 6  # of the posterior border that stay in the picture
DECAY_PX, SPREAD = 45.0, 3.5  # what is pushed away settles over this, or so many gaps: tissue shrinks by at most 22 %
SKIN_PX = 14  # the skin line and its neighbour keep their thickness; compression starts behind them
SMOOTH_TRACE_PX = 9.0  # the spine-side border is smooth over about a vertebra
CALIPERED = 0.3  # share of the pictures that get caliper marks, in every class
HAZE_MM = 0.5  # over which the fluid darkens from its border inwards: the walls' side lobes reach about that far


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
    """What was done: the thickness reached, which is less than was asked for where the picture ends below the neck, and the
    region that is now fluid as a box in pixels of the still."""

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
    strip = strip + strip * strip / max(1.0, float(np.median(strip)))  # a path across a bright wall never pays
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
        row += int(back[row, x])
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


def speckle_size(grey: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Lateral and axial width (Gaussian sigma, px) of the grain in a box, from its correlation two pixels apart."""
    x0, y0, x1, y1 = box
    part = grey[max(0, y0) : y1, max(0, x0) : x1].astype(np.float32)
    if min(part.shape) < 12:
        return 2.2, 1.1  # typical of 512-pixel stills
    part = part - cv2.GaussianBlur(part, (0, 0), 6.0)
    power = float((part * part).mean()) + 1e-6
    found = [float((a * b).mean()) / power for a, b in ((part[:, :-2], part[:, 2:]), (part[:-2], part[2:]))]
    wide, high = (1.0 / np.sqrt(-np.log(np.clip(r, 0.1, 0.9))) for r in found)
    return float(wide), float(high)


def fluid(
    grey: np.ndarray, line: np.ndarray, half: float, x0: int, size: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Grain float32 [H,W] around 0, as strong as the translucency's own along `line` (within `half` px of it) and of speckle
    `size`."""
    steps = np.arange(-int(half), int(half) + 1)
    rows = np.clip(np.round(line).astype(int)[None] + steps[:, None], 0, grey.shape[0] - 1)
    band = grey[rows, np.arange(x0, x0 + len(line))[None]].astype(np.float32)
    grain = float(np.median(np.abs(band - cv2.GaussianBlur(band, (0, 0), 6.0, sigmaY=1e-3)))) * 1.48
    noise = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), size[0], sigmaY=size[1])
    slow = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), 14.0)
    return np.clip(grain, 1.0, 9.0) * (0.9 * noise / noise.std() + 0.4 * slow / slow.std())


def _smooth_noise(n: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal((1, n + int(8 * sigma))).astype(np.float32), (0, 0), sigma)[0]
    noise = noise[int(4 * sigma) : int(4 * sigma) + n]
    return noise / (noise.std() + 1e-6)


def _trace(clean: np.ndarray, anatomy: NuchalAnatomy) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """First column; the dark line's rows and the half-widths above and below it, px, of that column and those after it."""
    height, width = clean.shape
    nx0, ny0, nx1, ny1 = anatomy.nt
    x0, x1 = int(max(0, round(nx0))), int(min(width, round(nx1)))
    pad = 3  # px: boxes are drawn tight
    line = dark_line(clean, (x0, max(0, ny0 - pad), x1, min(height, ny1 + pad)))
    return x0, line, *half_widths(clean, line, x0)


def measured_mm(grey: np.ndarray, anatomy: NuchalAnatomy) -> float:
    """The thickness that `operate` finds in a still, mm-equivalents: the median over the middle half of the box."""
    _, _, anterior, posterior = _trace(paint_out_calipers(grey, anatomy.nt), anatomy)
    return _usual(anterior + posterior) / anatomy.px_per_mm


def _usual(thickness: np.ndarray) -> float:
    """The median over the middle half of the columns."""
    n = len(thickness)
    return float(np.median(thickness[n // 4 : max(1, 3 * n // 4)]))


def traced_box(grey: np.ndarray, anatomy: NuchalAnatomy) -> tuple[float, float, float, float]:
    """The translucency as traced in a picture without calipers: the annotated columns, rows from border to border (10th and
    90th centile). Annotators leave a margin of their own, an edit does not: traced, both have the same."""
    x0, y0, x1, y1 = anatomy.nt
    height = grey.shape[0]
    if not anatomy.posterior_down:
        flipped = NuchalAnatomy((x0, height - y1, x1, height - y0), anatomy.thalami_px, True)
        x0, y0, x1, y1 = traced_box(np.ascontiguousarray(grey[::-1]), flipped)
        return x0, height - y1, x1, height - y0
    _, line, anterior, posterior = _trace(grey, anatomy)
    return x0, float(np.quantile(line - anterior, 0.1)), x1, float(np.quantile(line + posterior, 0.9))


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
    x0, line, anterior, posterior = _trace(clean, anatomy)
    x1 = x0 + len(line)

    # extend the line beyond the box along its end tangents, fading out: a collection has no vertical end wall
    n = x1 - x0
    margin = int(0.35 * n)
    span = np.arange(-margin, n + margin)
    slope_l = np.clip((line[min(20, n - 1)] - line[0]) / 20, -0.6, 0.6)
    slope_r = np.clip((line[-1] - line[max(0, n - 21)]) / 20, -0.6, 0.6)
    beyond_l, beyond_r = (BEND_PX * (1 - np.exp(-np.maximum(d, 0) / BEND_PX)) for d in (-span, span - n + 1))
    centre = np.interp(span, np.arange(n), line) - beyond_l * slope_l + beyond_r * slope_r
    ant, post = np.interp(span, np.arange(n), anterior), np.interp(span, np.arange(n), posterior)

    # what the screen draws stays where it is; the operation keeps clear of it sideways
    screen = fixed_screen(clean)
    peak = rng.uniform(0.3, 0.7) * n
    rows = slice(int(max(0, centre.min())), int(min(height, centre.max() + SKIN_PX)))
    blocked = np.flatnonzero(screen[rows].any(0)) - x0
    free_l = peak - max(blocked[blocked < peak], default=-np.inf)
    free_r = min(blocked[blocked >= peak], default=np.inf) - peak

    # target thickness along the back: widest somewhere in the middle half, falling smoothly to nothing at both ends
    goal = thickness_mm * anatomy.px_per_mm
    reach_l, reach_r = (
        max(MIN_REACH_PX, min(free, margin + 0.5 * n, max(rng.uniform(0.5, 0.95) * n * 0.8, STEEPEST * goal)))
        for free in (free_l, free_r)
    )
    u = np.where(span < peak, (peak - span) / reach_l, (span - peak) / reach_r)
    plateau = rng.uniform(0.0, PLATEAU)
    profile = (0.5 + 0.5 * np.cos(np.clip((u - plateau) / (1 - plateau), 0, 1) * np.pi)) ** rng.uniform(0.5, 0.9)
    wobble = 1 + 0.07 * _smooth_noise(len(span), rng.uniform(10, 30), rng)
    # the same for every column: taking each one's own thickness from the goal would draw the error of measuring it
    gap = (profile * (goal - _usual(anterior + posterior)) * wobble).astype(np.float32)  # > 0 opens, < 0 closes
    gap = np.maximum(gap, -0.75 * (ant + post))

    columns = span + x0
    keep = (columns >= 0) & (columns < width)
    full_gap, full_centre = np.zeros(width, np.float32), np.full(width, float(np.mean(centre)), np.float32)
    full_centre[: max(0, columns[keep][0])] = centre[keep][0]
    full_centre[columns[keep][-1] :] = centre[keep][-1]
    full_gap[columns[keep]], full_centre[columns[keep]] = gap[keep], centre[keep]
    full_gap = cv2.GaussianBlur(full_gap[None], (0, 0), 4.0)[0]
    ys = np.arange(height, dtype=np.float32)[:, None]
    # one factor for all columns, so that the shape stays: the posterior border must remain in the picture
    floor = np.where(screen.any(0), np.argmax(screen & (ys > full_centre), 0), 0)
    floor = np.where(floor == 0, height, floor)
    full_ant, full_post = np.zeros(width, np.float32), np.zeros(width, np.float32)
    full_ant[columns[keep]], full_post[columns[keep]] = ant[keep], post[keep]
    room = np.maximum(floor - full_centre - full_post - WALL_PX, 0)
    wide = full_gap > max(1.0, 0.3 * float(full_gap.max()))
    if wide.any():
        full_gap = np.minimum(full_gap * min(1.0, float((room[wide] / full_gap[wide]).min())), room)

    # inverse map: each output row asks where it came from
    xs = np.broadcast_to(np.arange(width, dtype=np.float32)[None], (height, width))
    depth = ys - full_centre[None] - full_gap[None]  # rows behind the gap
    decay = np.maximum(DECAY_PX, SPREAD * np.abs(full_gap))[None]
    behind = full_centre[None] + depth + full_gap[None] * (1 - np.exp(-np.maximum(depth - SKIN_PX, 0) / decay))
    behind = np.minimum(behind, np.maximum(floor[None] - 1.0, ys))  # nothing is drawn up from below the picture
    source = np.where(ys <= full_centre[None], ys, np.where(depth < 0, full_centre[None], behind))
    warped = cv2.remap(clean, xs, source.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(
        np.float32
    )

    # fluid in what was opened: at its borders as dark as the translucency was, anechoic further in; the rest is the still's own
    upper = full_centre - 0.75 * full_ant
    lower = full_centre + np.maximum(full_gap, 0) + 0.75 * full_post * (full_gap > -0.5)
    within = np.minimum(
        ys - full_centre[None], full_centre[None] + full_gap[None] - ys
    )  # px from the nearer border, < 0 outside
    opened = np.clip(full_gap / EDGE_PX, 0, 1)[None]  # a line that was not opened keeps its own pixels
    inside = cv2.GaussianBlur((np.clip(0.5 + within / EDGE_PX, 0, 1) * opened).astype(np.float32), (0, 0), 0.9)
    on_line = cv2.GaussianBlur(clean, (0, 0), 1.0)[
        np.clip(np.round(line).astype(int), 0, height - 1), np.arange(x0, x1)
    ]
    deep = float(np.quantile(on_line, 0.35)) * rng.uniform(0.8, 1.1)
    own = cv2.GaussianBlur(
        np.interp(np.arange(width), np.arange(x0, x1), on_line)[None].astype(np.float32), (0, 0), 6.0
    )
    level = deep + np.maximum(own - deep, 0) * np.exp(-np.maximum(within, 0) / (HAZE_MM * anatomy.px_per_mm))
    size = speckle_size(clean, (x0, int(line.min()) - 70, x1, int(line.min()) - 10))
    grain = fluid(clean, line, 0.4 * float(np.median(np.minimum(anterior, posterior))), x0, size, rng)
    out = warped * (1 - inside) + np.clip(level + grain, 0, 255) * inside

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

    out[screen] = clean[screen]
    changed = columns[keep][profile[keep] > 0.12]
    b0, b1 = (int(changed[0]), int(changed[-1]) + 1) if len(changed) else (x0, x1)
    box = (float(b0), float(max(0, upper[b0:b1].min())), float(b1), float(min(height, lower[b0:b1].max())))
    made = float((full_ant + full_post + full_gap)[b0:b1].max()) / anatomy.px_per_mm
    reached = thickness_mm if full_gap.min() < 0 else min(thickness_mm, made)
    return np.clip(out, 0, 255).astype(np.uint8), Operation(float(reached), box, septa)


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
