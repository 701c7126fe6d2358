"""What one screen shows, apart from where its fan is: flat pictures, colour inside the fan, stopped pictures, menus.

All functions take thumbnails or strided samples, because state is needed on every frame and geometry is not.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.screen.bars import cut, inner_box
from edge.screen.preprocess import to_grey

MIN_SIDE = 16  # px; below this there is no screen to read
FLAT_LEVELS = 8  # grey levels around the commonest one that still count as flat: room for codec noise (chosen)
FLAT_SHARE = 0.97  # flat share of a screen without signal; a line of lettering covers less
TWO_LEVELS_SHARE = 0.9  # of a screen without signal inside bars that has the bars' or its own level
COLOURFUL_SHARE = 0.15  # of a test pattern inside bars that is saturated
NOTICE_SPREAD = 0.4  # of the screen that a notice's bounding box may take; a dark scanner's lettering takes nearly all
LOGO_FLAT_SHARE = 0.75  # flat share around a grabber's logo, which moves so that it does not burn in
LOGO_SPREAD = 0.25  # of the screen that the logo's bounding box may take
BAR_ROWS = 0.5  # upper part of the screen that colour bars fill in every standard pattern (SMPTE, EBU)
BAR_STEP = 4  # pixels of the thumbnail between samples; bars are a seventh of the screen wide
BAR_CHROMA = 80  # BGR spread of a saturated bar, levels; EBU 75 % bars have 191
DOPPLER_CHROMA = 48  # distance from the map's own tint, levels of Cb and Cr together; a map varies far less at one grey
DOPPLER_SHARE = 0.004  # of the fan's area: a colour box of 1/20 of the fan with a tenth of it filled
PHOTO_SHARE = 0.12  # of a rectangle's picture in colours that no single map explains: photographs and desktops
FEW_LEVELS_SHARE = 0.75  # of the picture in its eight commonest grey levels: drawn interface, never speckle
TINT_BEND = 24  # levels of chroma by which a tinted map may leave its straight line through black


def shows_nothing(thumb: np.ndarray, grey: np.ndarray) -> bool:
    """uint8 thumbnail, grey [h,w] or BGR [h,w,3], and the same in grey: no picture, or a test pattern, with or without bars
    around it?"""
    if is_flat(thumb) or is_colour_bars(thumb):
        return True
    levels = np.convolve(np.bincount(grey.ravel(), minlength=256), np.ones(2 * FLAT_LEVELS + 1), "same")
    most = int(np.argmax(levels))
    rest = levels.copy()
    rest[max(most - 2 * FLAT_LEVELS, 0) : most + 2 * FLAT_LEVELS + 1] = 0
    colourful = thumb.ndim == 3 and np.count_nonzero(spread(thumb[::BAR_STEP, ::BAR_STEP]) > BAR_CHROMA) * BAR_STEP**2
    if levels[most] + rest.max() < TWO_LEVELS_SHARE * grey.size and colourful < COLOURFUL_SHARE * grey.size:
        return False  # neither one colour nor a pattern of them inside bars, the usual case
    inner = cut(thumb, inner_box(grey, around_anything=True))
    return inner.shape != thumb.shape and (is_flat(inner) or is_colour_bars(inner))


def is_flat(thumb: np.ndarray) -> bool:
    """uint8 thumbnail, grey [h,w] or BGR [h,w,3]: one colour all over (black, blue, with or without "no signal")?"""
    channels = thumb[..., None] if thumb.ndim == 2 else thumb
    near = np.ones(thumb.shape[:2], bool)
    for c in range(channels.shape[2]):
        plane = channels[..., c]
        mode = int(np.argmax(np.bincount(plane.ravel(), minlength=256)))
        near &= cv2.inRange(plane, max(mode - FLAT_LEVELS, 0), min(mode + FLAT_LEVELS, 255)) != 0
        if np.count_nonzero(near) < LOGO_FLAT_SHARE * near.size:
            return False
    rows, columns = np.flatnonzero(~near.all(axis=1)), np.flatnonzero(~near.all(axis=0))
    taken = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / near.size if rows.size else 0.0
    if np.count_nonzero(near) >= FLAT_SHARE * near.size:
        return bool(taken < NOTICE_SPREAD)
    levels = np.sort(np.bincount(to_grey(thumb)[~near], minlength=256))  # a small fan on black is as compact, but no drawing
    return bool(taken < LOGO_SPREAD and levels[-8:].sum() > FEW_LEVELS_SHARE * levels.sum())


def is_colour_bars(thumb: np.ndarray) -> bool:
    """uint8 BGR thumbnail [h,w,3]: a test pattern of vertical, saturated bars?"""
    if thumb.ndim == 2:
        return False
    part = np.ascontiguousarray(thumb[: max(2, int(BAR_ROWS * thumb.shape[0])) : BAR_STEP, ::BAR_STEP])
    if np.count_nonzero(spread(part) > BAR_CHROMA - 2 * FLAT_LEVELS) == 0:
        return False  # nothing saturated, the usual case: the median of a steady column is near its pixels
    upper = part.astype(np.int16)
    column = np.median(upper, axis=0)
    steady = (np.abs(upper - column).max(axis=2) <= FLAT_LEVELS).mean()
    chroma = column.max(axis=1) - column.min(axis=1)
    colours = {tuple((c // 64).astype(int)) for c in column[chroma > BAR_CHROMA]}
    return bool(steady > 0.95 and len(colours) >= 4)


def foreign_colour(bgr: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """uint8 BGR [h,w,3], bool [h,w] -> bool [h,w]: pixels inside whose colour the grey map's tint does not explain.

    A tinted map (sepia, blue) gives one colour per brightness, so the median chroma in each of 16 brightness bins is
    the tint. A bin that colour flow dominates is held to within TINT_BEND of the tint's straight line through black.
    """
    out = np.zeros(inside.shape, bool)
    if coloured(bgr, inside) == 0:
        return out  # a grey picture, the usual case
    luma, cr, cb = (plane[inside] for plane in cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2YCrCb)))
    lit = luma > 32
    distance = np.zeros(luma.size, np.float32)
    bins = (luma >> 4).astype(np.intp)
    for chroma in (cr, cb):
        signed = chroma.astype(np.float32) - 128
        slope = float(np.median(signed[lit] / luma[lit])) if lit.any() else 0.0
        line = slope * (16 * np.arange(16) + 8)
        counts = np.bincount(bins * 256 + chroma, minlength=16 * 256).reshape(16, 256).cumsum(axis=1)
        median = np.argmax(2 * counts >= counts[:, -1:], axis=1) - 128.0
        tint = np.where(counts[:, -1] > 0, np.clip(median, line - TINT_BEND, line + TINT_BEND), line)
        distance += np.abs(signed - tint[bins]).astype(np.float32)
    out[inside] = distance > DOPPLER_CHROMA
    return out


def coloured(bgr: np.ndarray, inside: np.ndarray) -> int:
    """uint8 BGR [h,w,3], bool [h,w] -> how many pixels inside are not grey, or nearly."""
    return int(np.count_nonzero((spread(bgr) > DOPPLER_CHROMA // 2) & inside))


def spread(bgr: np.ndarray) -> np.ndarray:
    """uint8 BGR [h,w,3] -> uint8 [h,w]: how far each pixel is from grey, levels."""
    blue, green, red = cv2.split(bgr)
    return np.asarray(cv2.max(cv2.max(blue, green), red) - cv2.min(cv2.min(blue, green), red), np.uint8)


def is_doppler(bgr: np.ndarray, inside: np.ndarray) -> bool:
    """uint8 BGR samples [h,w,3] of the fan's box, bool [h,w]: colour flow inside the fan? Thin marks do not count."""
    # A caliper or codec noise is too little to be flow, and in a tinted map nearly all is coloured: both cases are settled
    # without looking for the tint, which takes ten times as long.
    if bgr.ndim == 2 or coloured(bgr, inside) <= DOPPLER_SHARE * np.count_nonzero(inside):
        return False
    colour = foreign_colour(bgr, inside).astype(np.uint8)
    blobs = cv2.morphologyEx(colour, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return bool(blobs.sum() > DOPPLER_SHARE * inside.sum())


def is_drawn(thumb: np.ndarray, picture: np.ndarray, kind: str) -> bool:
    """A drawn interface or a colour photograph rather than ultrasound?

    uint8 thumbnail, grey [h,w] or BGR [h,w,3]; `picture`: bool [h,w], what is taken for picture in the fan of `kind`.
    """
    count = int(np.count_nonzero(picture))
    if count == 0:
        return True
    levels = np.sort(np.bincount(to_grey(thumb)[picture], minlength=256))
    if levels[-8:].sum() > FEW_LEVELS_SHARE * count:
        return True
    if thumb.ndim == 2 or kind == "sector":  # no photograph is a sector, and colour flow may fill one
        return False
    return bool(foreign_colour(thumb, picture).sum() > PHOTO_SHARE * count)


def readable(image: np.ndarray) -> bool:
    """Whether an array can be a screen at all: uint8, grey [H,W] or colour [H,W,1|3|4], neither side under MIN_SIDE."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        return False
    return bool(min(image.shape[:2]) >= MIN_SIDE)
