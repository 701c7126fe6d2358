"""Augmentation for ultrasound: what differs between scanners, operators and screens, never what the label rests on."""

from __future__ import annotations

import cv2
import numpy as np

from calibration.lesion import CALIPERED, add_calipers
from edge.screen.preprocess import Preprocessing, letterbox

Box = tuple[float, float, float, float]

# Of a picture that is cut anew: width over height (the stills between their 2nd and 98th centiles), and what is kept of the
# sides of the largest cut of that aspect.
ASPECTS, KEPT = (0.8, 1.9), (0.85, 1.0)


def augment(crop: np.ndarray, box: Box | None, size: int, rng: np.random.Generator) -> tuple[np.ndarray, Box | None]:
    """uint8 [B,B] bank crop -> (uint8 [size,size], box in fractions after the same transform)."""
    side = crop.shape[0]
    if rng.random() < CALIPERED:
        pixels = tuple(v * side for v in box) if box else (0.3 * side, 0.3 * side, 0.7 * side, 0.7 * side)
        crop = add_calipers(crop, pixels, rng)  # type: ignore[arg-type]
    crop, box = _geometry(crop, box, size, rng)
    image = _gain(crop.astype(np.float32) / 255, rng)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.4:
        image = image * (1 + rng.normal(0, rng.uniform(0.03, 0.15), image.shape).astype(np.float32))
    if rng.random() < 0.3:
        image = image * _wedge(size, rng)
    image = np.clip(image, 0, 1) * 255
    if rng.random() < 0.3:  # text, thumbnails: painted over near a corner
        w, h = rng.integers(size // 10, size // 4, 2)
        x, y = int(rng.choice([0, size - w])), int(rng.choice([0, size - h]))
        image[y : y + h, x : x + w] = rng.choice([0.0, 40.0])
    out = image.astype(np.uint8)
    if rng.random() < 0.2:  # video compression
        out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))])[1], 0)
    return out, box


def cut_anew(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [B,B] bank crop -> the same: the same picture cut at random, mirrored or not, at another gain.

    How a still is cut says what it shows: its aspect alone tells standard planes from others with a ROC-AUC of .75 (all 1,368
    stills), and the bars that letterboxing adds show it. A scanner's screen is cut by none of that."""
    out = _gain(reframe(crop, rng).astype(np.float32) / 255, rng)
    out = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(out[:, ::-1]) if rng.random() < 0.5 else out


def reframe(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [B,B] bank crop -> the same: the same picture, cut to a random aspect and letterboxed again."""
    low, high = content(crop)
    width, height = high - low
    aspect = float(np.exp(rng.uniform(*np.log(ASPECTS))))
    largest = np.array([min(width, height * aspect), min(height, width / aspect)])
    cut = np.maximum(np.round(largest * rng.uniform(*KEPT)), 1).astype(int)
    x, y = (int(v) for v in rng.integers(low, high - cut + 1))
    return letterbox(crop[y : y + cut[1], x : x + cut[0]], Preprocessing(size=crop.shape[0]))


def content(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the picture lies in its letterboxed square, uint8 [B,B]: upper left and lower right corner, (x, y) in pixels. What
    letterboxing adds is black; a square that is black all over is its own picture."""
    seen = crop > 0 if crop.any() else np.ones_like(crop, bool)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])


def augment_unlabelled(crop: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [B,B] crop -> uint8 [size,size]: geometry and gain alone. Speckle, text or compression that was added would be
    part of the pixels to reconstruct."""
    image = _gain(_geometry(crop, None, size, rng)[0].astype(np.float32) / 255, rng)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _gain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [S,S], 0 to 1: the scanner's grey map, gain and time-gain compensation. Not clipped."""
    image = np.clip(image, 0, 1) ** float(np.exp(rng.normal(0, 0.2)))
    gain = float(np.exp(rng.normal(0, 0.2)))
    tgc = 1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, len(image), dtype=np.float32)[:, None]
    return np.asarray(image * gain * tgc)


def _geometry(crop: np.ndarray, box: Box | None, size: int, rng: np.random.Generator) -> tuple[np.ndarray, Box | None]:
    side = crop.shape[0]
    zoom_by = float(np.exp(rng.uniform(np.log(0.7), np.log(1.3))))  # depth settings
    scale = size / side * zoom_by
    angle = np.deg2rad(rng.uniform(-14, 14))
    flip_x, flip_y = rng.random() < 0.5, rng.random() < 0.12  # facing either way; prone fetuses are rare
    focus = np.array([0.5, 0.5]) if box is None else np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    zoom = max(0.0, scale * side / size - 1)  # zooming in keeps the nuchal region in view
    centre = (0.5 + (focus - 0.5) * min(1.0, 2 * zoom) + rng.uniform(-0.06, 0.06, 2)) * side
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation = np.diag([-1 if flip_x else 1, -1 if flip_y else 1]) @ rotation
    matrix = np.c_[rotation, size / 2 - rotation @ centre]
    out = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if box is None:
        return out, None
    x0, y0, x1, y1 = (v * side for v in box)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ matrix[:, :2].T + matrix[:, 2]
    low, high = np.clip(corners.min(0) / size, 0, 1), np.clip(corners.max(0) / size, 0, 1)
    return out, (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _wedge(size: int, rng: np.random.Generator) -> np.ndarray:
    """Black side wedges, as at the edges of a sector: float32 [size,size] of 0 and 1."""
    xs, ys = np.meshgrid(np.arange(size), np.arange(size))
    slope = rng.uniform(0.2, 0.6)
    left, right = rng.uniform(-0.2, 0.25) * size, rng.uniform(0.75, 1.2) * size
    return ((xs > left - slope * (ys - size / 2)) & (xs < right + slope * (ys - size / 2))).astype(np.float32)


def map_target(box: Box | None, grid: int) -> np.ndarray:
    """float32 [grid,grid]: the share of each patch's area that the box covers."""
    if box is None:
        return np.zeros((grid, grid), np.float32)
    edges = np.arange(grid + 1) / grid
    x = np.clip(np.minimum(edges[1:], box[2]) - np.maximum(edges[:-1], box[0]), 0, None) * grid
    y = np.clip(np.minimum(edges[1:], box[3]) - np.maximum(edges[:-1], box[1]), 0, None) * grid
    return (y[:, None] * x[None]).astype(np.float32)
