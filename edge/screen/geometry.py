"""Fan geometry: masks and outlines of annulus sectors and rectangles."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edge.records import Fan


@lru_cache(maxsize=8)  # one layout is in use for minutes; a mask of a 1080p screen is 2 MB
def fan_mask(fan: Fan, box: tuple[int, int, int, int]) -> np.ndarray:
    """bool [y1-y0, x1-x0]: which pixels of `box` (screen coordinates) lie inside the fan. Read-only, cached."""
    mask = rasterise(fan, box)
    mask.setflags(write=False)
    return mask


def rasterise(fan: Fan, box: tuple[int, int, int, int]) -> np.ndarray:
    """As `fan_mask`, but fresh: for passing candidates, which must not push the layout in use out of the cache."""
    x0, y0, x1, y1 = box
    bx0, by0, bx1, by1 = fan.box
    ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    mask = (xs >= bx0) & (xs < bx1) & (ys >= by0) & (ys < by1)
    if fan.kind == "sector":
        dx, dy = xs - fan.apex[0], ys - fan.apex[1]
        radius, angle = np.hypot(dx, dy), np.arctan2(dx, dy)
        mask &= (radius >= fan.r0) & (radius <= fan.r1) & (angle >= fan.a0) & (angle <= fan.a1)
    return mask


def full_fan(shape: tuple[int, ...]) -> Fan:
    """The fan of a still that has no screen around it: all of it."""
    return Fan("full", (0, 0, int(shape[1]), int(shape[0])))
