"""From a seed to a patient, a preset and an exam: the three levels of random effects of docs/design.md#simulation."""

from __future__ import annotations

import numpy as np

from calibration.phantom.records import FPS, TRUTHS, ExamSpec, Patient, Preset
from calibration.phantom.skins import SKINS, layout_fan

NORMAL_MM = (0.7, 2.5)  # thinner cannot be measured, thicker is borderline
BORDERLINE_MM = (2.5, 3.5)  # neither healthy nor hygroma: raised translucency, a hard negative left out of both truths
HYGROMA_MM = (3.0, 12.0)  # nuchal collections at 11-14 weeks (docs/design.md#simulation)
HYGROMA_MEDIAN_MM, HYGROMA_LOG_SD = 6.0, 0.35  # chosen (docs/design.md#simulation); 95 % lie between 3 and 12
ROOM_MM = 5.0  # above the head and behind the skin: whoever scans sees to it that both are in the picture
NUISANCE = ("lung", "cyst", "abdomen")
LOST = ("black", "blue", "bars")


def sample_nt(rng: np.random.Generator, crl_mm: float, truth: str) -> float:
    """Nuchal thickness, mm, drawn again until it lies in its class's range.

    Normal: log-normal about the median for CRL with the published 95th centile (docs/design.md#simulation), below borderline.
    """
    if truth == "borderline":
        return float(rng.uniform(*BORDERLINE_MM))
    median = 0.437 + 0.01969 * crl_mm
    centile95 = np.interp(crl_mm, (45, 84), (2.1, 2.7))
    spread = np.log(centile95 / median) / 1.645  # 1.645 standard deviations is the 95th centile
    low, high = NORMAL_MM
    if truth == "hygroma":
        (low, high), median, spread = HYGROMA_MM, HYGROMA_MEDIAN_MM, HYGROMA_LOG_SD
    while True:
        value = float(median * np.exp(spread * rng.standard_normal()))
        if low <= value < high:
            return value


def sample_patient(rng: np.random.Generator, truth: str) -> Patient:
    """One fetus."""
    crl = float(rng.uniform(45, 84))
    hygroma = truth == "hygroma"
    return Patient(
        seed=int(rng.integers(1 << 31)),
        crl_mm=crl,
        nt_mm=sample_nt(rng, crl, truth),
        hygroma=hygroma,
        septa=int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) if hygroma else 0,
        reach=float(rng.uniform(0, 1)),
        facing=str(rng.choice(("left", "right"))),
        tilt_deg=float(np.clip(rng.normal(0, 7), -16, 16)),
        flexion_deg=float(np.clip(rng.normal(0, 6), -14, 14)),
        habitus=float(rng.beta(2, 3)),
    )


def sample_preset(rng: np.random.Generator, patient: Patient, skin: str | None = None) -> Preset:
    """One way of scanning, magnified to the head as guidelines ask. A large habitus costs gain and adds noise."""
    habitus = patient.habitus
    name = skin or str(rng.choice(list(SKINS), p=(0.4, 0.25, 0.2, 0.15)))
    depth_mm = float(rng.uniform(*SKINS[name].depth_ofd)) * patient.ofd_mm
    fan, scale = layout_fan(SKINS[name].layout, max(depth_mm, patient.ofd_mm + patient.nt_mm + ROOM_MM), rng)
    return Preset(
        skin=name,
        fan=fan,
        px_per_mm=scale,
        gain_db=float(rng.normal(0, 2.5) - 2 * habitus),
        dynamic_range_db=float(rng.uniform(44, 60)),
        tgc_db=float(rng.normal(0, 3)),
        lateral_mm=float(rng.uniform(0.6, 1.05)),
        axial_mm=float(rng.uniform(0.22, 0.36)),
        focus=float(rng.uniform(0.45, 0.8)),
        noise_db=float(rng.uniform(-40, -31) + 6 * habitus),
        smoothing=float(rng.uniform(0.35, 1.0)),
        grey_gamma=float(rng.uniform(1.6, 2.2)),
    )


def sample_exam(
    seed: int, truth: str, *, name: str = "", seconds: float = 8.0, skin: str | None = None, anatomy: str | None = None
) -> ExamSpec:
    """One exam from a seed. `truth` is one of TRUTHS; skin and anatomy are drawn when not given."""
    if truth not in TRUTHS:
        raise ValueError(f"truth: {truth!r} is not one of {TRUTHS}")
    rng = np.random.default_rng([seed, TRUTHS.index(truth)])
    patient = sample_patient(rng, truth)
    preset = sample_preset(rng, patient, skin)
    drawn = {"other": str(rng.choice(NUISANCE)), "lost": str(rng.choice(LOST))}.get(truth, "fetus")
    zoomed = SKINS[preset.skin].layout == "zoom"
    return ExamSpec(
        name or f"{truth}-{seed}",
        truth,
        seed,
        FPS,
        seconds,
        anatomy or drawn,
        patient,
        preset,
        calipers=bool(rng.random() < 0.4),
        inset=bool(zoomed and rng.random() < 0.4),
    )


def clinic_session(seed: int) -> list[ExamSpec]:
    """The demonstration: seven exams of 8 to 10 s with every state a clinic's screen shows, for `render_session`."""
    plan = (
        ("normal", 9.0, "aurelia"),
        ("hygroma", 10.0, "kestrel"),
        ("frozen", 8.0, "nordwelle"),
        ("other", 8.0, "mirador"),
        ("lost", 8.0, None),
        ("normal", 9.0, "mirador"),
        ("hygroma", 10.0, "aurelia"),
    )
    return [
        sample_exam(seed * 1000 + i, truth, name=f"exam-{i + 1}-{truth}", seconds=seconds, skin=skin)
        for i, (truth, seconds, skin) in enumerate(plan)
    ]
