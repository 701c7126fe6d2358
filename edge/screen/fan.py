"""Find the ultrasound fan on a scanner's screen.

"Picture" is what stands out from the screen's background after thin things (text, rulers, caliper marks) are filtered
away and, in live video, moves; where the screen around it stands perfectly still, faint noise in fluid is picture too.
`edge.screen.fit` then fits a shape to it.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.bars import Box, cut, inner_box, scaled_box
from edge.screen.fit import Evidence, Fit, fitting
from edge.screen.geometry import rasterise, scaled, shifted
from edge.screen.signal import is_drawn
from edge.screen.steps import Steps, finish

WORK_SIDE = 480  # px, longest side of the image that is fitted: a pixel is .2 % of it; cost grows with its square
RING = 0.03  # of the screen's lesser side: depth of the border that shows the background
FLAT_SHARE = 0.25  # share of the border at one grey level (+-1) that makes this level the background; chosen
BACKGROUND_MARGIN = 4  # grey levels above the background that count as picture; chosen above codec noise on black
MOVING_RANGE = 10  # grey levels that a pixel must range over in a window to count as moving
DRAWN_SHARE = 0.005  # of a screen inside bars that stands on its background, at least: a name line and a clock
STILL_SHARE = 0.005  # of the border that may change at all on a perfectly still screen: a clock does (chosen)
FAINT_WIDTH = 0.035  # of the screen's lesser side, at least, of faint noise in fluid: 25 px of 720, a codec's block has 16
MIN_AREA = 0.03  # of the screen; a smaller fan is a thumbnail
MIN_FILL = 0.30  # picture pixels in the fan; below, the shape rests on scattered interface elements
MAX_OUTSIDE = 0.10  # of the picture outside the fan; above, the shape does not describe the picture
DUAL_LIKENESS = 0.45  # area of the smaller fan over the larger; thumbnails are far smaller (chosen)
DUAL_OUTSIDE = 0.03  # of each picture that may lie outside its own fan: fluid has no straight edges
DUAL_APART = 0.5  # of what lies between the two middles, between the two apexes: 0 in halves of one fan, 1 in two like pictures
DUAL_FILL = 0.75  # of each fan of a dual view that must be picture
COMPONENT_SHARE = 0.12  # of the largest component's area: smaller ones are logos, grey bars and thumbnails
ISLAND_SHARE = 0.01  # of the largest component's area for one that lies between the picture's sides
LIVE_ISLAND_SHARE = 0.002  # the same for one that moves: 27 px square of a 720p screen's picture, more than a digit or a pointer
LIVE_ISLAND_WEIGHT = 6.0  # per pixel, for an island that moves: no interface does, so the fan must stretch to hold it


def background_level(grey: np.ndarray) -> int:
    """uint8 [H,W] -> the grey level of the screen around the fan: the commonest along its border; black if none is."""
    ring = border(grey)
    share = np.convolve(np.bincount(ring, minlength=256).astype(np.float64), np.ones(3), "same") / ring.size
    level = int(np.argmax(share))
    return max(level - 1, 0) if level <= 1 else level if share[level] >= FLAT_SHARE else 0


def border(image: np.ndarray) -> np.ndarray:
    """The pixels [n] along the edge of an image [H,W]."""
    deep = max(1, round(RING * min(image.shape)))
    return np.concatenate([part.ravel() for part in (image[:deep], image[-deep:], image[:, :deep], image[:, -deep:])])


def gather(
    grey: np.ndarray, ranged: np.ndarray | None = None, screen: tuple[int, int] | None = None, by_motion: bool = False
) -> Evidence:
    """uint8 [H,W] (one frame, or a temporal maximum) -> Evidence.

    `ranged`: uint8 [H,W] or None: over how many grey levels live video ranged. Components that never move are interface.
    `screen`: (height, width) of the frame when `grey` is a thumbnail of it. Bars around the screen are not looked at.
    `by_motion`: picture is only what moves; for screens without one background.
    """
    box = screen_box(grey)
    frame = screen if screen is not None else (grey.shape[0], grey.shape[1])
    inner = scaled_box(box, grey.shape, frame)
    height, width = inner[3] - inner[1], inner[2] - inner[0]
    grey = cut(grey, box)
    ranged = cut(ranged, box) if ranged is not None else None
    scale = min(1.0, WORK_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    moving = faint = None
    if ranged is not None:
        moving = ranged > MOVING_RANGE
        if np.count_nonzero(border(ranged)) <= STILL_SHARE * border(ranged).size:  # no codec's or cable's noise
            faint = (ranged > 0).astype(np.uint8)
    if grey.shape != size[::-1]:
        grey = shrink(grey, size)
        moving = None if moving is None else shrink(moving.astype(np.uint8), size) > 0
        faint = None if faint is None else np.asarray(cv2.resize(faint, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if by_motion and moving is not None:
        mask = np.asarray(cv2.medianBlur(moving.astype(np.uint8), 5), np.uint8)
    else:
        mask = _standing_out(grey, faint)
    side = min(grey.shape)
    # Join speckle, then drop whatever is narrower than a grey bar (about 2.5 % of the screen's height).
    joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disc(0.012 * side))
    solid = cv2.morphologyEx(joined, cv2.MORPH_OPEN, disc(0.025 * side))
    return Evidence(_weigh(np.asarray(solid, np.uint8), moving), scale, frame, inner, live=ranged is not None)


def _standing_out(grey: np.ndarray, faint: np.ndarray | None) -> np.ndarray:
    """uint8 [h,w]: 1 where the picture differs from the screen's background, or is faint noise."""
    # A median of 5 removes strokes up to 2 px wide at the working scale: text, rulers, calipers, frames.
    smooth = cv2.medianBlur(np.ascontiguousarray(grey), 5)
    # Either way from the background: on a grey interface the fan's own black is picture too.
    mask = (cv2.absdiff(smooth, np.full_like(smooth, background_level(grey))) > BACKGROUND_MARGIN).astype(np.uint8)
    if faint is not None:  # fluid is wide; what a codec's blocks stir up around the picture, or a clock's digits, is not
        width = FAINT_WIDTH * min(grey.shape)
        mask |= cv2.morphologyEx(faint & (1 - mask), cv2.MORPH_OPEN, disc(width)).astype(np.uint8)
    return mask


def screen_box(grey: np.ndarray) -> Box:
    """uint8 [H,W] -> the box of the screen without its bars. Where nothing stands on what the bars enclose, it is no screen
    but one evenly grey picture on black."""
    box = inner_box(grey)
    inner = cut(grey, box)
    if inner.shape == grey.shape:
        return box
    counts = np.bincount(inner.ravel(), minlength=256)
    for level in (background_level(grey), int(np.argmax(counts))):
        counts[max(level - BACKGROUND_MARGIN, 0) : level + BACKGROUND_MARGIN + 1] = 0
    return box if counts.sum() > DRAWN_SHARE * inner.size else (0, 0, grey.shape[1], grey.shape[0])


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H,W] at another (width, height), area averaged."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def disc(diameter: float) -> np.ndarray:
    """A round structuring element of odd size, at least 3 px."""
    size = max(3, int(diameter) | 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


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
        return np.asarray(weight[labels], np.float32)
    large = area >= COMPONENT_SHARE * area.max()
    weight[large] = 1
    # Islands in fluid, such as a limb above the fetus; beside the picture the like would be a logo or a thumbnail.
    left, right = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_LEFT] + stats[:, cv2.CC_STAT_WIDTH]
    among = (left >= left[large].min()) & (right <= right[large].max())
    islands = ~large & among
    weight[islands & (area >= ISLAND_SHARE * area.max())] = 1
    if moving is not None:
        weight[islands & (area >= LIVE_ISLAND_SHARE * area.max()) & (alive > 0.5 * area)] = LIVE_ISLAND_WEIGHT
    return np.asarray(weight[labels], np.float32)


def plausible(fit: Fit, shape: tuple[int, int]) -> bool:
    """Whether a fit describes an ultrasound picture on a screen of `shape` (height, width)."""
    if fit.fill < MIN_FILL or fit.outside > MAX_OUTSIDE:
        return False
    x0, y0, x1, y1 = fit.fan.box
    return (x1 - x0) * (y1 - y0) >= MIN_AREA * shape[0] * shape[1]


def judge(image: np.ndarray, evidence: Evidence) -> Fit | None:
    """The fan that the evidence shows, if it is plausible and `image` (uint8, any size) shows no drawing in it."""
    return finish(judging(image, evidence))


def judging(image: np.ndarray, evidence: Evidence) -> Steps[Fit | None]:
    """`judge` in steps."""
    fit = yield from fitting(evidence)
    if fit is None or not plausible(fit, evidence.shape):
        return None
    height, width = evidence.weight.shape
    image = cut(image, scaled_box(evidence.inner, evidence.frame, (image.shape[0], image.shape[1])))
    thumb = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    inside = rasterise(scaled(fit.fan, evidence.scale), (0, 0, width, height))
    if is_drawn(thumb, evidence.picture & inside, fit.fan.kind):
        return None
    return replace(fit, fan=shifted(fit.fan, evidence.inner[:2]))


def find_two(evidence: Evidence) -> tuple[Fan, Fan] | None:
    """Two fans side by side (a dual view), left first; None when there is one fan or none.

    Two pictures of like size, abreast, with a clean gap between them, each filling its own fan: fluid that splits one
    picture in two leaves ragged halves, or halves whose side lines meet in one apex.
    """
    return finish(finding_two(evidence))


def finding_two(evidence: Evidence) -> Steps[tuple[Fan, Fan] | None]:
    """`find_two` in steps."""
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
        fit = yield from fitting(replace(evidence, weight=(labels == k).astype(np.float32)))
        if fit is None or fit.fill < DUAL_FILL or fit.outside > DUAL_OUTSIDE:
            return None
        fans.append(shifted(fit.fan, evidence.inner[:2]))
    middles = [(fan.box[0] + fan.box[2]) / 2 for fan in fans]
    apexes = [fan.apex[0] if fan.kind == "sector" else middle for fan, middle in zip(fans, middles, strict=True)]
    if apexes[1] - apexes[0] < DUAL_APART * (middles[1] - middles[0]):
        return None
    return fans[0], fans[1]
