"""A made-up hospital goes the whole way, as its engineer would: folders of images with and without a finding, a checkpoint of
USF-MAE's keys at a tiny width, `export`, `bundle sign`, `update` on a device, `run` to a flag. Killed in every stage, and gone
on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from fakes.labelled import write_checkpoint

from calibration.phantom import render_stills
from calibration.phantom.exam import render
from calibration.phantom.sampling import sample_exam
from edge.bundle import ANYONE, load_bundle
from edge.cli import main
from export.pipeline import Pipeline
from export.recipe import load_recipe

pytestmark = pytest.mark.usefixtures(
    "few_draws", "few_ranges", "graphs_asked_once", "loaded_once", "made_before", "short_exams"
)

EACH = 16  # images of either class, a patient each
BRIGHT, RADIUS = 235, 140  # grey level and pixels of what stands for a finding: what a few steps can learn
SEEN_S = 4.0  # of an exam that is watched
RECIPE = {
    "data": "data",
    "work": "work",
    "name": "st-elsewhere",
    "version": "1.0.0",
    "lesions": False,
    "image": 64,
    "batch": 8,
    "threads": 1,
    "tap": 1,
    "teacher": {
        "init": "c.pt", "width": 64, "depth": 2, "heads": 1, "layer_scale": False, "epochs": 10, "lr": 3.0e-3, "layer_decay": 1.0,
        "frozen_blocks": 0,
    },
    "student": {"blocks": [0, 1], "epochs": 5, "lr": 1.0e-3, "layer_decay": 1.0, "frozen_blocks": 0},
    "phantom": {"training_frames": 0, "fitting_exams": 0, "measuring_hygromas": 0, "measuring_healthy": 0},
}  # fmt: skip


def with_finding(image: np.ndarray, fan: tuple[int, int, int, int]) -> np.ndarray:
    """A bright disc in the middle of the fan."""
    x0, y0, x1, y1 = fan
    return cv2.circle(image.copy(), ((x0 + x1) // 2, (y0 + y1) // 2), RADIUS, (BRIGHT,) * 3, -1)


def write_hospital(base: Path) -> Path:
    """DATA/hygroma and DATA/normal, a checkpoint, a recipe; returns the recipe."""
    for kind, seed in (("normal", 50), ("hygroma", 60)):
        (base / "data" / kind).mkdir(parents=True)
        for number, frame in enumerate(render_stills(seed, EACH, "normal", standard_share=1.0, per_patient=1)):
            assert frame.fan is not None
            image = with_finding(frame.image, frame.fan.box) if kind == "hygroma" else frame.image
            x0, y0, x1, y1 = frame.fan.box  # cut out of its screen, and small: read many times
            cv2.imwrite(
                str(base / "data" / kind / f"{number:02d}.png"), cv2.resize(image[y0:y1, x0:x1], None, fx=0.3, fy=0.3)
            )
    write_checkpoint(base / "c.pt")
    (base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return base / "recipe.yaml"


class Killed(BaseException):
    """As KeyboardInterrupt, and nobody's to catch."""


def export_killed_everywhere(recipe: Path) -> list[str]:
    """Run the whole recipe, killed at the first step that each stage of each run reports; what was killed, in order."""
    killed: list[str] = []

    def dies(what: str, done: int, total: int) -> None:
        if what not in killed:
            killed.append(what)
            raise Killed

    while True:
        try:
            Pipeline(load_recipe(recipe), dies).run(accept_failing_gate=True)
            return killed
        except Killed:
            continue


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, few_draws: None, few_ranges: None, graphs_asked_once: None, loaded_once: None,
    made_before: None, short_exams: None,
) -> Iterator[tuple[Path, list[str]]]:  # fmt: skip
    base = tmp_path_factory.mktemp("hospital")
    yield base, export_killed_everywhere(write_hospital(base))


@pytest.mark.requirement("Y-01")
def test_it_was_killed_in_every_stage_of_every_run(hospital: tuple[Path, list[str]]) -> None:
    _, killed = hospital
    for run in ("refit", "fold0", "fold1", "fold2", "fold3"):
        assert {f"teacher {run}", f"student {run}", f"heads {run}"} <= set(killed)
    assert {"bank: copies", "bank: stills", "validate"} <= set(killed) and any(
        what.startswith("bundle: ") for what in killed
    )


@pytest.mark.requirement("Y-01")
def test_the_report_and_the_card_say_what_it_stands_on_and_what_it_lacks(hospital: tuple[Path, list[str]]) -> None:
    base, _ = hospital
    report = json.loads((base / "work/report/validation.json").read_text())
    (decides,) = report["sets"]
    assert (decides["name"], decides["kind"], decides["n"]) == ("hygroma, real, folds", "real", 2 * EACH)
    assert report["paper"]["kind"] == "real" and [form["form"] for form in report["paper"]["forms"]] == [
        "teacher",
        "student",
        "qdq",
    ]
    assert [test["n"] for test in report["paper"]["tests"]] == [2 * EACH] * 3
    bundle = load_bundle(base / "work/bundle", ANYONE)
    assert bundle.manifest.heads.absent == ("plane", "nuchal_map")
    card = bundle.files["MODEL_CARD.md"].decode()
    for words in (
        "cannot tell views",
        "no nuchal map",
        "Nobody said whose the images are",
        "16 images of real hygromas of 16 patients",
    ):
        assert words in card
    assert "simulated lesions flatter" not in card and str(base) not in card and "data/" not in card
    html = (base / "work/report/validation.html").read_text()
    assert (
        html.index('id="paper"') < html.index('id="evidence"')
        and "simulated lesion" not in html.partition('id="paper"')[2][:3000]
    )


def exam(path: Path, seed: int, finding: bool) -> Path:
    """A clip of a healthy exam, with the finding in every frame or without."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (1280, 720))
    for frame in render(sample_exam(seed, "normal", seconds=SEEN_S)):
        writer.write(with_finding(frame.image, frame.fan.box) if finding and frame.fan is not None else frame.image)
    writer.release()
    return path


@pytest.mark.requirement("Y-01")
def test_a_device_takes_the_signed_bundle_and_flags_what_it_was_trained_on(
    hospital: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, _ = hospital
    assert main(["keys", "new", str(tmp_path / "keys")]) == 0
    key, public = tmp_path / "keys/hygroma.key", (tmp_path / "keys/hygroma.pub").read_text().strip()
    assert main(["bundle", "sign", str(base / "work/bundle"), "--key", str(key), "--out", str(tmp_path / "b.tar")]) == 0
    config = tmp_path / "c.yaml"
    config.write_text(
        yaml.safe_dump({"bundle": {"trusted_keys": [public]}, "events": {"dir": str(tmp_path / "events")}})
    )
    assert main(["update", str(tmp_path / "b.tar"), "--allow-downgrade", "--config", str(config)]) == 0
    capsys.readouterr()
    for finding in (False, True):
        clip = exam(tmp_path / f"{finding}.avi", 7 + finding, finding)
        argv = [
            "run",
            "--source",
            f"file:{clip}",
            "--config",
            str(config),
            "--as-fast-as-possible",
            "--no-status",
            "--json",
        ]
        assert main(argv) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["bundle"].startswith("st-elsewhere 1.0.0") and len(told["events"]) == finding
