"""Exams over time, and labelled stills for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibration.phantom.acoustics import Motion
from calibration.phantom.records import FPS, ExamSpec, PhantomFrame
from calibration.phantom.sampling import sample_exam
from calibration.phantom.skins import menu
from calibration.phantom.theatre import Theatre

APPROACH_S, LEAVE_S = 2.2, 1.0  # seconds from an oblique view to the standard plane, and off it again
LIVE_BEFORE_FREEZE_S = 3.0  # seconds of moving picture before a frozen exam stops, on the standard plane
MENU_S = 1.5  # seconds of new-patient form between exams
HAND_MM, HAND_RAD = 0.5, 0.010  # wander of a steady hand while it holds a plane: chosen
HAND_S = 0.6  # seconds over which that wander is correlated: breathing and hand tremor lie about here
FIELD_FRAMES = 16  # stills taken from one patient before the next is built


def wander(rng: np.random.Generator, frames: int, fps: int) -> np.ndarray:
    """Smooth unit-variance wander float64 [frames,4]: white noise through a Gaussian of HAND_S seconds."""
    half = int(3 * HAND_S * fps)
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / (HAND_S * fps)) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    white = rng.standard_normal((frames + 2 * half, 4))
    return np.column_stack([np.convolve(white[:, i], kernel, "valid") for i in range(4)])


def offsets(spec: ExamSpec) -> np.ndarray:
    """Offset from the midline in every frame, [0,1] float64 [N]: down from oblique, hold, leave."""
    t = np.arange(spec.n_frames) / spec.fps
    come = np.clip(1 - t / APPROACH_S, 0, 1)
    go = np.clip((t - (spec.seconds - LEAVE_S)) / LEAVE_S, 0, 1)
    return np.maximum(come**1.3, 0.8 * go**1.3)


def render(spec: ExamSpec) -> Iterator[PhantomFrame]:
    """Every frame of an exam, in order. Deterministic in `spec`."""
    theatre, rng = Theatre(spec), np.random.default_rng([spec.seed, 9])
    drift = wander(rng, spec.n_frames, spec.fps)
    away = offsets(spec)
    sweep = rng.uniform(-7, 7, 2)  # mm by which the probe is off when it starts
    still: PhantomFrame | None = None
    for i in range(spec.n_frames):
        if still is not None and (
            spec.truth == "lost" or (spec.truth == "frozen" and i >= LIVE_BEFORE_FREEZE_S * spec.fps)
        ):
            yield PhantomFrame(i, still.image, still.view, still.nt_mm, still.fan, still.nuchal_box, frozen=True)
            continue
        hand = drift[i]
        motion = Motion(
            HAND_MM * hand[0] + sweep[0] * away[i],
            0.6 * HAND_MM * hand[1] + 0.4 * sweep[1] * away[i],
            HAND_RAD * hand[2],
        )
        offset = float(np.clip(away[i] + 0.03 * abs(hand[3]), 0, 1))
        still = theatre.frame(i, offset, motion)
        yield still


def render_session(specs: list[ExamSpec]) -> Iterator[tuple[int | None, PhantomFrame]]:
    """A whole session: (index of the exam, or None on the form between exams, frame); frame indices run through."""
    at = 0
    for number, spec in enumerate(specs):
        for frame in render(spec):
            yield (
                number,
                PhantomFrame(at, frame.image, frame.view, frame.nt_mm, frame.fan, frame.nuchal_box, frame.frozen),
            )
            at += 1
        form = menu(spec.seed)
        for _ in range(round(MENU_S * spec.fps)):
            yield None, PhantomFrame(at, form, "none", None, None, None)
            at += 1


def render_stills(
    seed: int, n: int, truth: str = "normal", *, standard_share: float = 0.7, per_patient: int = FIELD_FRAMES
) -> Iterator[PhantomFrame]:
    """`n` labelled frames for training, a new patient, preset and screen every `per_patient`, each with its own probe
    position and noise. `standard_share`: fraction on the standard plane; the rest are oblique, lateral or axial."""
    rng = np.random.default_rng([seed, 10])
    for first in range(0, n, per_patient):
        spec = sample_exam(int(rng.integers(1 << 31)), truth, seconds=per_patient / FPS)
        theatre = Theatre(spec)
        for i in range(first, min(first + per_patient, n)):
            standard = rng.random() < standard_share
            offset = rng.uniform(0, 0.12) if standard else rng.uniform(0.3, 1.0)
            motion = Motion(rng.normal(0, 2.0), rng.normal(0, 0.8), rng.normal(0, 0.04))
            yield theatre.frame(i, float(offset), motion, calipers=spec.calipers and rng.random() < 0.5)
