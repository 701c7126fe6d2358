"""Slices through an 11-14 week fetus: mid-sagittal (the standard plane), parasagittal, and axial through the head.

Contours are in fetal millimetres at an occipito-frontal diameter of 25 mm: the fetus lies on its back, face up (y
negative), crown to the left, origin at the nape. `Pose` bends, scales, turns and flips them. Drawn by hand after the
proportions in docs/design.md#simulation and the standard plane as ISUOG describes it (nasal tip, palate, diencephalon,
nuchal membrane).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.phantom.canvas import FLUID_DB, Canvas, noise_field, normals, smooth_curve
from calibration.phantom.records import Patient

OFD_DRAWN_MM = 25.0  # occipito-frontal diameter at which the contours below are drawn
SKIN_MM = 0.4  # skin over the nuchal fluid: thin against the beam's axial width, so it shows as one bright line
NT_REST_MM = 0.35  # the translucency away from the neck: a hairline
WOBBLE_MM = 0.45  # irregularity of contours and organs, so that no two heads are the same curve
NECK_BEND_MM = (-3.0, 7.0)  # between these x the head's turn fades out into the trunk

# From the crown round the face to the chest and along the belly, left to right.
FRONT = [
    (-22.6, -13.5),
    (-21.6, -18.5),
    (-18.6, -23.0),
    (-14.5, -25.6),
    (-10.0, -26.2),
    (-6.4, -24.9),
    (-4.0, -22.9),
    (-2.9, -21.5),
    (-1.6, -22.0),
    (-0.2, -22.9),
    (0.9, -22.4),
    (0.9, -21.2),
    (2.3, -20.7),
    (2.9, -19.8),
    (2.5, -19.0),
    (3.8, -18.3),
    (3.8, -17.1),
    (4.9, -15.9),
    (4.8, -14.0),
    (3.4, -12.4),
    (4.6, -12.6),
    (8.0, -14.6),
    (13.0, -17.4),
    (20.0, -19.6),
    (29.0, -20.6),
    (40.0, -20.2),
    (56.0, -17.0),
    (72.0, -13.0),
]
# From the crown round the occiput and down the back, left to right: the inner border of the translucency.
BACK = [
    (-22.6, -13.5),
    (-22.0, -9.8),
    (-20.0, -6.2),
    (-16.8, -3.4),
    (-12.8, -1.6),
    (-8.4, -0.6),
    (-4.0, -0.1),
    (0.0, 0.0),
    (5.0, 0.0),
    (12.0, -0.2),
    (22.0, -0.4),
    (34.0, -0.6),
    (54.0, -2.0),
    (72.0, -8.0),
]
SKULL = [
    (-21.6, -13.5),
    (-20.8, -18.0),
    (-17.9, -22.1),
    (-14.2, -24.6),
    (-10.0, -25.2),
    (-6.8, -24.0),
    (-4.6, -22.2),
    (-3.6, -20.6),
    (-3.2, -17.6),
    (-3.4, -14.5),
    (-2.8, -10.0),
    (-3.6, -6.0),
    (-5.0, -3.0),
    (-8.6, -1.8),
    (-12.6, -2.8),
    (-16.2, -4.4),
    (-19.2, -7.0),
    (-21.0, -10.2),
]


@dataclass(frozen=True)
class Pose:
    """Fetal millimetres -> view millimetres (origin at the centre of the view, y along depth)."""

    scale: float
    flexion: float  # radians
    tilt: float  # radians
    flip: float  # +1 faces right, -1 left
    curve: float  # 1/mm, rounding of the back
    centre: tuple[float, float]  # fetal mm that lies at the view's `offset`
    offset: tuple[float, float]  # view mm
    wobble: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # phases of the contour's irregularity, radians

    def bend(self, points: np.ndarray) -> np.ndarray:
        """Nod the head about the neck, round the back."""
        x, y = points[:, 0], points[:, 1]
        a, b = NECK_BEND_MM
        w = np.clip((b - x) / (b - a), 0, 1)
        angle = self.flexion * w * w * (3 - 2 * w)
        px, py = 1.0, -7.0  # the pivot: upper cervical spine
        c, s = np.cos(angle), np.sin(angle)
        bent = np.column_stack([px + c * (x - px) - s * (y - py), py + s * (x - px) + c * (y - py)])
        free = WOBBLE_MM * np.clip((-3.0 - y) / 8.0, 0, 1)  # not at the nape: its thickness is what the truth says
        bent[:, 0] += free * (np.sin(0.42 * y + self.wobble[0]) + 0.6 * np.sin(0.35 * x - 0.5 * y + self.wobble[1]))
        bent[:, 1] += free * (np.sin(0.38 * x + self.wobble[2]) + 0.6 * np.sin(0.3 * x + 0.45 * y + self.wobble[3]))
        bent[:, 1] -= self.curve * np.maximum(x - 8.0, 0) ** 2
        return bent

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.rigid(self.bend(points))

    def rigid(self, points: np.ndarray) -> np.ndarray:
        """Scale, turn, flip and move, without bending."""
        p = (points - np.asarray(self.centre)) * self.scale
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        turned = np.column_stack([c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1]])
        return turned * (self.flip, 1.0) + np.asarray(self.offset)


@dataclass(frozen=True)
class Nape:
    """The nuchal band of one patient, drawn millimetres: inner border and skin [N,2], fluid thickness [N]."""

    inner: np.ndarray
    outer: np.ndarray
    thickness: np.ndarray


def nape(patient: Patient, scale: float) -> Nape:
    """Thickness rises from a hairline to `nt_mm` at the neck and falls along the back; a hygroma is broader."""
    inner = smooth_curve(BACK, per_span=14)
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(inner, axis=0), axis=1))])
    neck = arc[np.argmin(np.hypot(inner[:, 0] - 1.5, inner[:, 1]))]
    along = arc - neck
    if patient.hygroma:
        left, right, power = 8.0 + 4.0 * patient.reach, 12.0 + 16.0 * patient.reach, 2.6
    else:
        left, right, power = 6.0, 9.0 + 9.0 * patient.reach, 2.0
    bump = np.exp(-((np.abs(along) / np.where(along < 0, left, right)) ** power))
    rest = min(NT_REST_MM, patient.nt_mm) / scale
    thickness = rest + (patient.nt_mm / scale - rest) * bump
    thickness *= np.clip(arc / 6.0, 0, 1)  # the band ends at the crown
    return Nape(inner, inner + thickness[:, None] * normals(inner), thickness)


def outline(band: Nape) -> np.ndarray:
    """The whole fetus, skin included, as one closed polygon [N,2]."""
    skin = band.outer + SKIN_MM * normals(band.inner) * np.clip(band.thickness / NT_REST_MM, 0, 1)[:, None]
    return np.vstack([smooth_curve(FRONT), skin[::-1]])


class Tissue:
    """Texture maps of one slice, dB: `mottle` for brain, `streak` for muscle and lung, `grain` for everything."""

    def __init__(self, rng: np.random.Generator, canvas: Canvas):
        mm = 1 / canvas.px_mm
        self.mottle = 4.0 * noise_field(rng, canvas.shape, 1.5 * mm, 1.3 * mm)
        self.mottle += 3.4 * noise_field(rng, canvas.shape, 4.5 * mm, 4.0 * mm)
        self.streak = 4.0 * noise_field(rng, canvas.shape, 5.0 * mm, 0.7 * mm)
        self.streak += 3.0 * noise_field(rng, canvas.shape, 9.0 * mm, 5.0 * mm)


def paint_body(canvas: Canvas, rng: np.random.Generator, tissue: Tissue, band: Nape) -> None:
    """Skin, trunk and nuchal fluid: common to all sagittal slices."""
    canvas.fill(outline(band), db=-5.0, impedance=1.3, loss=0.0)
    inner = np.vstack([smooth_curve(FRONT), band.inner[::-1]])
    canvas.fill(np.vstack([band.inner, band.outer[::-1]]), db=FLUID_DB, impedance=0.0, loss=-0.1)
    canvas.fill(inner, db=-9.0 + tissue.streak, impedance=1.0, soft_mm=0.12)
    canvas.stroke(band.inner[14:] - 0.2 * normals(band.inner[14:]), 0.4, db=1.0, impedance=1.4)  # fascia over the neck


def paint_spine(canvas: Canvas, rng: np.random.Generator) -> None:
    """Ossified vertebral bodies with the dark canal behind them."""
    canvas.stroke(
        np.column_stack([np.linspace(-1, 60, 60), np.full(60, -2.0)]), 1.1, db=-19.0, impedance=0.8, soft_mm=0.15
    )
    level = 4.0 * np.convolve(
        rng.standard_normal(44), np.ones(4) / 2, "valid"
    )  # the slice wanders off the bodies and back
    for x, wander in zip(np.arange(0.5, 60, 1.75), level, strict=False):
        at = (x + rng.normal(0, 0.2), -3.6 + rng.normal(0, 0.2))
        canvas.ellipse(
            at,
            (rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.45)),
            rng.normal(0, 8),
            db=-1.0 + wander,
            impedance=1.3,
            loss=0.3,
            soft_mm=0.12,
        )
    for y in (-2.7, -1.3, -5.4):  # dura, ligaments, great vessels: lines along the back
        start = rng.uniform(2, 14)
        x = np.linspace(start, start + rng.uniform(10, 30), 20)
        canvas.stroke(
            np.column_stack([x, y + 0.25 * np.sin(0.25 * x + rng.uniform(0, 6))]),
            0.35,
            db=rng.uniform(-6, 2),
            impedance=1.3,
            soft_mm=0.1,
        )


def paint_septa(canvas: Canvas, rng: np.random.Generator, band: Nape, count: int) -> None:
    """Septa from the inner border to the skin, slanting along the back."""
    wide = np.flatnonzero(band.thickness > 0.55 * band.thickness.max())
    for i in range(count):
        start = wide[int((i + 0.6 + rng.uniform(-0.15, 0.15)) / (count + 0.4) * (len(wide) - 1))]
        stop = int(np.clip(start + rng.integers(-10, 11), 0, len(band.inner) - 1))
        t = np.linspace(0, 1, 9)[:, None]
        line = band.inner[start] * (1 - t) + band.outer[stop] * t
        line[:, 0] += np.sin(np.pi * t[:, 0]) * rng.normal(0, 0.8)
        canvas.stroke(line, 0.22, db=rng.uniform(-4, 4), impedance=0.5)


def bone(
    canvas: Canvas, rng: np.random.Generator, line: np.ndarray, width: float, db: float, gaps: float = 0.25
) -> None:
    """A bony line whose brightness wanders and breaks: `gaps` is the share of it that is faint."""
    level = np.convolve(rng.standard_normal(len(line) + 8), np.ones(5) / 5**0.5, "same")[4:-4]
    pieces = np.array_split(np.arange(len(line)), max(1, len(line) // 5))
    for piece in pieces:
        if len(piece) < 2:
            continue
        lo, hi = piece[0], min(piece[-1] + 2, len(line))
        drop = -12.0 if rng.random() < gaps else 0.0
        canvas.stroke(
            line[lo:hi],
            width,
            db=db + drop + 2.5 * float(level[lo]),
            impedance=2.0 if drop == 0 else 1.2,
            loss=0.5 if drop == 0 else 0.1,
            soft_mm=0.08,
        )


def paint_brain(canvas: Canvas, rng: np.random.Generator, tissue: Tissue, midline: bool) -> None:
    """Brain in the skull: on the midline thalamus and midbrain are dark, beside it the choroid plexus is bright."""
    skull = smooth_curve(SKULL, closed=True)
    canvas.fill(skull, db=-14.0 + tissue.mottle, impedance=0.85, loss=-0.03, soft_mm=0.3)
    canvas.ellipse((-15.5, -9.5), (4.6, 5.2), 20, db=-8.5 + tissue.mottle, soft_mm=0.9)
    canvas.ellipse((-11.5, -20.5), (4.5, 2.6), -20, db=-17.0 + tissue.mottle, soft_mm=0.8)
    if midline:
        for centre, radii, angle in (((-9.0, -12.6), (2.7, 2.3), -20.0), ((-7.2, -8.4), (2.1, 1.5), 15.0)):
            canvas.ellipse(centre, (radii[0] + 0.7, radii[1] + 0.7), angle, db=-8.0 + tissue.mottle, soft_mm=0.4)
            canvas.ellipse(centre, radii, angle, db=-26.0, impedance=0.75, soft_mm=0.35)
        for y in (-6.2, -4.2):  # brain stem, fourth ventricle, cisterna magna: dark bars with bright edges
            half, slope, bow = rng.uniform(1.8, 3.4), rng.normal(0, 0.14), rng.normal(-0.02, 0.03)
            x = np.linspace(-half, half, 9)
            bar = np.column_stack([x - 6.5 + rng.normal(0, 0.5), y + slope * x + bow * x**2 + rng.normal(0, 0.2)])
            part = slice(int(rng.integers(0, 3)), int(rng.integers(7, 10)))
            canvas.stroke(bar[part] - (0, 0.75), 0.4, db=rng.uniform(-7, 2), impedance=1.05, soft_mm=0.2)
            canvas.stroke(bar, rng.uniform(0.7, 1.3), db=-26.0, impedance=0.75, soft_mm=0.2)
        for _ in range(9):  # leaflets and vessels around the diencephalon
            angle = rng.uniform(0, 2 * np.pi)
            at = (-8.8 + 4.4 * np.cos(angle), -11.6 + 4.2 * np.sin(angle))
            canvas.ellipse(
                at,
                (rng.uniform(0.4, 1.1), rng.uniform(0.3, 0.6)),
                rng.uniform(-40, 40),
                db=rng.uniform(-5, 3),
                impedance=1.2,
                soft_mm=0.2,
            )
    else:
        canvas.ellipse((-12.0, -15.0), (6.8, 4.6), 30, db=-27.0, impedance=0.3, soft_mm=0.3)
        canvas.ellipse((-12.5, -13.6), (4.8, 2.2), 25, db=1.0 + tissue.mottle, impedance=1.2, soft_mm=0.4)
    frontal, crown, occiput = skull[24:52], np.vstack([skull[136:], skull[:24]]), skull[100:128]
    bone(canvas, rng, frontal, 0.8, 10.0, gaps=0.12)
    bone(canvas, rng, crown, 0.6, -6.0, gaps=0.45)
    bone(canvas, rng, occiput, 0.9, 7.0, gaps=0.15)


def paint_face(canvas: Canvas, rng: np.random.Generator, midline: bool) -> None:
    """Maxilla and palate, mandible, nasal bone, skull base: the bright cluster of the midline; off it, an orbit."""
    if not midline:
        canvas.ellipse((-1.6, -18.4), (1.9, 1.7), 0, db=-30.0, impedance=0.2, soft_mm=0.15)
        canvas.ellipse((-0.6, -19.5), (0.6, 0.5), 0, db=0.0, impedance=1.2)
        canvas.ellipse((1.5, -15.0), (2.0, 1.2), -20, db=4.0, impedance=1.6, loss=0.6, soft_mm=0.3)
        return
    soft = np.array(
        [
            (-3.0, -21.0),
            (0.5, -22.2),
            (2.0, -20.2),
            (3.4, -18.0),
            (4.4, -15.6),
            (3.0, -12.6),
            (-2.0, -11.0),
            (-3.2, -15.0),
        ]
    )
    canvas.fill(smooth_curve(soft, closed=True), db=-15.0, soft_mm=0.6)
    canvas.stroke(np.array([(-2.4, -20.4), (-1.3, -20.9), (-0.3, -21.5)]), 0.5, db=11.0, impedance=2.4, loss=0.5)
    palate = np.array([(-3.0, -15.2), (-1.8, -16.4), (-0.3, -17.8), (1.4, -19.0)])
    width = np.array([1.0, 2.0, 1.7, 1.1]) * rng.uniform(0.8, 1.15)
    canvas.stroke(palate + rng.normal(0, 0.2, (4, 2)), width, db=13.0, impedance=1.2, loss=0.55, soft_mm=0.3)
    canvas.ellipse((2.0 + rng.normal(0, 0.2), -18.6), (1.0, 0.7), -30, db=8.0, impedance=1.1, soft_mm=0.3)
    canvas.ellipse((2.6, -16.0), (1.7, 0.8), -40 + rng.normal(0, 8), db=11.0, impedance=1.2, loss=0.5, soft_mm=0.3)
    canvas.ellipse((0.6, -14.3), (1.5, 0.5), -25, db=0.0, impedance=1.1, soft_mm=0.4)
    canvas.stroke(
        np.array([(-4.0, -14.2), (-2.6, -12.8), (-1.6, -11.0)]), 0.9, db=3.0, impedance=1.2, loss=0.3, soft_mm=0.35
    )
    canvas.ellipse((0.4, -11.0), (2.2, 1.2), 10, db=-20.0, soft_mm=0.5)  # pharynx


def paint_trunk(canvas: Canvas, rng: np.random.Generator, midline: bool) -> None:
    """Heart and great vessels dark, liver even, ribs only off the midline."""
    canvas.ellipse((14.5 + rng.normal(0, 0.8), -10.0), (4.2, 2.9), -15, db=-15.0, impedance=0.8, soft_mm=0.7)
    canvas.ellipse((13.5, -10.5), (1.0, 0.6), 0, db=-2.0, impedance=1.2, soft_mm=0.3)
    canvas.ellipse((30.0, -12.0), (9.0, 5.5), 0, db=-5.5, soft_mm=1.5)
    canvas.stroke(
        np.column_stack([np.linspace(6, 50, 30), -5.2 + 0.3 * np.sin(np.linspace(0, 6, 30))]),
        0.8,
        db=-20.0,
        soft_mm=0.25,
    )  # aorta
    if midline:
        canvas.stroke(
            np.array([(8.0, -13.2), (12.0, -15.4), (17.0, -17.2)]), 0.7, db=3.0, impedance=1.5, loss=0.2, soft_mm=0.2
        )
    else:
        for x in np.arange(8.0, 30.0, 2.4):
            canvas.ellipse((x, -7.5 + rng.normal(0, 0.4)), (0.7, 0.45), 0, db=8.0, impedance=2.0, loss=0.8, soft_mm=0.1)


def paint_limbs(canvas: Canvas, rng: np.random.Generator, count: int) -> None:
    """Hands and forearms floating before the face or on the chest: bright broken bone in a soft sleeve."""
    for _ in range(count):
        x, y = rng.uniform(1.0, 20.0), rng.uniform(-31.0, -24.0)
        if y > -27 and x < 5:
            y -= 4.0
        angle, length = rng.uniform(-1.2, 1.0), rng.uniform(2.5, 7.5)
        t = np.linspace(0, 1, 14)
        bow = rng.normal(0, 0.8) * np.sin(np.pi * t)
        line = np.column_stack(
            [x + length * t * np.cos(angle) - bow * np.sin(angle), y + length * t * np.sin(angle) + bow * np.cos(angle)]
        )
        canvas.stroke(line, rng.uniform(1.8, 2.8), db=-6.0, impedance=1.0, soft_mm=0.1)
        bone(canvas, rng, line[2:-2], 0.7, 7.0, gaps=0.3)
        for finger in range(rng.integers(0, 4)):
            tip = line[-1] + (0.9 * finger - 1.0, -rng.uniform(0.6, 1.8))
            canvas.ellipse(tuple(tip), (0.55, 0.4), rng.uniform(-60, 60), db=3.0, impedance=1.2)


def paint_sagittal(canvas: Canvas, rng: np.random.Generator, patient: Patient, scale: float, midline: bool) -> Nape:
    """The whole sagittal slice, on the midline or beside it, into a canvas that already holds the uterus."""
    tissue, band = Tissue(rng, canvas), nape(patient, scale)
    paint_limbs(canvas, rng, int(rng.integers(0, 4)))
    paint_body(canvas, rng, tissue, band)
    paint_trunk(canvas, rng, midline)
    paint_spine(canvas, rng)
    paint_brain(canvas, rng, tissue, midline)
    paint_face(canvas, rng, midline)
    if patient.hygroma:
        paint_septa(canvas, rng, band, patient.septa)
    return band


def paint_axial(canvas: Canvas, rng: np.random.Generator) -> None:
    """An axial head: oval skull, falx, choroid plexus like a butterfly. No nape, no face, no trunk."""
    tissue = Tissue(rng, canvas)
    t = np.linspace(0, 2 * np.pi, 72)
    centre, a, b = np.array([-4.0, -13.0]), 13.4, 10.4
    oval = np.column_stack([a * np.cos(t), b * np.sin(t)])
    canvas.fill(centre + oval * 1.07, db=-5.0, impedance=1.2)
    canvas.fill(centre + oval * 0.98, db=-18.0 + tissue.mottle, impedance=0.7, soft_mm=0.2)
    for side in (-1, 1):
        canvas.ellipse((-3.4, -13.0 + side * 4.6), (8.2, 3.2), side * 8.0, db=-27.0, impedance=0.3, soft_mm=0.3)
        canvas.ellipse(
            (-4.6, -13.0 + side * 4.4), (6.6, 2.3), side * 8.0, db=0.0 + tissue.mottle, impedance=1.1, soft_mm=0.4
        )
    bone(canvas, rng, centre + oval, 0.9, 5.0, gaps=0.15)
    falx = np.column_stack([np.linspace(-16.5, 8.5, 24), np.full(24, -13.0)])
    bone(canvas, rng, falx, 0.5, 0.0, gaps=0.2)
