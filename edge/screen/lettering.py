"""Does what was taken for the fan hold a piece of the scanner's interface? Told by its strokes, in any script.

Strokes are thin, stand out, and stay where they are while speckle moves; where nothing moves they stand on even ground. A
fan with such strokes along an edge where nothing moves, or one that ends at the screen's edge on three sides and has any,
may be the whole screen: it is not sure, and nothing of it is shown or kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.records import Fan
from edge.screen.bars import Box, cut
from edge.screen.geometry import rasterise, scaled

STROKE = 7  # px of a thumbnail of 640: strokes are narrower; of 12 px of a 720p screen
STROKE_LEVELS = 40  # grey levels by which a stroke stands out from what is around it; lettering is made to be read
STILL_LEVELS = 24  # grey levels that a still stroke may range over in live video: codecs and cables (chosen)
MOVING_LEVELS = 10  # grey levels that live picture ranges over, at least
LEAST_STROKES = 24  # px of strokes: four letters of 9 px height on a 720p screen, on its thumbnail
EVEN_LEVELS = 3  # grey levels within 3x3 px of even ground: a drawn background, after a codec
EVEN_SHARE = 0.5  # of what is around a stroke, or along an edge, that must be even
EDGE = 0.08  # of the fan's width or height: depth of the strip along each of its edges
MOVING_SHARE = 0.10  # of such a strip that moves where it is picture: a dark corner's noise does (chosen)
AT_EDGE = 0.02  # of the screen's side: a fan that ends so near to the screen's edge ends there
SIDES = 3  # of four that a fan may end at the screen's edge before any stroke in it makes it unsure
SECTOR_SIDES = 2  # the same of a sector, where strokes on even ground make it unsure: its arc need not reach the edge


@dataclass(frozen=True)
class Strokes:
    """bool [h,w] of one thumbnail: still strokes, where they would stand on even ground, and where the picture moves or,
    where it is not alive, is uneven."""

    strokes: np.ndarray
    even: np.ndarray
    picture: np.ndarray
    alive: bool


def find_strokes(low: np.ndarray, ranged: np.ndarray | None) -> Strokes:
    """uint8 [h,w]: the temporal minimum of a thumbnail, and over how many levels it ranged; None where it is not alive."""
    kernel = np.ones((STROKE, STROKE), np.uint8)
    bright = cv2.morphologyEx(low, cv2.MORPH_TOPHAT, kernel)
    dark = cv2.morphologyEx(low, cv2.MORPH_BLACKHAT, kernel)
    strokes = np.asarray(cv2.max(bright, dark)) > STROKE_LEVELS
    three = np.ones((3, 3), np.uint8)
    even = cv2.inRange(cv2.morphologyEx(low, cv2.MORPH_GRADIENT, three), 0, EVEN_LEVELS)
    around = cv2.blur(even, (2 * STROKE + 1, 2 * STROKE + 1)) >= 255 * EVEN_SHARE
    if ranged is None:
        return Strokes(strokes, around, ~around, False)
    strokes &= ranged <= STILL_LEVELS
    return Strokes(strokes, around, ranged > MOVING_LEVELS, True)


def is_unsure(seen: Strokes, fan: Fan, inner: Box, frame: tuple[int, int]) -> bool:
    """Whether a fan may hold interface. `inner`: the screen without its bars in a frame of size (height, width)."""
    height, width = seen.strokes.shape
    k = width / frame[1]
    small = scaled(fan, k)
    x0, y0, x1, y1 = (max(small.box[0], 0), max(small.box[1], 0), min(small.box[2], width), min(small.box[3], height))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return True
    inside = rasterise(small, (x0, y0, x1, y1))
    strokes = cut(seen.strokes, (x0, y0, x1, y1)) & inside
    if fan.kind != "sector" and ends(fan, inner) >= SIDES:
        return not seen.alive or int(np.count_nonzero(strokes)) >= LEAST_STROKES
    strokes = strokes & cut(seen.even, (x0, y0, x1, y1))  # a probe's ringing is thin and still too, but in no even grey
    if ends(fan, inner) >= SECTOR_SIDES and int(np.count_nonzero(strokes)) >= LEAST_STROKES:
        return True  # a sector as large as the screen: bars filled with a blurred picture are taken for more of it
    picture = cut(seen.picture, (x0, y0, x1, y1))
    down, across = max(2, round(EDGE * (y1 - y0))), max(2, round(EDGE * (x1 - x0)))
    for strip in (np.s_[:down], np.s_[-down:], np.s_[:, :across], np.s_[:, -across:]):
        if np.count_nonzero(strokes[strip]) < LEAST_STROKES:
            continue
        share = float(np.count_nonzero(picture[strip] & inside[strip])) / max(1, int(np.count_nonzero(inside[strip])))
        if share < (MOVING_SHARE if seen.alive else 1 - EVEN_SHARE):
            return True
    return False


def ends(fan: Fan, inner: Box) -> int:
    """At how many sides a fan's box ends at the edge of the screen inside its bars."""
    near = [AT_EDGE * (inner[2 + k % 2] - inner[k % 2]) for k in range(4)]
    return sum(abs(fan.box[k] - inner[k]) <= near[k] for k in range(4))
