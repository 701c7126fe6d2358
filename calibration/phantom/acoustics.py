"""From a slice of tissue to a scan-converted picture: scatterers, point spread, attenuation, envelope, log, fan.

Complex-Gaussian scatterers live in tissue (not in the picture), so speckle moves with it. A frame samples them along
its beams, convolves with a separable point spread whose lateral width grows away from the focus, takes the magnitude
and the logarithm, and scan-converts with one `cv2.remap`. The model is Bamber and Dickinson's, Phys. Med. Biol. 25
(1980).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from calibration.phantom.canvas import Canvas, noise_field
from calibration.phantom.records import Preset
from edge.screen.geometry import fan_mask

SAMPLES, BEAMS = 448, 320  # polar grid: about 3 samples a point spread, and few enough to convolve in milliseconds
GRAIN_PX = 0.8  # blur of the scatterer field, canvas pixels: keeps it band-limited against the beam spacing
SPECULAR_GAIN = 0.9  # smooth interfaces against parenchyma of unit strength; set by eye against first-trimester images
SPECULAR_POWER = 5.0  # an interface fades much faster than its cosine as it turns away from the beam
SPECULAR_PATCH_MM = 3.5  # smooth stretches of an interface are about this long; between them it scatters
SIDE_LOBE = 0.045  # amplitude of the wide pedestal of the point spread, -27 dB: the haze beside bright bone
LOBE_SAMPLES = 5  # how far that pedestal reaches along depth, polar samples
PARENCHYMA_LEVEL = (
    0.5  # where 0 dB lies in the dynamic range: fluid black, bone white, as first-trimester presets have it
)
COMPOUND_BEAMS, COMPOUND_SAMPLES = 1.8, 1.3  # polar-grid sigma of full spatial compounding and speckle reduction
ONE = np.ones(1, np.float32)  # the kernel that leaves an axis alone
SHADOW_SHARE = 0.35  # of exams with a dark stripe down the picture: chosen
FLOOR = 1e-4  # envelope that counts as zero, -80 dB against parenchyma


@dataclass(frozen=True)
class Tissue:
    """One slice ready to be scanned: field float32 [H,W,2] (real, imaginary), loss float32 [H,W] in dB/mm."""

    field: np.ndarray
    loss: np.ndarray
    px_mm: float


def scatter(canvas: Canvas, rng: np.random.Generator) -> Tissue:
    """Random scatterers times their strength, plus the coherent echo of interfaces that lie across the beam."""
    noise = rng.standard_normal((*canvas.shape, 2), dtype=np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), GRAIN_PX)
    field = grain / grain.std() * np.power(10.0, canvas.db / 20)[..., None]
    smooth = cv2.GaussianBlur(canvas.impedance, (0, 0), max(0.7, 0.10 / canvas.px_mm))
    along = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3)) / (8 * canvas.px_mm)
    across = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3)) / (8 * canvas.px_mm)
    cosine = along / (np.hypot(along, across) + 1e-6)
    patch = SPECULAR_PATCH_MM / canvas.px_mm
    smoothness = np.clip(0.75 + 0.5 * noise_field(rng, canvas.shape, patch, patch), 0.1, 1.8)
    field[..., 0] += SPECULAR_GAIN * smoothness * along * cosine**SPECULAR_POWER
    return Tissue(field, canvas.loss, canvas.px_mm)


@dataclass(frozen=True)
class Motion:
    """Where the probe is against the tissue in one frame: shift in mm, turn in radians."""

    dx: float = 0.0
    dy: float = 0.0
    turn: float = 0.0


class Scanner:
    """One probe, preset and screen layout. Millimetres have their origin at the centre of the fan's box."""

    def __init__(self, preset: Preset, rng: np.random.Generator):
        self.preset, fan = preset, preset.fan
        x0, y0, x1, y1 = fan.box
        self.centre_px = ((x0 + x1) / 2, (y0 + y1) / 2)
        ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        if fan.kind == "sector":
            dx, dy = xs - fan.apex[0], ys - fan.apex[1]
            mask = fan_mask(fan, fan.box)
            radius, angle = np.hypot(dx, dy), np.arctan2(dx, dy)
            near, far = float(radius[mask].min()), float(radius[mask].max())
            radii = np.linspace(near, far, SAMPLES, dtype=np.float32)
            angles = np.linspace(fan.a0, fan.a1, BEAMS, dtype=np.float32)
            px = fan.apex[0] + radii[:, None] * np.sin(angles)
            py = fan.apex[1] + radii[:, None] * np.cos(angles)
            self.map_u = (angle - fan.a0) / (fan.a1 - fan.a0) * (BEAMS - 1)
            self.map_v = (radius - near) / (far - near) * (SAMPLES - 1)
            beam_mm = (fan.a1 - fan.a0) / (BEAMS - 1) * 0.5 * (near + far) / preset.px_per_mm
        else:
            mask = np.ones(xs.shape, bool)
            near, far = float(y0), float(y1)
            px = np.broadcast_to(np.linspace(x0, x1, BEAMS, dtype=np.float32), (SAMPLES, BEAMS))
            py = np.broadcast_to(np.linspace(y0, y1, SAMPLES, dtype=np.float32)[:, None], (SAMPLES, BEAMS))
            self.map_u, self.map_v = (xs - x0) / (x1 - x0) * (BEAMS - 1), (ys - y0) / (y1 - y0) * (SAMPLES - 1)
            beam_mm = (x1 - x0) / (BEAMS - 1) / preset.px_per_mm
        self.map_u, self.map_v = cv2.convertMaps(
            self.map_u.astype(np.float32), self.map_v.astype(np.float32), cv2.CV_16SC2
        )
        self.mask = mask
        self.x = ((px - self.centre_px[0]) / preset.px_per_mm).astype(np.float32)
        self.y = ((py - self.centre_px[1]) / preset.px_per_mm).astype(np.float32)
        self.sample_mm = (far - near) / (SAMPLES - 1) / preset.px_per_mm
        self._point_spread(beam_mm)
        depth = np.linspace(0, 1, SAMPLES, dtype=np.float32)[:, None]
        edge = np.linspace(-1, 1, BEAMS, dtype=np.float32)[None]
        contact = 2.0 * np.interp(np.linspace(0, 8, BEAMS), np.arange(9), rng.standard_normal(9)).astype(np.float32)
        if rng.random() < SHADOW_SHARE:  # gas, bone or poor contact under a part of the probe
            at, width = rng.uniform(-0.9, 0.9), rng.uniform(0.06, 0.16)
            contact -= (rng.uniform(5, 14) * np.exp(-(((edge[0] - at) / width) ** 2))).astype(np.float32)
        self.gain_db = preset.gain_db + preset.tgc_db * (depth - 0.5) - 3.0 * edge**4 + contact
        self.noise = 10 ** (preset.noise_db / 20) * rng.standard_normal((SAMPLES + 64, BEAMS + 64, 2), dtype=np.float32)

    def _point_spread(self, beam_mm: float) -> None:
        """Axial, narrow and wide kernels of unit energy, the side lobes' reach, the share of the wide one by depth."""
        preset = self.preset
        sigma = 1 / 2.355  # of a Gaussian whose full width at half maximum is 1
        self.axial = energy_kernel(preset.axial_mm * sigma / self.sample_mm)
        self.narrow = energy_kernel(preset.lateral_mm * sigma / beam_mm)
        self.wide = energy_kernel(2.1 * preset.lateral_mm * sigma / beam_mm)
        self.lobe_size = max(3, round(5.0 / beam_mm) | 1)
        depth = np.linspace(0, 1, SAMPLES, dtype=np.float32)[:, None, None]
        self.defocus = np.clip(np.abs(depth - preset.focus) * 1.3, 0, 0.85)

    def envelope(self, layers: list[tuple[Tissue, float]], motion: Motion, noise_at: tuple[int, int]) -> np.ndarray:
        """Echo magnitude float32 [SAMPLES,BEAMS] of a weighted sum of slices; parenchyma is about 1. Beam space."""
        c, s = np.float32(np.cos(motion.turn)), np.float32(np.sin(motion.turn))
        total = np.zeros((SAMPLES, BEAMS, 2), np.float32)
        loss = np.zeros((SAMPLES, BEAMS), np.float32)
        for tissue, weight in layers:
            height, width = tissue.loss.shape
            u = (c * self.x - s * self.y + np.float32(motion.dx)) / tissue.px_mm + (width / 2 - 0.5)
            v = (s * self.x + c * self.y + np.float32(motion.dy)) / tissue.px_mm + (height / 2 - 0.5)
            total += weight * cv2.remap(tissue.field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            loss += weight**2 * cv2.remap(tissue.loss, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
        shade = cv2.blur(np.cumsum(loss, axis=0) * np.float32(self.sample_mm), (7, 3))
        total *= np.power(10.0, np.clip(shade, -5, 25) / -20)[..., None]
        total += self.noise[noise_at[0] : noise_at[0] + SAMPLES, noise_at[1] : noise_at[1] + BEAMS]
        line = cv2.sepFilter2D(total, -1, ONE, self.axial)
        sharp = cv2.sepFilter2D(line, -1, self.narrow, ONE)
        blurred = cv2.sepFilter2D(line, -1, self.wide, ONE)
        echo = sharp + self.defocus * (blurred - sharp)
        lobes = cv2.blur(line, (self.lobe_size, LOBE_SAMPLES))
        echo += SIDE_LOBE * np.float32((self.lobe_size * LOBE_SAMPLES) ** 0.5) * lobes
        return cv2.magnitude(echo[..., 0], echo[..., 1])

    def picture(self, envelope: np.ndarray) -> np.ndarray:
        """Envelope -> scan-converted grey picture of the fan's box, uint8 [h,w], black outside the fan."""
        p = self.preset
        compounded = cv2.GaussianBlur(
            envelope, (0, 0), p.smoothing * COMPOUND_BEAMS, sigmaY=p.smoothing * COMPOUND_SAMPLES
        )
        db = cv2.log(np.maximum(0.3 * envelope + 0.7 * compounded, FLOOR)) * np.float32(20 / np.log(10)) + self.gain_db
        level = np.clip(db / np.float32(p.dynamic_range_db) + np.float32(PARENCHYMA_LEVEL), 0, 1)
        grey = cv2.pow(level, p.grey_gamma) * 255
        out = cv2.remap(grey.astype(np.uint8), self.map_u, self.map_v, cv2.INTER_LINEAR)
        out[~self.mask] = 0
        return out


def energy_kernel(sigma: float) -> np.ndarray:
    """Gaussian of unit energy (sum of squares 1): white unit noise stays of unit variance. float32 [K]."""
    half = max(1, int(np.ceil(3 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / max(sigma, 0.3)) ** 2)
    return (kernel / np.sqrt((kernel**2).sum())).astype(np.float32)
