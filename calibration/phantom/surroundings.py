"""What is not the fetus: uterus, fluid and membranes around it, and the organs of exams that are not obstetric."""

from __future__ import annotations

import cv2
import numpy as np

from calibration.phantom.canvas import FLUID_DB, Canvas, noise_field, smooth_curve

MYOMETRIUM_STRIPE_MM = 0.9  # muscle bundles and vessels run along the wall at about this spacing


def paint_uterus(canvas: Canvas, rng: np.random.Generator, fetus: np.ndarray | None) -> None:
    """Wall everywhere, then a cavity of fluid that holds the fetus (outline [N,2], mm), little behind it."""
    loop = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 1 + 0.06 * np.convolve(rng.standard_normal(28), np.ones(5) / 5**0.5, "valid")
    rx, ry = rng.uniform(30, 46), rng.uniform(15, 22)
    centre = (rng.uniform(4, 16), -17.0 - rng.uniform(0, 2))
    ellipse = np.column_stack([centre[0] + rx * radius * np.cos(loop), centre[1] + ry * radius * np.sin(loop)])
    cavity = np.zeros(canvas.shape, np.uint8)
    cv2.fillPoly(cavity, [np.round(canvas.pixels(smooth_curve(ellipse, closed=True))).astype(np.int32)], 1)
    if fetus is not None:
        body = np.zeros(canvas.shape, np.uint8)
        cv2.fillPoly(body, [np.round(canvas.pixels(fetus)).astype(np.int32)], 1)
        away = cv2.distanceTransform(1 - body, cv2.DIST_L2, 5) * canvas.px_mm
        gap = rng.uniform(0.3, 2.6) + rng.uniform(0.3, 0.9) * noise_field(
            rng, canvas.shape, 9 / canvas.px_mm, 40 / canvas.px_mm
        )
        cavity |= (away < np.maximum(gap, 0.15)).astype(np.uint8)
        if rng.random() < 0.35:  # amnion not yet fused with the chorion: a line beside the fetus, a known confounder
            distance = rng.uniform(2.0, 5.0) + 1.6 * noise_field(
                rng, canvas.shape, 12 / canvas.px_mm, 14 / canvas.px_mm
            )
            line = np.exp(-(((away - distance) / 0.12) ** 2)) * (cavity > 0)
        else:
            line = np.zeros(canvas.shape, np.float32)
    else:
        line = np.zeros(canvas.shape, np.float32)
    depth = cv2.distanceTransform(1 - cavity, cv2.DIST_L2, 5) * canvas.px_mm
    canvas.db[:] = wall_texture(canvas, rng, depth)
    soft = cv2.GaussianBlur(cavity.astype(np.float32), (0, 0), max(0.5, 0.12 / canvas.px_mm))
    canvas.db += soft * (FLUID_DB - canvas.db)
    canvas.impedance[:] = 1.0 - soft + 0.3 * line.astype(np.float32)
    canvas.db += 26.0 * line.astype(np.float32)
    canvas.loss[:] = np.where(cavity > 0, -0.06, 0.02).astype(np.float32)


def wall_texture(canvas: Canvas, rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Echo strength of the uterine wall, dB [H,W], striped along the wall: `depth` is mm from the cavity."""
    xs = np.broadcast_to(np.arange(canvas.shape[1], dtype=np.float32), canvas.shape)
    ys = np.broadcast_to(np.arange(canvas.shape[0], dtype=np.float32)[:, None], canvas.shape)
    stripes = noise_field(rng, canvas.shape, 7 / canvas.px_mm, MYOMETRIUM_STRIPE_MM / canvas.px_mm)
    along = cv2.remap(
        stripes,
        (0.75 * xs + 0.25 * ys),
        (depth / canvas.px_mm).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    patchy = noise_field(rng, canvas.shape, 7 / canvas.px_mm, 5 / canvas.px_mm)
    decidua = 2.5 * np.exp(-depth / 2.0)
    return (-8.0 + decidua + 3.6 * along + 2.6 * patchy).astype(np.float32)


def paint_lung(canvas: Canvas, rng: np.random.Generator) -> None:
    """Chest wall, pleural line, A lines as its repeats, B lines down from it; ribs shade. Millimetres from the top."""
    height, width = np.array(canvas.shape) * canvas.px_mm
    top, pleura = -height / 2, -height / 2 + rng.uniform(14, 22)
    stripes = noise_field(rng, canvas.shape, 14 / canvas.px_mm, 1.3 / canvas.px_mm)
    canvas.db[:] = -4.0 + 4.0 * stripes
    t = np.linspace(-width, width, 80)
    wave = 0.6 * np.sin(t / 11 + rng.uniform(0, 6))
    below = np.vstack([np.column_stack([t, pleura + wave]), [(width, height), (-width, height)]])
    canvas.fill(below, db=-17.0 + 2 * stripes, impedance=1.0)
    canvas.stroke(np.column_stack([t, pleura + wave]), 0.9, db=10.0, impedance=2.4)
    for k in (2, 3):
        canvas.stroke(np.column_stack([t, top + k * (pleura - top) + wave]), 0.8, db=-4.0 - 6.0 * (k - 2), soft_mm=0.4)
    for x in rng.uniform(-width / 2, width / 2, int(rng.integers(0, 4))):
        ray = np.array([(x - 0.8, pleura), (x + 0.8, pleura), (x + 2.6, height / 2), (x - 2.6, height / 2)])
        canvas.fill(ray, db=0.0, soft_mm=0.5)
    for x in (rng.uniform(-30, -16), rng.uniform(16, 30)):
        canvas.ellipse((x, pleura - 4.0), (5.0, 1.6), 0, db=8.0, impedance=2.6, loss=2.5, soft_mm=0.3)


def paint_cyst(canvas: Canvas, rng: np.random.Generator) -> None:
    """An ovary: stroma with follicles, or one large cyst with low echoes."""
    patchy = noise_field(rng, canvas.shape, 6 / canvas.px_mm, 3 / canvas.px_mm)
    canvas.db[:] = -5.0 + 4.0 * patchy
    canvas.ellipse((0.0, 2.0), (19.0, 14.0), rng.uniform(-20, 20), db=-8.0 + 2.5 * patchy, impedance=1.1, soft_mm=0.6)
    if rng.random() < 0.5:
        radii = (rng.uniform(10, 16), rng.uniform(8, 12))
        canvas.ellipse(
            (rng.normal(0, 3), 2.0), radii, rng.uniform(-20, 20), db=-30.0 + 2 * patchy, impedance=0.0, loss=-0.12
        )
        return
    for _ in range(int(rng.integers(5, 11))):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.85)
        size = rng.uniform(1.5, 4.5)
        canvas.ellipse(
            (17 * far * np.cos(angle), 2 + 12 * far * np.sin(angle)),
            (size, size * rng.uniform(0.7, 1.0)),
            0,
            db=FLUID_DB,
            impedance=0.0,
            loss=-0.12,
        )


def paint_abdomen(canvas: Canvas, rng: np.random.Generator) -> None:
    """Adult liver: even parenchyma, a few vessels, a diaphragm."""
    width = canvas.shape[1] * canvas.px_mm
    stripes = noise_field(rng, canvas.shape, 14 / canvas.px_mm, 1.4 / canvas.px_mm)
    canvas.db[:] = -6.0 + 1.2 * noise_field(rng, canvas.shape, 5 / canvas.px_mm, 4 / canvas.px_mm)
    top = -canvas.shape[0] * canvas.px_mm / 2
    layer = np.array([(-width, top), (width, top), (width, top + 12), (-width, top + 12)])
    canvas.fill(layer, db=-3.0 + 4.0 * stripes, soft_mm=0.5)
    for _ in range(int(rng.integers(3, 7))):
        start, angle = rng.uniform((-25, -8), (25, 20)), rng.uniform(0, np.pi)
        t = np.linspace(0, rng.uniform(8, 24), 20)
        line = start + np.column_stack([t * np.cos(angle) + 1.2 * np.sin(t / 5), t * np.sin(angle)])
        size = rng.uniform(1.0, 3.6)
        if rng.random() < 0.5:
            canvas.stroke(line, size + 1.2, db=3.0, impedance=1.3, soft_mm=0.2)
        canvas.stroke(line, size, db=-40.0, impedance=0.2, soft_mm=0.2)
    if rng.random() < 0.6:
        t = np.linspace(-1.0, 1.0, 40)
        arc = np.column_stack([34 * t, 24 - 14 * t**2])
        canvas.stroke(arc, 1.0, db=9.0, impedance=2.4, loss=0.1)
