"""Fan geometry: masks and outlines of annulus sectors and rectangles."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from edge.records import Fan

ARC_POINTS = 24  # points on each of a sector's two arcs: within a pixel of the arc at 480 pixels


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
    xs, ys = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)[:, None]
    mask = ((xs >= bx0) & (xs < bx1)) & ((ys >= by0) & (ys < by1))
    if fan.kind == "sector":
        dx, dy = xs - np.float32(fan.apex[0]), ys - np.float32(fan.apex[1])
        radius = dx * dx + dy * dy  # squared; roots and arc tangents would take ten times as long
        mask &= (radius >= fan.r0**2) & (radius <= fan.r1**2)
        # Between the two side lines, which are less than half a circle apart: on the inner side of both.
        mask &= dx * np.float32(np.cos(fan.a0)) >= dy * np.float32(np.sin(fan.a0))
        mask &= dx * np.float32(np.cos(fan.a1)) <= dy * np.float32(np.sin(fan.a1))
    return np.asarray(mask)


def outline(fan: Fan) -> list[tuple[float, float]]:
    """The fan's edge as a polygon of (x, y) on the screen, pixels; what of a sector its box cuts off is cut off."""
    x0, y0, x1, y1 = fan.box
    if fan.kind != "sector":
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    angles = np.linspace(fan.a0, fan.a1, ARC_POINTS)
    radii = np.repeat([fan.r1, fan.r0], ARC_POINTS)
    angles = np.concatenate([angles, angles[::-1]])
    points = np.stack([fan.apex[0] + radii * np.sin(angles), fan.apex[1] + radii * np.cos(angles)], axis=1)
    for axis, limit, sign in ((0, x0, 1), (0, x1, -1), (1, y0, 1), (1, y1, -1)):
        points = _cut(points, axis, limit, sign)
    return [(float(x), float(y)) for x, y in points]


def _cut(points: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """A polygon [N,2] without what lies beyond a line (Sutherland and Hodgman 1974): sign * (coordinate - limit) < 0."""
    kept = []
    inside = sign * (points[:, axis] - limit) >= 0
    for i in range(len(points)):
        before, here = points[i - 1], points[i]
        if inside[i - 1] != inside[i]:
            kept.append(before + (here - before) * (limit - before[axis]) / (here[axis] - before[axis]))
        if inside[i]:
            kept.append(here)
    return np.array(kept).reshape(-1, 2)


def full_fan(shape: tuple[int, ...]) -> Fan:
    """The fan of a still that has no screen around it: all of it."""
    return Fan("full", (0, 0, int(shape[1]), int(shape[0])))


def sector_bounds(a0: float, a1: float, r0: float, r1: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """((x0, x1), (y0, y1)) of an annulus sector relative to its apex, pixels."""
    angles = np.array([a0, a1] + ([0.0] if a0 < 0 < a1 else []))
    xs = np.outer([r0, r1], np.sin(angles))
    ys = np.outer([r0, r1], np.cos(angles))
    return (float(xs.min()), float(xs.max())), (float(ys.min()), float(ys.max()))


def scaled(fan: Fan, k: float) -> Fan:
    """The same fan on a screen resized by `k`."""
    x0, y0, x1, y1 = (round(v * k) for v in fan.box)
    apex = ((fan.apex[0] + 0.5) * k - 0.5, (fan.apex[1] + 0.5) * k - 0.5)
    return replace(fan, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), apex=apex, r0=fan.r0 * k, r1=fan.r1 * k)


def shifted(fan: Fan, by: tuple[int, int]) -> Fan:
    """The same fan counted from another corner: `by` (x, y) in pixels."""
    x, y = by
    x0, y0, x1, y1 = fan.box
    return replace(fan, box=(x0 + x, y0 + y, x1 + x, y1 + y), apex=(fan.apex[0] + x, fan.apex[1] + y))


def screen_iou(one: Fan, other: Fan) -> float:
    """Intersection over union of two fans on one screen, sampled on a grid of about 200 steps."""
    x0, y0 = min(one.box[0], other.box[0]), min(one.box[1], other.box[1])
    x1, y1 = max(one.box[2], other.box[2]), max(one.box[3], other.box[3])
    k = min(1.0, 200 / max(x1 - x0, y1 - y0))
    box = (int(x0 * k), int(y0 * k), int(np.ceil(x1 * k)), int(np.ceil(y1 * k)))
    a, b = rasterise(scaled(one, k), box), rasterise(scaled(other, k), box)
    return float((a & b).sum() / max(1, (a | b).sum()))
