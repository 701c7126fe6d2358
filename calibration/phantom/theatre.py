"""One exam made ready to be scanned: its slices of tissue, its probe, its screen; makes any single frame of it."""

from __future__ import annotations

import cv2
import numpy as np

from calibration.phantom import fetus, surroundings
from calibration.phantom.acoustics import Motion, Scanner, Tissue, scatter
from calibration.phantom.canvas import Canvas
from calibration.phantom.records import ExamSpec, PhantomFrame
from calibration.phantom.skins import SKINS, cross, inset, no_signal, screen

CANVAS_ROWS = 440  # canvas rows over the picture's height: finer than the beam's axial width at every depth setting
MARGIN = 0.12  # canvas beyond the picture on each side, fraction of its height: what the probe may wander into
STANDARD_LIMIT = (
    0.15  # offset from the midline up to which the plane counts as standard: 80 % of the energy is midline's
)
TURN = (
    0.72,
    0.78,
)  # between these offsets the probe turns from sagittal to axial: quick, a slow blend is no real plane
SLICES = ("midline", "lateral", "axial")  # at offsets 0, 0.5 and 1


class Theatre:
    """Deterministic in `spec`. Slices are built when first needed (about 0.1 s each) and kept."""

    def __init__(self, spec: ExamSpec):
        self.spec = spec
        self.background = no_signal(spec.anatomy) if spec.truth == "lost" else screen(spec)
        if spec.truth == "lost":
            return
        self.scanner = Scanner(spec.preset, np.random.default_rng([spec.seed, 1]))
        self.tint = tint_table(SKINS[spec.preset.skin].tint)
        self.pose = self._pose()
        self.band = fetus.nape(spec.patient, self.pose.scale)
        self._slices: dict[str, Tissue] = {}
        self._thumbnail: np.ndarray | None = None

    def _pose(self) -> fetus.Pose:
        """Head and upper thorax fill the picture; the nape stays in it with room behind."""
        patient, fan = self.spec.patient, self.spec.preset.fan
        rng = np.random.default_rng([self.spec.seed, 2])
        scale = patient.ofd_mm / fetus.OFD_DRAWN_MM
        half_mm = (fan.box[3] - fan.box[1]) / 2 / self.spec.preset.px_per_mm
        low = half_mm - patient.nt_mm - rng.uniform(3.5, 7.0)  # depth of the nape below the centre of the view
        drop = min(13.0 * scale + rng.normal(0, 1.5), low)
        offset = (float(rng.normal(0, 2.0)), float(drop - 12.5 * scale))
        return fetus.Pose(
            scale,
            np.radians(-patient.flexion_deg),
            np.radians(patient.tilt_deg),
            1.0 if patient.facing == "right" else -1.0,
            float(rng.uniform(-0.002, 0.006)),
            (1.0, -12.5),
            offset,
            tuple(rng.uniform(0, 2 * np.pi, 4).tolist()),
        )

    def canvas(self) -> Canvas:
        """An empty canvas that covers the picture and its margin."""
        x0, y0, x1, y1 = self.spec.preset.fan.box
        height_mm, width_mm = (y1 - y0) / self.spec.preset.px_per_mm, (x1 - x0) / self.spec.preset.px_per_mm
        px_mm = height_mm / CANVAS_ROWS
        pad = 2 * MARGIN * height_mm
        shape = (round((height_mm + pad) / px_mm), round((width_mm + pad) / px_mm))
        return Canvas(shape, px_mm, self.pose)

    def anatomy(self, which: str) -> Canvas:
        """The painted canvas of one slice: "midline", "lateral", "axial", or the organ of another exam."""
        canvas, patient = self.canvas(), self.spec.patient
        womb, rng = np.random.default_rng([patient.seed, 3]), np.random.default_rng([patient.seed, 4, len(which)])
        if which in ("midline", "lateral"):
            surroundings.paint_uterus(canvas, womb, fetus.outline(self.band))
            fetus.paint_sagittal(canvas, rng, patient, self.pose.scale, which == "midline")
        elif which == "axial":
            canvas.place = self.pose.rigid
            surroundings.paint_uterus(canvas, womb, None)
            fetus.paint_axial(canvas, rng)
        else:
            canvas.place = np.asarray
            {"lung": surroundings.paint_lung, "cyst": surroundings.paint_cyst, "abdomen": surroundings.paint_abdomen}[
                which
            ](canvas, rng)
        return canvas

    def tissue(self, which: str) -> Tissue:
        """The slice's scatterers, built once."""
        if which not in self._slices:
            rng = np.random.default_rng([self.spec.patient.seed, 5, len(which)])
            self._slices[which] = scatter(self.anatomy(which), rng)
        return self._slices[which]

    def layers(self, offset: float) -> list[tuple[Tissue, float]]:
        """The slices that a beam of finite thickness sees at an offset [0,1] from the midline, and their amplitudes."""
        if self.spec.anatomy != "fetus":
            return [(self.tissue(self.spec.anatomy), 1.0)]
        step = int(offset >= 0.5)
        share = 2 * offset if step == 0 else float(np.clip((offset - TURN[0]) / (TURN[1] - TURN[0]), 0, 1))
        part = 0.5 * np.pi * share
        pair = [(SLICES[step], float(np.cos(part))), (SLICES[step + 1], float(np.sin(part)))]
        return [(self.tissue(name), weight) for name, weight in pair if weight > 0.02]

    def frame(self, index: int, offset: float, motion: Motion, calipers: bool = False) -> PhantomFrame:
        """One live screen."""
        spec = self.spec
        if spec.truth == "lost":
            return PhantomFrame(index, self.background, "none", None, None, None)
        rng = np.random.default_rng([spec.seed, 6, index])
        noise_at = (int(rng.integers(64)), int(rng.integers(64)))
        picture = self.scanner.picture(self.scanner.envelope(self.layers(offset), motion, noise_at))
        image = self.background.copy()
        x0, y0, x1, y1 = spec.preset.fan.box
        region = image[y0:y1, x0:x1]
        colour = cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), self.tint)
        cv2.copyTo(colour, self.scanner.mask.view(np.uint8), region)
        if spec.inset:
            self._thumbnail = picture if self._thumbnail is None else self._thumbnail
            inset(image, self._thumbnail, spec.preset.fan)
        if spec.anatomy != "fetus":
            return PhantomFrame(index, image, "other", None, spec.fan, None)
        standard = offset <= STANDARD_LIMIT
        if calipers and standard:
            peak = int(np.argmax(self.band.thickness))
            for point in self.on_screen(np.vstack([self.band.inner[peak], self.band.outer[peak]]), motion):
                cross(image, (point[0], point[1]), (90, 220, 240))
        return PhantomFrame(
            index,
            image,
            "standard" if standard else "nonstandard",
            spec.patient.nt_mm,
            spec.fan,
            self.nuchal_box(motion) if standard else None,
        )

    def on_screen(self, drawn: np.ndarray, motion: Motion) -> np.ndarray:
        """Drawn fetal millimetres [N,2] -> screen pixels [N,2] under a motion of the probe."""
        p = self.pose(drawn) - (motion.dx, motion.dy)
        c, s = np.cos(motion.turn), np.sin(motion.turn)
        view = np.column_stack([c * p[:, 0] + s * p[:, 1], -s * p[:, 0] + c * p[:, 1]])
        return view * self.spec.preset.px_per_mm + self.scanner.centre_px

    def nuchal_box(self, motion: Motion) -> tuple[int, int, int, int] | None:
        """Box of the thick part of the band (over 60 % of its peak), inside the fan's box; None when it has left it."""
        thick = self.band.thickness > 0.6 * self.band.thickness.max()
        points = self.on_screen(np.vstack([self.band.inner[thick], self.band.outer[thick]]), motion)
        pad = 0.8 * self.spec.preset.px_per_mm  # 0.8 mm: annotators include both bright lines
        x0, y0, x1, y1 = self.spec.preset.fan.box
        left, top = np.maximum(points.min(0) - pad, (x0, y0))
        right, bottom = np.minimum(points.max(0) + pad, (x1, y1))
        return (int(left), int(top), int(right), int(bottom)) if right - left > 8 and bottom - top > 8 else None


def tint_table(tint: tuple[float, float, float]) -> np.ndarray:
    """Grey map of a screen that is not quite grey: uint8 [1,256,3] for cv2.LUT."""
    return np.round(np.arange(256)[None, :, None] * np.asarray(tint)).astype(np.uint8)
