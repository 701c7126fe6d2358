"""Find the uniform bars around a scanner's screen: letterbox, pillarbox, underscan, at any level, on any side.

Bars are taken off before anything else is asked of a screen: what lies along a picture's edge is taken for the screen's
background, and around a bar everything that is not bar would be picture, the patient's line as well. Bars at the level
of the screen's own background are more background, and stay: where they end cannot be seen, and nothing hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LAYERS = 4  # bars within bars: an underscanned screen in a letterboxed capture, or of another level on each side
MIN_INNER = 0.2  # of the frame's height and of its width that must be left; less is a notice on an empty screen
LEAST = 0.008  # of the frame's side that a bar must take: thinner ones do not outweigh the background along the border
APART = 4  # grey levels by which a bar must differ from the background beside it; less is background to a fan's search too
SAME_LEVEL = 1  # grey levels by which the mean of a bar's line may differ from the outermost one's level
TOLERANCE = 4  # grey levels by which a pixel of a bar may differ: codecs (measured: 3 at H.264's default quality)
NOISE_MAX = 3.0  # median absolute difference, grey levels, of a bar in an analog capture (chosen); more is picture
NOISE_REACH = 4  # of a noisy bar's own spread (median absolute difference) that adds to it: nearly all of a normal one
STRAY = 0.02  # of a bar's line that may be anything: a codec's blocks at the corners
FRINGE = 0.02  # of the frame's side, at most, of the lines into which a codec carries what lies beside the bar
FRINGE_STRAY = 0.25  # of such a line that may be anything
MOSTLY = 0.5  # of a line that may be anything if it is still to be of the bar's level for the most part
RING = 0.05  # of the inner picture's lesser side: depth of the border that shows its background
FLAT_SHARE = 0.35  # share of that border at one grey level (+-1) that makes it a drawn background; chosen
FLAT_NOISE = 1.0  # grey levels on average by which a drawn background may be rougher than the bar

Box = tuple[int, int, int, int]  # (x0, y0, x1, y1), pixels, half open


@dataclass(frozen=True)
class _Bar:
    """Grey levels; `spread` is the median absolute difference."""

    level: float
    spread: float


def inner_box(grey: np.ndarray, around_anything: bool = False) -> Box:
    """uint8 [H,W] -> the box of the screen inside its bars; the whole picture where there are none, or none that matter.

    `around_anything`: also bars around what has no background of its own, such as a test pattern."""
    box: Box = (0, 0, grey.shape[1], grey.shape[0])
    for _ in range(LAYERS):
        inside = _without_layer(grey, box, around_anything)
        if inside == box:
            break
        box = inside
    return box


def scaled_box(box: Box, shape: tuple[int, ...], full: tuple[int, int]) -> Box:
    """A box on a thumbnail of `shape` (height, width) on the frame of size `full` (height, width)."""
    ky, kx = full[0] / shape[0], full[1] / shape[1]
    return round(box[0] * kx), round(box[1] * ky), round(box[2] * kx), round(box[3] * ky)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """What of an image [H,W] or [H,W,C] lies in a box; no copy."""
    return image[box[1] : box[3], box[0] : box[2]]


def _without_layer(grey: np.ndarray, box: Box, around_anything: bool) -> Box:
    """The box without one layer of bars of one level, where they differ from the background of what they enclose."""
    tried: list[float] = []
    for side in range(4):
        bar = _bar(cut(grey, box), side)
        if bar is None or any(abs(bar.level - level) <= SAME_LEVEL for level in tried):
            continue
        tried.append(bar.level)
        inside = _peel(grey, box, bar)
        if inside == box:
            continue
        if around_anything:
            return inside
        background = _drawn_background(cut(grey, inside), bar.spread)
        if background is not None and abs(bar.level - background) > APART:
            return inside
    return box


def _bar(part: np.ndarray, side: int) -> _Bar | None:
    """The bar that the outermost line of a side may be of: 0 left, 1 top, 2 right, 3 bottom."""
    line = np.ascontiguousarray(_from_outside(part, side)[0])
    level = float(np.sort(line)[line.size // 2])
    spread = float(np.sort(cv2.absdiff(line, np.full_like(line, level)).ravel())[line.size // 2])
    bar = _Bar(level, spread)
    return bar if spread <= NOISE_MAX and _lines(line[None], bar, FRINGE_STRAY) else None


def _peel(grey: np.ndarray, box: Box, bar: _Bar) -> Box:
    """The box without what its sides show of a bar; the box itself if that is too little to matter, or nearly all."""
    inside, before = box, None
    while inside != before:  # a pillar's columns are uniform only once the letterbox's rows are off
        before = inside
        for side in range(4):
            lines = _from_outside(cut(grey, inside), side)
            count = _lines(lines, bar, STRAY)
            if count:
                deep = max(1, round(FRINGE * grey.shape[side % 2 == 0]))
                count += _lines(lines[count : count + deep], bar, FRINGE_STRAY)
                beyond = lines[min(count + deep, len(lines) - 1)]
                if _lines(beyond[None], bar, MOSTLY):  # lettering on it: a bar of the interface's own
                    count = 0
            inside = _replaced(inside, side, inside[side] + (count if side < 2 else -count))
            if inside[2] - inside[0] < MIN_INNER * grey.shape[1] or inside[3] - inside[1] < MIN_INNER * grey.shape[0]:
                return box
    for side in range(4):
        if abs(inside[side] - box[side]) < LEAST * grey.shape[side % 2 == 0]:
            inside = _replaced(inside, side, box[side])
    return inside


def _from_outside(part: np.ndarray, side: int) -> np.ndarray:
    """The lines [N,L] that run along a side, the outermost first."""
    lines = part.T if side % 2 == 0 else part
    return lines[::-1] if side >= 2 else lines


def _replaced(box: Box, side: int, value: int) -> Box:
    x0, y0, x1, y1 = (value if k == side else old for k, old in enumerate(box))
    return x0, y0, x1, y1


def _lines(part: np.ndarray, bar: _Bar, stray: float) -> int:
    """How many lines of [N,L], from the first on, are the bar's."""
    reach = TOLERANCE + NOISE_REACH * bar.spread
    done, step = 0, 1  # most screens have no bar, and one line tells
    while done < len(part):
        lines = np.ascontiguousarray(part[done : done + step])
        near = cv2.inRange(lines, bar.level - reach, bar.level + reach)
        counts = cv2.reduce(near, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] // 255
        sums = cv2.reduce(cv2.bitwise_and(lines, near), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
        good = (counts >= (1 - stray) * lines.shape[1]) & (np.abs(sums - bar.level * counts) <= SAME_LEVEL * counts)
        if not good.all():
            return done + int(np.argmin(good))
        done += len(lines)
        step = min(4 * step, 64)
    return done


def _drawn_background(inner: np.ndarray, spread: float) -> float | None:
    """The level of the interface's own background along the edge of a screen without bars; None where it has none: a
    picture that reaches to its edges is not flat, however dark."""
    deep = max(2, round(RING * min(inner.shape)))
    smooth = cv2.medianBlur(np.ascontiguousarray(inner), 5)
    ring = np.zeros(inner.shape, bool)
    ring[:deep] = ring[-deep:] = ring[:, :deep] = ring[:, -deep:] = True
    levels = smooth[ring]
    share = np.convolve(np.bincount(levels, minlength=256).astype(np.float64), np.ones(3), "same") / levels.size
    level = int(np.argmax(share))
    if share[level] < FLAT_SHARE:
        return None
    near = np.abs(levels.astype(np.int16) - level) <= 1
    off = cv2.absdiff(inner, smooth)[ring][near]
    rough = float(off[off <= TOLERANCE + NOISE_REACH * spread].mean())  # lettering is not the background's
    return float(level) if rough <= FLAT_NOISE + spread else None
