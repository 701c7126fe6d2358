"""What the phantom is told and what it tells: patients, presets, exams, frames. All frozen, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge.records import Fan

FPS = 25  # frames per second: what portable scanners put on the screen at first-trimester depths
SCREEN_H, SCREEN_W = 720, 1280  # pixels: 720p, what a UVC grabber sees of a portable scanner
TRUTHS = ("normal", "hygroma", "borderline", "other", "frozen", "lost")
VIEWS = ("standard", "nonstandard", "other", "none")


@dataclass(frozen=True)
class Patient:
    """Random effects of one fetus and its mother.

    crl_mm: crown-rump length [45, 84]. nt_mm: greatest nuchal thickness, fluid only, perpendicular to the skin.
    septa: lines across a hygroma [0, 3]. reach: how far the band runs down the back, fraction [0, 1]. facing: where the
    face looks on the screen. tilt_deg: long axis against the horizontal. flexion_deg: head against trunk, positive is
    chin to chest. habitus: [0, 1], more is more attenuation and noise.
    """

    seed: int
    crl_mm: float
    nt_mm: float
    hygroma: bool
    septa: int
    reach: float
    facing: str
    tilt_deg: float
    flexion_deg: float
    habitus: float

    @property
    def ofd_mm(self) -> float:
        """Occipito-frontal diameter, mm: 21/24/29/34 at CRL 44/57/68/81 (docs/design.md#simulation)."""
        return float(np.interp(self.crl_mm, (44.0, 57.0, 68.0, 81.0, 84.0), (21.0, 24.0, 29.0, 34.0, 35.0)))


@dataclass(frozen=True)
class Preset:
    """How one exam is scanned.

    px_per_mm: screen pixels a millimetre of tissue. lateral_mm, axial_mm: -6 dB width of the point
    spread at the focus. focus: depth of the focus as a fraction of the picture. tgc_db: gain at the bottom minus gain
    at the top. noise_db: electronic noise against parenchyma. smoothing: speckle reduction, 0 none, 1 strong.
    grey_gamma: exponent of the grey map.
    """

    skin: str
    fan: Fan
    px_per_mm: float
    gain_db: float
    dynamic_range_db: float
    tgc_db: float
    lateral_mm: float
    axial_mm: float
    focus: float
    noise_db: float
    smoothing: float
    grey_gamma: float


@dataclass(frozen=True)
class ExamSpec:
    """Everything that `render` needs. anatomy: "fetus", "lung", "cyst", "abdomen", or, for a lost signal, "black",
    "blue", "bars". nt_mm is None unless the anatomy is a fetus."""

    name: str
    truth: str
    seed: int
    fps: int
    seconds: float
    anatomy: str
    patient: Patient
    preset: Preset
    calipers: bool
    inset: bool

    @property
    def nt_mm(self) -> float | None:
        return self.patient.nt_mm if self.anatomy == "fetus" else None

    @property
    def fan(self) -> Fan | None:
        return None if self.truth == "lost" else self.preset.fan

    @property
    def n_frames(self) -> int:
        return round(self.seconds * self.fps)


@dataclass(frozen=True)
class PhantomExam:
    """One line of session.json: where an exam lies in a recorded session. last_frame is included."""

    name: str
    truth: str
    seed: int
    fps: int
    nt_mm: float | None
    fan: Fan | None
    first_frame: int
    last_frame: int


@dataclass(frozen=True)
class PhantomFrame:
    """One screen.

    image: uint8 BGR [720,1280,3]. view: one of VIEWS. nuchal_box: (x0, y0, x1, y1), screen pixels, half open, on
    standard views only. frozen: the picture repeats the one before it exactly.
    """

    index: int
    image: np.ndarray = field(repr=False, compare=False)
    view: str
    nt_mm: float | None
    fan: Fan | None
    nuchal_box: tuple[int, int, int, int] | None
    frozen: bool = False
