"""Simulated nuchal lesions on real mid-sagittal stills, and sham operations that leave the thickness normal.

The annotated translucency is opened along its darkest line: tissue posterior to the line is pushed away from the fetus, the
gap is filled with fluid whose level and grain are those of the picture's own fluid. A sham goes through the very same
operator (line, warp, fill, blur) with a normal target thickness, so that the edit itself tells nothing; the same decoy warp
is applied elsewhere in both. Not a clinical image: every figure measured on these is labelled "simulated lesion".

Millimetres are equivalents: no pixel spacing exists, so the long side of the thalami box is taken as 6 mm (the calipers read
on six images put it at 5.4-6.0 mm; nt_weak_flags.csv of the training data).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.drawn import fixed_screen

THALAMI_MM = 6.0  # long side of the thalami box, see above
NORMAL_NT_MM = (0.8, 2.3)  # 95th centile at CRL 57 mm is about 2.3 mm (docs/design.md#simulation)
LESION_MM = (3.2, 12.0)  # below 3.2 mm a thick NT and a hygroma cannot be told apart by thickness
LESION_MEDIAN_MM, LESION_SIGMA = 6.0, 0.38  # lognormal, chosen (docs/design.md#simulation)
CALIPERED = 0.3  # share of the pictures that get caliper marks, in every class

# All pixels are those of the 512-pixel stills that the shipped model was trained on. Every number without another reason was
# chosen by eye on them.

# Where the picture's own translucency lies.
PATH_BLUR_PX = 2.0  # before the darkest path is sought: wider than the grain, narrower than the translucency
SLOPE_COST = 2.0  # grey levels a row of slope costs: keeps the path from jumping between bands
BOX_PAD_PX = 3  # boxes are drawn tight
SMOOTH_TRACE_PX = 9.0  # the spine-side border is smooth over about a vertebra
POINT_BLUR_PX = 1.0  # about the point-spread width: before single pixels are read
WALL_REACH_PX = 24  # from the line to the bright border; a normal translucency is 15-20 px high
LEAST_HALF_PX = 2.0  # from the line to a border: nearer than the point-spread width is not resolved
DARK_CENTILE, WALL_CENTILE = 0.1, 0.9  # of the columns: the border that `traced_box` gives, without the few that stray

# What calipers look like: small bright marks.
CALIPER_PAD_PX = 14  # around the box: arms of a cross reach so far out of it
CALIPER_HAT_PX = 13  # longer than a caliper cross, 11 px
CALIPER_LEVELS = 28  # grey levels above the neighbourhood: more than speckle has there
CALIPER_GROWN_PX = 5  # side of the square that a spot grows by: its blurred rim goes too
INPAINT_PX = 3  # radius that inpainting reads around a spot

# How the line goes on beyond the box: a collection has no vertical end wall.
BEND_PX = 30.0  # over which the line's slope at the ends of the box levels out beyond them
MARGIN = 0.35  # of the box's width, beyond either end: as far as a collection may reach
SLOPE_PX = 20  # over which the slope at an end is measured: less would follow the grain
STEEPEST_LINE = 0.6  # rows a column: a neck that seems steeper is a trace gone astray

# The thickness along the back: widest somewhere in the middle, falling smoothly to nothing at both ends.
PEAK = (0.3, 0.7)  # where along the box, in its widths, it is widest
REACH = (0.5, 0.95)  # of REACHING: how far an end lies, drawn for each side
REACHING = 0.8  # of the box's width: the farthest end
WITHIN = 0.5  # of the box's width beside the margin, at most: an end stays in what was traced
MIN_REACH_PX = 20.0  # from the widest place to an end: shorter is a notch
STEEPEST = 1.3  # length of an end in thicknesses at least: a collection tapers along the back
PLATEAU = 0.5  # of the way to an end that keeps the full thickness, at most
FULLNESS = (0.5, 0.9)  # exponent of the raised cosine: below 1 it is fuller than a cosine, as drawn collections are
WOBBLE = 0.07  # of the thickness, standard deviation: no border is a drawn curve
WOBBLE_PX = (10, 30)  # over which it varies: longer than the grain, shorter than the collection
CLOSED = 0.75  # of the thickness that there is may be closed: what is left keeps the dark line a line
SMOOTH_GAP_PX = 4.0  # columns over which the gap is smoothed: no step where the box's margin ends
WIDE_SHARE, WIDE_PX = 0.3, 1.0  # of the widest gap, and px at least: the columns whose room says how far all open
SKIN_PX = 14  # the skin line and its neighbour keep their thickness; compression starts behind them
WALL_PX = 6  # of the posterior border that stay in the picture
DECAY_PX, SPREAD = 45.0, 3.5  # what is pushed away settles over this, or so many gaps: tissue shrinks by at most 22 %
EDITED = 0.12  # of the full thickness: where the profile is above it, the picture was changed

# The fluid: at its borders as dark as the translucency was, anechoic further in.
EDGE_PX = 1.6  # softness of the fluid's border: about one axial point-spread width
EDGE_BLUR_PX = 0.9  # of the border besides: takes the steps from column to column
BORDERS = 0.75  # of the half-width: how far the translucency's own dark core reaches; the rest is its blurred wall
UNCLOSED_PX = 0.5  # a line that was closed by more has no posterior half left
DEEP_CENTILE = 0.35  # of the grey levels on the line: darker than most, no outlier
DEEP = (0.8, 1.1)  # times that: anechoic fluid differs from picture to picture
LEVEL_PX = 6.0  # columns over which the line's own level is smoothed
HAZE_MM = 0.5  # over which the fluid darkens from its border inwards: the walls' side lobes reach about that far
GRAIN_ABOVE_PX = (70, 10)  # rows above the line, from and to: tissue of the fetus, whose speckle the fluid gets
GRAIN_CORE = 0.4  # of the usual half-width: the part of the translucency whose grain is measured, clear of its walls
GRAIN_LEVELS = (1.0, 9.0)  # grey levels, standard deviation: no fluid is without noise, none is as bright as tissue
MAD_TO_SIGMA = 1.48  # of a normal distribution
FAST, SLOW = 0.9, 0.4  # shares of speckle and of slow clouds in the grain
SLOW_PX = 14.0  # of the clouds: about a translucency's height
LOCAL_PX = 6.0  # what is wider is no grain
LEAST_SPECKLE_PX = 12  # side of the box below which its speckle cannot be measured
USUAL_SPECKLE_PX = (2.2, 1.1)  # lateral and axial: typical of 512-pixel stills
CORRELATION = (0.1, 0.9)  # of speckle two pixels apart, at least and at most: outside it the width is noise

# Septa: thin bright walls across the fluid.
SEPTUM_AT = (0.2, 0.8)  # where along the box, in its widths
SEPTUM_LEAN = 0.5  # columns a row at most, either way
SEPTUM_BOW_PX = 6  # of its middle at most, either way
SEPTUM_LEAST_PX = 14  # of fluid: less has no room for a septum that could be seen
SEPTUM_POINTS = 30  # of its curve: a point every few pixels
SEPTUM_PX = 2  # wide, before it is blurred as the point-spread does
SUBPIXEL_BITS = 3  # of a drawn point: an eighth of a pixel
SEPTUM_STEADY, SEPTUM_VARIES = 0.6, 0.4  # of its brightness: it fades where the beam runs along it
SEPTUM_VARIES_PX = 5  # rows
SEPTUM_LEVEL = (0.35, 0.75)  # of the picture's bright levels: thinner than a bone, brighter than fluid
BRIGHT_CENTILE = 0.93  # of the picture: its bright levels, without its brightest marks


Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the still


@dataclass(frozen=True)
class NuchalAnatomy:
    """Boxes in pixels of the still: `nt` and the long side of the thalami box."""

    nt: Box
    thalami_px: float
    posterior_down: bool  # the back faces the lower edge (else the picture is flipped for the operation)

    @classmethod
    def of(cls, nt: Box, thalami: Box) -> NuchalAnatomy:
        """Of both boxes."""
        long_side = max(thalami[2] - thalami[0], thalami[3] - thalami[1])
        return cls(nt, long_side, posterior_down=nt[1] + nt[3] > thalami[1] + thalami[3])

    @property
    def px_per_mm(self) -> float:
        return self.thalami_px / THALAMI_MM

    def flipped(self, height: int) -> NuchalAnatomy:
        """Of the picture of `height` rows turned upside down."""
        return replace(self, nt=_mirrored(self.nt, height), posterior_down=not self.posterior_down)


@dataclass(frozen=True)
class Operation:
    """What was done: the thickness reached, which is less than was asked for where the picture ends below the neck, and the
    region that is now fluid as a box in pixels of the still."""

    thickness_mm: float
    nuchal_box: Box
    septa: int


def _mirrored(box: Box, height: int) -> Box:
    """The box in the picture of `height` rows turned upside down."""
    x0, y0, x1, y1 = box
    return x0, height - y1, x1, height - y0


def draw_lesion_mm(rng: np.random.Generator) -> float:
    """A hygroma's thickness, mm: lognormal, truncated to LESION_MM."""
    while True:
        mm = float(LESION_MEDIAN_MM * np.exp(LESION_SIGMA * rng.standard_normal()))
        if LESION_MM[0] <= mm <= LESION_MM[1]:
            return mm


def dark_line(grey: np.ndarray, box: Box) -> np.ndarray:
    """The translucency's centre line: for every column of the box the row of the darkest smooth path (dynamic
    programming, at most one row of slope a column). float32 [columns]."""
    x0, y0, x1, y1 = (int(round(v)) for v in box)
    strip = cv2.GaussianBlur(grey, (0, 0), PATH_BLUR_PX)[y0:y1, x0:x1].astype(np.float32)
    strip = strip + strip * strip / max(1.0, float(np.median(strip)))  # a path across a bright wall never pays
    cost = strip.copy()
    back = np.zeros(strip.shape, np.int8)
    for x in range(1, strip.shape[1]):
        before = cost[:, x - 1]
        options = np.stack([np.r_[np.inf, before[:-1]], before, np.r_[before[1:], np.inf]])
        options[[0, 2]] += SLOPE_COST
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
    blur, reach = cv2.GaussianBlur(grey, (0, 0), POINT_BLUR_PX).astype(np.float32), WALL_REACH_PX
    out = np.empty((2, len(line)), np.float32)
    for i, y in enumerate(line):
        column = blur[:, min(x0 + i, grey.shape[1] - 1)]
        yi = int(np.clip(round(float(y)), reach, len(column) - reach - 1))
        for side, ray in enumerate((column[yi : yi - reach : -1], column[yi : yi + reach])):
            half = (ray[0] + ray[: reach // 2].max()) / 2
            out[side, i] = max(LEAST_HALF_PX, float(np.argmax(ray > half)))
    smooth = cv2.GaussianBlur(out, (0, 0), SMOOTH_TRACE_PX, sigmaY=1e-3, borderType=cv2.BORDER_REPLICATE)
    return smooth[0], smooth[1]


def paint_out_calipers(grey: np.ndarray, box: Box) -> np.ndarray:
    """Remove small bright crosses and dots in and around the nuchal box by inpainting what is brighter than an opening of
    its neighbourhood and no larger than a caliper cross (11 px)."""
    x0, y0, x1, y1 = (int(v) for v in box)
    pad, hat = CALIPER_PAD_PX, CALIPER_HAT_PX
    rows, columns = slice(max(0, y0 - pad), y1 + pad), slice(max(0, x0 - pad), x1 + pad)
    region = grey[rows, columns]
    hat_h = cv2.morphologyEx(region, cv2.MORPH_TOPHAT, np.ones((1, hat), np.uint8))
    hat_v = cv2.morphologyEx(region, cv2.MORPH_TOPHAT, np.ones((hat, 1), np.uint8))
    spots = (np.minimum(hat_h, hat_v) > CALIPER_LEVELS).astype(np.uint8)
    spots = np.asarray(cv2.dilate(spots, np.ones((CALIPER_GROWN_PX, CALIPER_GROWN_PX), np.uint8)), np.uint8)
    out = grey.copy()
    out[rows, columns] = cv2.inpaint(region, spots, INPAINT_PX, cv2.INPAINT_TELEA)
    return out


def speckle_size(grey: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Lateral and axial width (Gaussian sigma, px) of the grain in a box, from its correlation two pixels apart."""
    x0, y0, x1, y1 = box
    part = grey[max(0, y0) : y1, max(0, x0) : x1].astype(np.float32)
    if min(part.shape) < LEAST_SPECKLE_PX:
        return USUAL_SPECKLE_PX
    part = part - cv2.GaussianBlur(part, (0, 0), LOCAL_PX)
    power = float((part * part).mean()) + 1e-6
    found = [float((a * b).mean()) / power for a, b in ((part[:, :-2], part[:, 2:]), (part[:-2], part[2:]))]
    wide, high = (1.0 / np.sqrt(-np.log(np.clip(r, *CORRELATION))) for r in found)
    return float(wide), float(high)


def fluid(
    grey: np.ndarray, line: np.ndarray, half: float, x0: int, size: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Grain float32 [H,W] around 0, as strong as the translucency's own along `line` (within `half` px of it) and of speckle
    `size`."""
    steps = np.arange(-int(half), int(half) + 1)
    rows = np.clip(np.round(line).astype(int)[None] + steps[:, None], 0, grey.shape[0] - 1)
    band = grey[rows, np.arange(x0, x0 + len(line))[None]].astype(np.float32)
    grain = float(np.median(np.abs(band - cv2.GaussianBlur(band, (0, 0), LOCAL_PX, sigmaY=1e-3)))) * MAD_TO_SIGMA
    noise = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), size[0], sigmaY=size[1])
    slow = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), SLOW_PX)
    return np.clip(grain, *GRAIN_LEVELS) * (FAST * noise / noise.std() + SLOW * slow / slow.std())


def _smooth_noise(n: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal((1, n + int(8 * sigma))).astype(np.float32), (0, 0), sigma)[0]
    noise = noise[int(4 * sigma) : int(4 * sigma) + n]
    return noise / (noise.std() + 1e-6)


@dataclass(frozen=True)
class _Trace:
    """The dark line's rows, and the half-widths above and below it, px, of the box's columns from `x0`."""

    x0: int
    line: np.ndarray
    anterior: np.ndarray
    posterior: np.ndarray

    @property
    def usual(self) -> float:
        """The thickness, px: the median over the middle half of the columns."""
        thickness, n = self.anterior + self.posterior, len(self.line)
        return float(np.median(thickness[n // 4 : max(1, 3 * n // 4)]))


def _trace(clean: np.ndarray, anatomy: NuchalAnatomy) -> _Trace:
    height, width = clean.shape
    nx0, ny0, nx1, ny1 = anatomy.nt
    x0, x1 = int(max(0, round(nx0))), int(min(width, round(nx1)))
    line = dark_line(clean, (x0, max(0, ny0 - BOX_PAD_PX), x1, min(height, ny1 + BOX_PAD_PX)))
    return _Trace(x0, line, *half_widths(clean, line, x0))


def measured_mm(grey: np.ndarray, anatomy: NuchalAnatomy) -> float:
    """The thickness that `operate` finds in a still, mm-equivalents: the median over the middle half of the box."""
    return _trace(paint_out_calipers(grey, anatomy.nt), anatomy).usual / anatomy.px_per_mm


def traced_box(grey: np.ndarray, anatomy: NuchalAnatomy) -> Box:
    """The translucency as traced in a picture without calipers: the annotated columns, rows from border to border (10th and
    90th centile). Annotators leave a margin of their own, an edit does not: traced, both have the same."""
    if not anatomy.posterior_down:
        return _mirrored(traced_box(np.ascontiguousarray(grey[::-1]), anatomy.flipped(len(grey))), len(grey))
    found = _trace(grey, anatomy)
    top, bottom = found.line - found.anterior, found.line + found.posterior
    return anatomy.nt[0], float(np.quantile(top, DARK_CENTILE)), anatomy.nt[2], float(np.quantile(bottom, WALL_CENTILE))


@dataclass(frozen=True)
class _Profile:
    """How far the line opens along the back, px, > 0 opens, < 0 closes. columns [K]: of the picture, those that the line goes
    through; share [K]: of the full thickness there. Of every column of the picture [W]: centre, the line's row; anterior and
    posterior, the half-widths, 0 beyond the line's ends; gap; floor, the row at which the picture ends below the line."""

    columns: np.ndarray
    share: np.ndarray
    centre: np.ndarray
    anterior: np.ndarray
    posterior: np.ndarray
    gap: np.ndarray
    floor: np.ndarray

    @property
    def upper(self) -> np.ndarray:
        """The fluid's upper border, rows [W]."""
        return self.centre - BORDERS * self.anterior

    @property
    def lower(self) -> np.ndarray:
        return self.centre + np.maximum(self.gap, 0) + BORDERS * self.posterior * (self.gap > -UNCLOSED_PX)


def operate(
    grey: np.ndarray, anatomy: NuchalAnatomy, thickness_mm: float, rng: np.random.Generator, septa: int = 0
) -> tuple[np.ndarray, Operation]:
    """Set the nuchal thickness of a still to `thickness_mm` at its widest. uint8 [H,W] -> (uint8 [H,W], what was done).

    Deterministic given `rng`'s state. Lesion and sham differ in `thickness_mm` and `septa` only.
    """
    height = len(grey)
    if not anatomy.posterior_down:
        out, done = operate(np.ascontiguousarray(grey[::-1]), anatomy.flipped(height), thickness_mm, rng, septa)
        return np.ascontiguousarray(out[::-1]), replace(done, nuchal_box=_mirrored(done.nuchal_box, height))
    clean = paint_out_calipers(grey, anatomy.nt)
    screen = fixed_screen(clean)  # what the screen draws stays where it is
    trace = _trace(clean, anatomy)
    profile = _profile(trace, screen, thickness_mm * anatomy.px_per_mm, rng)
    out = _fill(_warp(clean, profile), clean, trace, profile, anatomy.px_per_mm, rng)
    for _ in range(septa):
        out = out + _septum(clean, trace, profile, rng)
    out[screen] = clean[screen]

    changed = profile.columns[profile.share > EDITED]
    x0, x1 = (int(changed[0]), int(changed[-1]) + 1) if len(changed) else (trace.x0, trace.x0 + len(trace.line))
    top, bottom = max(0, profile.upper[x0:x1].min()), min(height, profile.lower[x0:x1].max())
    made = float((profile.anterior + profile.posterior + profile.gap)[x0:x1].max()) / anatomy.px_per_mm
    reached = thickness_mm if profile.gap.min() < 0 else min(thickness_mm, made)
    box = (float(x0), float(top), float(x1), float(bottom))
    return np.clip(out, 0, 255).astype(np.uint8), Operation(float(reached), box, septa)


def _profile(trace: _Trace, screen: np.ndarray, goal: float, rng: np.random.Generator) -> _Profile:
    """How the line opens towards `goal` px at its widest. screen bool [H,W]: what the profile keeps clear of."""
    height, width = screen.shape
    line, n = trace.line, len(trace.line)
    margin = int(MARGIN * n)
    span = np.arange(-margin, n + margin)
    # the line goes on along its end tangents, levelling out
    slope_l = np.clip((line[min(SLOPE_PX, n - 1)] - line[0]) / SLOPE_PX, -STEEPEST_LINE, STEEPEST_LINE)
    slope_r = np.clip((line[-1] - line[max(0, n - 1 - SLOPE_PX)]) / SLOPE_PX, -STEEPEST_LINE, STEEPEST_LINE)
    beyond_l, beyond_r = (BEND_PX * (1 - np.exp(-np.maximum(d, 0) / BEND_PX)) for d in (-span, span - n + 1))
    centre = np.interp(span, np.arange(n), line) - beyond_l * slope_l + beyond_r * slope_r
    anterior, posterior = (np.interp(span, np.arange(n), half) for half in (trace.anterior, trace.posterior))

    peak = rng.uniform(*PEAK) * n
    rows = slice(int(max(0, centre.min())), int(min(height, centre.max() + SKIN_PX)))
    blocked = np.flatnonzero(screen[rows].any(0)) - trace.x0
    free_l = peak - max(blocked[blocked < peak], default=-np.inf)
    free_r = min(blocked[blocked >= peak], default=np.inf) - peak
    reach_l, reach_r = (
        max(MIN_REACH_PX, min(free, margin + WITHIN * n, max(rng.uniform(*REACH) * n * REACHING, STEEPEST * goal)))
        for free in (free_l, free_r)
    )
    u = np.where(span < peak, (peak - span) / reach_l, (span - peak) / reach_r)
    plateau = rng.uniform(0.0, PLATEAU)
    share = (0.5 + 0.5 * np.cos(np.clip((u - plateau) / (1 - plateau), 0, 1) * np.pi)) ** rng.uniform(*FULLNESS)
    wobble = 1 + WOBBLE * _smooth_noise(len(span), rng.uniform(*WOBBLE_PX), rng)
    # the same for every column: taking each one's own thickness from the goal would draw the error of measuring it
    gap = (share * (goal - trace.usual) * wobble).astype(np.float32)
    gap = np.maximum(gap, -CLOSED * (anterior + posterior))

    columns = span + trace.x0
    keep = (columns >= 0) & (columns < width)
    columns = columns[keep]
    whole = {name: np.zeros(width, np.float32) for name in ("anterior", "posterior", "gap")}
    for name, values in (("anterior", anterior), ("posterior", posterior), ("gap", gap)):
        whole[name][columns] = values[keep]
    rows_of = np.full(width, float(np.mean(centre)), np.float32)
    rows_of[: columns[0]] = centre[keep][0]
    rows_of[columns[-1] :] = centre[keep][-1]
    rows_of[columns] = centre[keep]
    whole["gap"] = cv2.GaussianBlur(whole["gap"][None], (0, 0), SMOOTH_GAP_PX)[0]
    floor = np.argmax(screen & (np.arange(height)[:, None] > rows_of), 0)
    floor = np.where(floor == 0, height, floor)
    found = _Profile(columns, share[keep], rows_of, floor=floor, **whole)
    return replace(found, gap=_in_the_picture(found))


def _in_the_picture(profile: _Profile) -> np.ndarray:
    """The gap [W] with one factor for all columns, so that the shape stays: the posterior border must remain in the picture."""
    gap = profile.gap
    room = np.maximum(profile.floor - profile.centre - profile.posterior - WALL_PX, 0)
    wide = gap > max(WIDE_PX, WIDE_SHARE * float(gap.max()))
    return np.minimum(gap * min(1.0, float((room[wide] / gap[wide]).min())), room) if wide.any() else gap


def _warp(clean: np.ndarray, profile: _Profile) -> np.ndarray:
    """The picture float32 [H,W] with what lies behind the line pushed away by the gap. An inverse map: each row asks where it
    came from."""
    height, width = clean.shape
    ys = np.arange(height, dtype=np.float32)[:, None]
    xs = np.broadcast_to(np.arange(width, dtype=np.float32)[None], (height, width))
    centre, gap = profile.centre[None], profile.gap[None]
    depth = ys - centre - gap  # rows behind the gap
    decay = np.maximum(DECAY_PX, SPREAD * np.abs(gap))
    behind = centre + depth + gap * (1 - np.exp(-np.maximum(depth - SKIN_PX, 0) / decay))
    behind = np.minimum(behind, np.maximum(profile.floor[None] - 1.0, ys))  # nothing is drawn up from below the picture
    source = np.where(ys <= centre, ys, np.where(depth < 0, centre, behind)).astype(np.float32)
    return cv2.remap(clean, xs, source, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _fill(
    warped: np.ndarray, clean: np.ndarray, trace: _Trace, profile: _Profile, px_per_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """The warped picture with fluid in what was opened; the rest is the still's own."""
    height, width = clean.shape
    ys, line = np.arange(height, dtype=np.float32)[:, None], trace.line
    x = np.arange(trace.x0, trace.x0 + len(line))
    centre, gap = profile.centre[None], profile.gap[None]
    within = np.minimum(ys - centre, centre + gap - ys)  # px from the nearer border, < 0 outside
    opened = np.clip(gap / EDGE_PX, 0, 1)  # a line that was not opened keeps its own pixels
    inside = (np.clip(0.5 + within / EDGE_PX, 0, 1) * opened).astype(np.float32)
    inside = cv2.GaussianBlur(inside, (0, 0), EDGE_BLUR_PX)
    on_line = cv2.GaussianBlur(clean, (0, 0), POINT_BLUR_PX)[np.clip(np.round(line).astype(int), 0, height - 1), x]
    deep = float(np.quantile(on_line, DEEP_CENTILE)) * rng.uniform(*DEEP)
    own = np.interp(np.arange(width), x, on_line)[None].astype(np.float32)
    own = cv2.GaussianBlur(own, (0, 0), LEVEL_PX)
    level = deep + np.maximum(own - deep, 0) * np.exp(-np.maximum(within, 0) / (HAZE_MM * px_per_mm))
    above, below = (int(line.min()) - rows for rows in GRAIN_ABOVE_PX)
    core = GRAIN_CORE * float(np.median(np.minimum(trace.anterior, trace.posterior)))
    grain = fluid(clean, line, core, trace.x0, speckle_size(clean, (trace.x0, above, x[-1] + 1, below)), rng)
    return np.asarray(warped * (1 - inside) + np.clip(level + grain, 0, 255) * inside)


def _septum(clean: np.ndarray, trace: _Trace, profile: _Profile, rng: np.random.Generator) -> np.ndarray | float:
    """The grey levels [H,W] that a septum adds; 0 where the fluid leaves it no room."""
    height, width = clean.shape
    x_at = trace.x0 + rng.uniform(*SEPTUM_AT) * len(trace.line)
    lean, bow = rng.uniform(-SEPTUM_LEAN, SEPTUM_LEAN), rng.uniform(-SEPTUM_BOW_PX, SEPTUM_BOW_PX)
    top, bottom = (np.interp(x_at, np.arange(width), border) for border in (profile.upper, profile.lower))
    if bottom - top < SEPTUM_LEAST_PX:
        return 0.0
    t = np.linspace(0, 1, SEPTUM_POINTS)
    points = np.stack([x_at + lean * (bottom - top) * (t - 0.5) + bow * np.sin(np.pi * t), top + t * (bottom - top)], 1)
    drawn: np.ndarray = np.zeros((height, width), np.float32)
    steps = np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.polylines(drawn, [steps], False, 1.0, SEPTUM_PX, cv2.LINE_AA, SUBPIXEL_BITS)
    varies = _smooth_noise(height, SEPTUM_VARIES_PX, rng)[:, None].clip(-1, 1)
    drawn = cv2.GaussianBlur(drawn, (0, 0), POINT_BLUR_PX) * (SEPTUM_STEADY + SEPTUM_VARIES * varies)
    return np.asarray(
        np.clip(drawn, 0, 1) * rng.uniform(*SEPTUM_LEVEL) * float(np.quantile(clean, BRIGHT_CENTILE))
    )


def add_calipers(grey: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
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
