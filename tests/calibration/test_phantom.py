"""The phantom: same seed same bytes, speckle that behaves, truth that is true."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.phantom import (
    FPS,
    VIEWS,
    PhantomSource,
    clinic_session,
    render,
    render_session,
    render_stills,
    sample_exam,
    write_session,
)
from calibration.phantom.acoustics import Motion, Scanner, scatter
from calibration.phantom.canvas import FLUID_DB, Canvas
from calibration.phantom.exam import MENU_S
from calibration.phantom.theatre import Theatre
from edge.screen.geometry import fan_mask

RAYLEIGH_SNR = 1.913  # mean over standard deviation of a Rayleigh envelope: fully developed speckle


def ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised cross-correlation of two grey pictures."""
    a, b = a.astype(float) - a.mean(), b.astype(float) - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_same_seed_gives_the_same_bytes() -> None:
    first, second = (b"".join(f.image.tobytes() for f in render_stills(5, 3, "hygroma")) for _ in range(2))
    assert first == second
    assert first != b"".join(f.image.tobytes() for f in render_stills(6, 3, "hygroma"))


def test_speckle_persists_on_a_hold_and_differs_between_patients() -> None:
    spec = sample_exam(3, "normal", skin="nordwelle")
    theatre, other = Theatre(spec), Theatre(replace(spec, patient=replace(spec.patient, seed=4)))
    x0, _, x1, y1 = spec.preset.fan.box
    wall = np.s_[y1 - 60 : y1 - 4, x0 + 40 : x1 - 40, 1]  # uterine wall: speckle without anatomy
    held = ncc(theatre.frame(0, 0, Motion()).image[wall], theatre.frame(1, 0, Motion(0.02, 0.01)).image[wall])
    strange = ncc(theatre.frame(0, 0, Motion()).image[wall], other.frame(0, 0, Motion()).image[wall])
    assert held > 0.9
    assert strange < 0.5 * held


def test_speckle_follows_the_probe() -> None:
    theatre = Theatre(sample_exam(3, "normal", skin="nordwelle"))
    x0, y0, x1, y1 = theatre.spec.preset.fan.box
    shift = 1.5  # mm: more than a speckle
    pixels = round(shift * theatre.spec.preset.px_per_mm)
    before = theatre.frame(0, 0, Motion()).image[y0:y1, x0 + pixels : x1, 1]
    after = theatre.frame(1, 0, Motion(shift)).image[y0:y1, x0 : x1 - pixels, 1]
    assert ncc(before, after) > 0.8


def test_envelope_of_even_tissue_is_rayleigh() -> None:
    preset = sample_exam(1, "normal", skin="nordwelle").preset
    rng = np.random.default_rng(0)
    canvas = Canvas((640, 900), 0.08, np.asarray)
    envelope = Scanner(preset, rng).envelope([(scatter(canvas, rng), 1.0)], Motion(), (0, 0))
    for rows in np.array_split(envelope, 4):  # the point spread changes with depth, the statistics must not
        assert rows.mean() / rows.std() == pytest.approx(RAYLEIGH_SNR, abs=0.15)


@pytest.mark.parametrize(("seed", "truth"), [(1, "normal"), (2, "borderline"), (3, "hygroma"), (4, "hygroma")])
def test_nuchal_thickness_is_what_the_spec_says(seed: int, truth: str) -> None:
    spec = sample_exam(seed, truth, skin="aurelia")
    spec = replace(spec, patient=replace(spec.patient, septa=0))
    theatre = Theatre(spec)
    canvas = theatre.anatomy("midline")
    band = np.vstack([theatre.band.inner, theatre.band.outer[::-1]])
    near = np.zeros(canvas.shape, np.uint8)
    cv2.fillPoly(near, [np.round(canvas.pixels(band)).astype(np.int32)], 1)
    near = cv2.dilate(near, np.ones((5, 5), np.uint8))
    fluid = ((canvas.db < FLUID_DB / 2) & (near > 0)).astype(np.uint8)
    peak = int(np.argmax(theatre.band.thickness))
    ends = canvas.pixels(np.vstack([theatre.band.inner[peak], theatre.band.outer[peak]]))
    margin = 0.5 * (ends[1] - ends[0])
    across = np.linspace(ends[0] - margin, ends[1] + margin, 400)
    inside = fluid[np.round(across[:, 1]).astype(int), np.round(across[:, 0]).astype(int)]
    measured = inside.mean() * np.linalg.norm(across[-1] - across[0]) * canvas.px_mm
    assert measured == pytest.approx(spec.patient.nt_mm, abs=0.25)
    low, high = {"normal": (0.8, 2.5), "borderline": (2.5, 3.5), "hygroma": (3.0, 12.0)}[truth]
    assert low <= spec.patient.nt_mm <= high


def test_truth_of_thickness_by_class() -> None:
    sizes = {t: [sample_exam(i, t).patient.nt_mm for i in range(200)] for t in ("normal", "borderline", "hygroma")}
    assert max(sizes["normal"]) < 2.5 <= min(sizes["borderline"]) <= max(sizes["borderline"]) <= 3.5
    assert min(sizes["hygroma"]) >= 3.0 and max(sizes["hygroma"]) <= 12.0
    assert np.median(sizes["hygroma"]) == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize("skin", ["aurelia", "nordwelle", "kestrel", "mirador"])
def test_fan_truth_holds_the_picture(skin: str) -> None:
    spec = sample_exam(11, "normal", skin=skin)
    spec = replace(spec, inset=False)
    frames = [Theatre(spec).frame(i, 0, Motion(0.5 * i, 0.2 * i)) for i in range(2)]
    changed = (frames[0].image != frames[1].image).any(axis=2)
    assert spec.fan is not None
    inside = fan_mask(spec.fan, (0, 0, 1280, 720))
    assert not (changed & ~inside).any()
    assert changed[inside].mean() > 0.4
    box = frames[0].nuchal_box
    assert box is not None and inside[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2]


def test_an_exam_arrives_holds_and_leaves() -> None:
    spec = sample_exam(2, "normal", seconds=4.0)
    views = [f.view for f in render(spec)]
    assert len(views) == 4 * FPS
    assert views[0] == views[-1] == "nonstandard"
    assert views.count("standard") > FPS / 2
    assert set(views) <= set(VIEWS)


def test_frozen_lost_and_other_exams_say_so() -> None:
    frozen = list(render(sample_exam(1, "frozen", seconds=3.8)))
    assert all(f.frozen and np.array_equal(f.image, frozen[-1].image) for f in frozen[-15:])
    assert not frozen[0].frozen
    lost = next(render(sample_exam(1, "lost")))
    assert lost.fan is None and lost.view == "none" and lost.nt_mm is None
    for anatomy in ("lung", "cyst", "abdomen"):
        frame = next(render(sample_exam(1, "other", anatomy=anatomy)))
        assert frame.view == "other" and frame.nuchal_box is None and frame.nt_mm is None and frame.fan is not None


def test_unknown_truth_is_refused() -> None:
    with pytest.raises(ValueError, match="truth"):
        sample_exam(1, "healthy")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg, which writes the session's video, is not installed")
def test_video_holds_every_frame(tmp_path: Path) -> None:
    specs = [replace(s, seconds=0.4) for s in clinic_session(3)[2:5]]
    exams = write_session(tmp_path, specs, preset="ultrafast")
    session = json.loads((tmp_path / "session.json").read_text())
    video = cv2.VideoCapture(str(tmp_path / "clinic.mp4"))
    count = 0
    while video.read()[0]:
        count += 1
    assert count == session["frames"] == 3 * (10 + round(MENU_S * FPS))
    assert [e.truth for e in exams] == ["frozen", "other", "lost"]
    assert all(e.last_frame - e.first_frame == 9 for e in exams)
    assert session["exams"][1]["first_frame"] == exams[0].last_frame + 1 + round(MENU_S * FPS)


def test_source_reads_like_a_camera_and_ends() -> None:
    source = PhantomSource(specs=[replace(sample_exam(1, "lost"), seconds=0.2)])
    images = []
    while (image := source.read()) is not None:
        images.append(image)
    assert source.fps == FPS and images[0].shape == (720, 1280, 3) and images[0].dtype == np.uint8
    assert len(images) == len(list(render_session(source.specs)))
