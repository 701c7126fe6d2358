"""A painter's canvas in millimetres: scatterer strength, acoustic impedance and attenuation of one slice of tissue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

FLUID_DB = -60.0  # scatterer strength of clear fluid against parenchyma, dB: below every preset's noise floor
SUBPIXEL_BITS = 4  # fixed-point bits of OpenCV's polygon coordinates: 1/16 pixel

Place = Callable[[np.ndarray], np.ndarray]


def noise_field(rng: np.random.Generator, shape: tuple[int, int], cell_x: float, cell_y: float) -> np.ndarray:
    """Smooth float32 [H,W] noise, zero mean, unit variance, with features `cell_x` by `cell_y` pixels wide."""
    height, width = max(4, int(shape[0] / cell_y) + 3), max(4, int(shape[1] / cell_x) + 3)
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    smooth = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


def smooth_curve(points: list[tuple[float, float]] | np.ndarray, closed: bool = False, per_span: int = 8) -> np.ndarray:
    """Catmull-Rom spline through points -> float64 [N,2]: contours have no corners in soft tissue."""
    p = np.asarray(points, float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, per_span, endpoint=False)[:, None]
    spans = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        spans.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.vstack(spans)
    return curve if closed else np.vstack([curve, p[-2:-1]])


class Canvas:
    """Maps of one slice, all float32 [H,W], `px_mm` millimetres a pixel, origin of millimetres at the centre.

    db: scatterer strength against parenchyma. impedance: arbitrary units, fluid 0, soft tissue 1; its change along the
    beam makes the specular echo. loss: attenuation beyond what TGC compensates, dB/mm, one way times two.
    """

    def __init__(self, shape: tuple[int, int], px_mm: float, place: Place):
        self.shape, self.px_mm, self.place = shape, px_mm, place
        self.db = np.zeros(shape, np.float32)
        self.impedance = np.ones(shape, np.float32)
        self.loss = np.zeros(shape, np.float32)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Subject's millimetres [N,2] -> canvas pixels [N,2]."""
        return self.place(np.asarray(points, float)) / self.px_mm + np.array([self.shape[1] / 2, self.shape[0] / 2])

    def mask(self, points: np.ndarray, soft_mm: float = 0.0) -> tuple[np.ndarray, tuple[slice, slice]]:
        """Antialiased polygon -> alpha float32 [h,w] in [0,1] and the window of the canvas that it covers."""
        px = self.pixels(points)
        pad = int(2 + 3 * soft_mm / self.px_mm)
        x0, y0 = np.clip(np.floor(px.min(0)).astype(int) - pad, 0, (self.shape[1], self.shape[0]))
        x1, y1 = np.clip(np.ceil(px.max(0)).astype(int) + pad + 1, 0, (self.shape[1], self.shape[0]))
        alpha = np.zeros((max(0, y1 - y0), max(0, x1 - x0)), np.uint8)
        if alpha.size:
            corners = np.round((px - (x0, y0)) * (1 << SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(alpha, [corners], 255, cv2.LINE_AA, SUBPIXEL_BITS)
            if soft_mm > 0:
                alpha = cv2.GaussianBlur(alpha, (0, 0), soft_mm / self.px_mm)
        return alpha.astype(np.float32) / 255, (slice(y0, y1), slice(x0, x1))

    def fill(
        self,
        points: np.ndarray,
        db: float | np.ndarray | None = None,
        impedance: float | None = None,
        loss: float | None = None,
        soft_mm: float = 0.0,
    ) -> None:
        """Paint a polygon (subject's millimetres). `db` may be a map of the whole canvas. None leaves a map alone."""
        alpha, window = self.mask(points, soft_mm)
        if db is not None:
            self._blend(self.db, db, alpha, window)
        if impedance is not None:
            self._blend(self.impedance, impedance, alpha, window)
        if loss is not None:
            self._blend(self.loss, loss, alpha, window)

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0, **paint: Any
    ) -> None:
        """Paint an ellipse; radii in mm, `degrees` clockwise on the screen before the subject is placed."""
        t = np.linspace(0, 2 * np.pi, 33)[:-1]
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        x, y = radii[0] * np.cos(t), radii[1] * np.sin(t)
        self.fill(np.column_stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y]), **paint)

    def stroke(self, points: np.ndarray, width_mm: float | np.ndarray, **paint: Any) -> None:
        """Paint a line of the given width, mm, one value or one per point."""
        points = np.asarray(points, float)
        half = np.broadcast_to(np.asarray(width_mm, float) / 2, (len(points),))[:, None] * normals(points)
        self.fill(np.vstack([points + half, (points - half)[::-1]]), **paint)

    @staticmethod
    def _blend(target: np.ndarray, value: float | np.ndarray, alpha: np.ndarray, window: tuple[slice, slice]) -> None:
        new = value[window] if isinstance(value, np.ndarray) else np.float32(value)
        target[window] += alpha * (new - target[window])


def normals(points: np.ndarray) -> np.ndarray:
    """Unit normals of a polyline [N,2] -> [N,2], to the right of its direction on a screen whose y points down."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    return np.column_stack([-tangent[:, 1], tangent[:, 0]])
