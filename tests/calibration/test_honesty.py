"""The lesion checks on drawn stills: an edit that gives itself away is caught, one that leaves no trace is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("sklearn")

from calibration import honesty
from calibration.dataset import UNKNOWN, LabelledImage
from calibration.honesty import (
    Specimen,
    Specimens,
    check_lesions,
    contact_sheet,
    discriminate,
    make_specimens,
    nuisance,
    texture,
    unlike_patients,
)
from calibration.lesion import NuchalAnatomy
from edge.cli import main
from edge.errors import InputError

SHAPE, BOX, NECK = (160, 220), (60.0, 86.0, 160.0, 104.0), (0, 66, 220, 160)
THALAMI = (80.0, 40.0, 124.0, 62.0)


def drawn(seed: int) -> np.ndarray:
    """uint8: speckle, and a dark band between two bright lines."""
    rng = np.random.default_rng([7, seed])
    image = cv2.GaussianBlur(rng.normal(90, 60, SHAPE).astype(np.float32), (0, 0), 1.5)
    image[84:108, 50:170] += 60
    image[92 : 98 + seed % 4, 50:170] = rng.normal(12, 4, (6 + seed % 4, 120))
    return np.clip(image, 0, 255).astype(np.uint8)


def specimens(count: int, seed: int) -> list[Specimen]:
    return [Specimen(drawn(1000 * seed + i), BOX, NECK, f"P{seed}-{i}", 1.5) for i in range(count)]


def ask(a: list[Specimen], b: list[Specimen], features: honesty.Features | None = None) -> honesty.Check:
    vectors = [np.stack([texture(s) for s in many]) for many in (a, b)]
    return discriminate(*vectors, [s.group for s in (*a, *b)], "b against a", "texture")


def test_two_draws_of_one_kind_are_not_told_apart() -> None:
    check = ask(specimens(60, 0), specimens(60, 1))
    assert check.low < 0.5 < check.high and check.honest and check.verdict != honesty.TIED
    assert (check.images, check.patients) == (120, 120)


def test_an_edit_that_gives_itself_away_is_caught() -> None:
    """The band filled with one grey level, which is what the crudest operator does."""
    edited = []
    for s in specimens(60, 1):
        grey = s.grey.copy()
        grey[92:98, 60:160] = 12
        edited.append(dataclasses.replace(s, grey=grey))
    check = ask(specimens(60, 0), edited)
    assert check.auc > 0.95 and check.low > honesty.NEAR and check.verdict == honesty.TOLD and not check.honest


def test_the_whole_interval_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    check = ask(specimens(20, 0), specimens(20, 1))
    assert check.low < check.auc < check.high
    for near, verdict in (
        (check.high, honesty.NEAR_HALF),
        (check.auc, honesty.UNSHOWN),
        (check.auc - 0.001, honesty.TOLD),
        (float("nan"), honesty.TOLD),
    ):
        monkeypatch.setattr(honesty, "NEAR", near)
        found = ask(specimens(20, 0), specimens(20, 1))
        assert found.verdict == verdict and found.honest == (verdict != honesty.TOLD)


def test_features_that_are_the_same_in_every_picture_ask_nothing() -> None:
    same = np.full((30, 5), 3.0)
    check = discriminate(same, same, [str(i) for i in range(60)], "q", "none")
    assert check.verdict == honesty.TIED and not check.honest


def test_a_patient_is_never_on_both_sides() -> None:
    """Features that name the patient, and nothing else: with patients shared by folds they would be learned."""
    own = np.eye(20)
    a, b = np.repeat(own[:10], 6, 0), np.repeat(own[10:], 6, 0)
    groups = [f"P{i}" for i in range(20) for _ in range(6)]
    assert discriminate(a, b, groups, "q", "patient").auc < 0.6
    alone = [str(i) for i in range(120)]
    assert discriminate(a, b, alone, "q", "patient").auc > 0.97


def test_too_few_images_are_named() -> None:
    with pytest.raises(InputError, match="b against a: found 7 and 60 images; need 8 of either"):
        ask(specimens(7, 0), specimens(60, 1))


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    folder = tmp_path_factory.mktemp("stills")
    out = []
    for i in range(50):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), drawn(i))
        finding = UNKNOWN if i == 49 else 0.0
        out.append(LabelledImage(path, path.name, f"P{i}", hygroma=finding, plane=1.0, nt_box=BOX, thalami_box=THALAMI))
    return out


@pytest.fixture(scope="module")
def made(stills: list[LabelledImage]) -> Specimens:
    return make_specimens(stills, 40, 0)


def test_specimens_are_paired_and_the_same_for_the_same_seed(stills: list[LabelledImage], made: Specimens) -> None:
    assert len(made.untouched) == len(made.sham) == len(made.lesion) == 40
    assert "P49" not in {s.group for s in made.untouched}  # looks thickened: neither sham nor untouched
    for three in zip(made.untouched, made.sham, made.lesion, strict=True):
        assert len({s.group for s in three}) == 1
        assert three[1].thickness_mm <= 2.3 < three[2].thickness_mm
    assert sorted(s.thickness_mm for s in made.sham) == pytest.approx(
        sorted(s.thickness_mm for s in made.untouched), abs=0.3
    )
    one, again, other = (make_specimens(stills[:16], 16, seed).lesion for seed in (0, 0, 1))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a.grey, b.grey)
    assert [s.group for s in one] != [s.group for s in other]


def test_every_question_is_asked_of_every_kind_of_features(made: Specimens) -> None:
    checks = check_lesions(made, backbone=lambda crops: crops.reshape(len(crops), -1)[:, ::97].astype(float), size=64)
    asked = {(c.question, c.features) for c in checks}
    assert len(checks) == len(asked) == 4 + 1
    assert ("lesion against sham", "nuisance only") in asked
    for c in checks:
        assert 0 <= c.low <= c.auc <= c.high <= 1 and c.honest == (c.auc <= honesty.NEAR)
    assert checks[-1].images == checks[-1].patients <= 40  # a patient gives one picture: sham or lesion


def test_what_an_edit_changes_is_masked(made: Specimens) -> None:
    """So lesion and sham of one still are the same to the nuisance features, until something goes with the class."""
    for sham, lesion in zip(made.sham, made.lesion, strict=True):
        assert sham.neck == lesion.neck and (sham.grey != lesion.grey).any()
        np.testing.assert_array_equal(nuisance(sham), nuisance(lesion))
    flipped = NuchalAnatomy((90.0, 50.0, 140.0, 68.0), 44.0, posterior_down=False)
    assert honesty._neck(drawn(0), flipped) == (49, 0, 182, 88)


def brighter(s: Specimen) -> Specimen:
    return dataclasses.replace(s, grey=np.clip(s.grey * 1.3, 0, 255).astype(np.uint8))


def bordered(s: Specimen) -> Specimen:
    grey = s.grey.copy()
    grey[:, :6] = 0
    return dataclasses.replace(s, grey=grey)


def marked(s: Specimen) -> Specimen:
    grey = s.grey.copy()
    for x in (30, 90, 150):
        cv2.drawMarker(grey, (x, 20), 255, cv2.MARKER_CROSS, 7, 1)
    return dataclasses.replace(s, grey=grey)


@pytest.mark.parametrize("trace", [brighter, bordered, marked])
def test_a_nuisance_that_goes_with_the_class_is_found(made: Specimens, trace: Callable[[Specimen], Specimen]) -> None:
    clean = check_lesions(made)[-1]
    found = check_lesions(dataclasses.replace(made, lesion=[trace(s) for s in made.lesion]))[-1]
    assert clean.auc < 0.7 and found.auc > 0.9 and found.verdict == honesty.TOLD


def test_lesions_are_of_other_patients_than_shams_and_both_have_calipers(made: Specimens) -> None:
    sham, lesion = unlike_patients(made)
    of_sham, of_lesion = {s.group for s in sham}, {s.group for s in lesion}
    assert len(of_sham) == 20 and of_lesion and not of_sham & of_lesion
    assert {s.group for s in made.lesion if s.thickness_mm >= 3.2} - of_sham == of_lesion
    before = {(s.group, s.thickness_mm): s.grey for s in (*made.sham, *made.lesion)}
    for many in (sham, lesion):
        drawn_in = [(before[s.group, s.thickness_mm] != s.grey).any() for s in many]
        assert 0 < sum(drawn_in) < len(many)


def test_few_stills_answer_the_other_questions(made: Specimens) -> None:
    few = Specimens(made.untouched[:12], made.sham[:12], made.lesion[:12])
    assert {c.question for c in check_lesions(few)} == {"sham against untouched"}


def test_the_sheet_shows_every_still_an_odd_one_too(made: Specimens, tmp_path: Path) -> None:
    three = dataclasses.replace(made, untouched=made.untouched[:3], sham=made.sham[:3], lesion=made.lesion[:3])
    html, page = contact_sheet(three, tmp_path / "deep/er")
    picture = cv2.imread(str(page), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (2 * honesty.TILE, 6 * honesty.TILE)
    assert picture[honesty.TILE :, : 3 * honesty.TILE].any() and not picture[honesty.TILE :, 3 * honesty.TILE :].any()
    text = html.read_text()
    assert "no picture shows a real hygroma" in text and "http" not in text


def write_data(folder: Path, stills: list[LabelledImage]) -> Path:
    folder.mkdir(parents=True)
    boxes = [" ".join(map(str, box)) for box in (BOX, THALAMI)]
    lines = ["path,patient,hygroma,plane,nt_box,thalami_box"]
    for i, still in enumerate(stills):
        (folder / f"{i}.png").write_bytes(still.path.read_bytes())
        lines.append(",".join((f"{i}.png", f"P{i}", "0", "standard", *boxes)))
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


def test_the_command(stills: list[LabelledImage], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data", stills[:26]), tmp_path / "out"
    code = main(["lesions", str(data), "--out", str(out), "--stills", "24"])
    said = capsys.readouterr().out
    report = json.loads((out / "lesions.json").read_text())
    verdicts = [c["verdict"] for c in report["checks"]]
    assert report["kind"] == "simulated_lesion" and report["stills"] == 24
    assert report["verdict"] == max(verdicts, key=honesty.VERDICTS.index)
    assert code == (1 if honesty.TOLD in verdicts else 0)
    assert said.count("ROC-AUC") == len(report["checks"]) == 3 and str(out / "lesions.html") in said
    assert said.count("TELLS THEM APART") == verdicts.count(honesty.TOLD)
    assert sorted(p.name for p in out.iterdir())[-3:] == ["lesions-3.png", "lesions.html", "lesions.json"]


def test_bad_input(stills: list[LabelledImage], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> str:
        assert main(["lesions", *map(str, arguments)]) != 0
        return capsys.readouterr().err

    out = tmp_path / "out"
    assert "t.csv: no such file; give a folder per class or a table" in said(tmp_path / "t.csv", "--out", out)
    data = write_data(tmp_path / "data", stills[:12])
    assert "found 12 healthy standard planes with nt_box and thalami_box, 240 asked for; need 16" in said(data, "--out", out)
    assert "--seed: found -1" in said(data, "--out", out, "--seed", -1)
    assert "no such checkpoint" in said(data, "--out", out, "--init", tmp_path / "none.pt")
    (tmp_path / "file").write_text("")
    assert "file: not a folder; name a folder that this user may write" in said(data, "--out", tmp_path / "file")
    full = write_data(tmp_path / "full", stills[:20])
    (full.parent / "3.png").write_bytes(b"no picture")
    assert "3.png: not a picture that is read (PNG, JPEG," in said(full, "--out", out, "--stills", 20)
    assert not out.exists()
