"""`hygroma data check`: what data sets hold, what can be done with them, and every fault at once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes.downloads import fetus_framework, hc18
from fakes.labelled import picture, write_csv, write_images

from calibration.open_dataset import open_datasets
from edge.cli.main import main
from edge.errors import InputError
from export.site.check import COMMANDS, Checked, check_data

Rows = list[dict[str, str]]
BOXES = {"nt_box": "20 60 90 72", "thalami_box": "95 20 130 40"}


def can(found: Checked) -> dict[str, bool]:
    return {use.command: use.can for use in found.uses}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return write_images(tmp_path / "site")


def table(tmp_path: Path, rows: Rows) -> Path:
    return write_csv(tmp_path / "site/site.csv", rows)


@pytest.mark.requirement("P-13")
def test_two_folders_are_sound_and_it_says_what_they_lack(folder: Path) -> None:
    found = check_data([folder], "hygroma")
    (held,) = found.sets
    assert not found.faults and (held.images, held.patients, held.kind) == (16, None, "folders")
    assert held.findings == {"hygroma": 8, "normal": 8} and held.planes == {"unlabelled": 16}
    assert held.splits == {"to be dealt into folds": 16} and held.sizes == [[150, 120], [150, 120]] and not held.copies
    assert can(found) == {**dict.fromkeys(COMMANDS, True), "lesions": False}
    says = {use.command: use.says for use in found.uses}
    assert "0 healthy standard planes with nt_box and thalami_box, 16 are needed: fill in" in says["lesions"]
    assert "the plane head stays" in says["adapt"] and "add some, or give --boxes" in says["explain"]
    assert any("Nobody said whose" in cost for cost in found.costs) and any("No boxes" in cost for cost in found.costs)


@pytest.mark.requirement("P-13")
def test_a_full_table_says_everything_it_holds(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row |= {"plane": "standard", "scanner": "Voluson", "mm_per_px": "0.1", "nt_mm": "1.5", **BOXES}
        row["site"] = "AB"[number % 2]
        row["split"] = "holdout" if number % 8 == 7 else str(number % 4)
    more = write_images(tmp_path / "site/more", 12)
    healthy = {"hygroma": "0", "plane": "standard", **BOXES}
    names = [row["path"] for row in more[:12]]
    extra = [{**healthy, "path": f"more/{name}", "patient": f"m{i}", "split": str(i % 4)} for i, name in enumerate(names)]
    for i, row in enumerate(extra):  # other pictures than the first ones
        cv2.imwrite(str(tmp_path / "site" / row["path"]), picture(np.random.default_rng(900 + i), False))
    (tmp_path / "site/site.source.yaml").write_text("name: Clinic\nlicence: own\ncitation: nobody\n")
    found = check_data([table(tmp_path, [{**dict.fromkeys(rows[0], ""), **row} for row in rows + extra])], "hygroma")
    (held,) = found.sets
    assert not found.faults, found.faults
    assert held.patients == 28 and held.sites == {"A": 8, "B": 8} and held.scanners == {"Voluson": 16}
    assert held.splits == {"fold 0": 7, "fold 1": 7, "fold 2": 7, "fold 3": 5, "held out": 2}
    assert held.boxes == {"nt_box": 28, "thalami_box": 28, "nt_mm": 16, "mm_per_px": 16} and "Clinic" in held.origin
    assert can(found)["lesions"] and not any("No held-out" in cost or "No boxes" in cost for cost in found.costs)


Spoil = Callable[[Path, Rows], None]


def copied(site: Path, rows: Rows, one: int, other: int) -> None:
    shutil.copy(site / rows[one]["path"], site / rows[other]["path"])


FAULTS: dict[str, Spoil] = {
    "line 2: hygroma 'maybe'": lambda site, rows: rows[0].update(hygroma="maybe"),
    "line 3: plane 'sagittal'": lambda site, rows: rows[1].update(plane="sagittal"),
    "line 3: split '7'": lambda site, rows: rows[1].update(split="7"),
    "line 4: nt_mm 'thick'": lambda site, rows: rows[2].update(nt_mm="thick"),
    "line 5: nt_box '1 2'": lambda site, rows: rows[3].update(nt_box="1 2"),
    "lies outside the image of 150 x 120 pixels": lambda site, rows: rows[3].update(nt_box="10 10 200 20"),
    "patient is empty in 1 of": lambda site, rows: rows[4].update(patient=""),
    "names files that are not there": lambda site, rows: rows[5].update(path="normal/none.png"),
    "rows for the same image": lambda site, rows: rows[7].update(path=rows[6]["path"]),
    "normal/06-0.png: ": lambda site, rows: (site / rows[6]["path"]).write_bytes(b"\x89PNG\r\n\x1a\n") and None,
    "the same image under two patients": lambda site, rows: copied(site, rows, 0, 1),
    "the same image with two findings": lambda site, rows: copied(site, rows, 0, 15),
    "patients trained on as well as held out": lambda site, rows: [
        r.update(split="holdout" if i == 9 else "train", patient="h0" if i in (8, 9) else r["patient"])
        for i, r in enumerate(rows)
    ] and None,
    "patients in two folds": lambda site, rows: [
        r.update(split=str(i % 4), patient="h0" if i in (8, 9) else r["patient"]) for i, r in enumerate(rows)
    ] and None,
    "column 'label': write hygroma": lambda site, rows: [r.update(label="1") for r in rows] and None,
    "site.source.yaml": lambda site, rows: (site / "site.source.yaml").write_text("name: x\n") and None,
}  # fmt: skip


@pytest.mark.requirement("P-13")
@pytest.mark.parametrize("said", FAULTS)
def test_what_a_command_would_refuse_is_a_fault(
    tmp_path: Path, rows: Rows, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in rows:
        row |= {"plane": "", "split": "", "nt_mm": "", "nt_box": ""}
    FAULTS[said](tmp_path / "site", rows)
    path = table(tmp_path, rows)
    assert main(["data", "check", str(path), "--json"]) == InputError.exit_code
    found = json.loads(capsys.readouterr().out)
    assert any(said in fault for fault in found["faults"]) and not found["sound"]
    assert not any(use["can"] for use in found["uses"])


@pytest.mark.requirement("P-13")
def test_every_fault_is_said_not_only_the_first(tmp_path: Path, rows: Rows) -> None:
    rows[0]["hygroma"], rows[1]["hygroma"] = "2", "yes"
    rows[2] |= {"patient": "", "hygroma": "no"}
    for number in range(3, 10):
        rows[number]["path"] = f"gone/{number}.png"
    (tmp_path / "site" / rows[12]["path"]).write_bytes(b"")
    copied(tmp_path / "site", rows, 10, 15)
    path = table(tmp_path, rows)
    other = tmp_path / "one"
    write_images(other)
    shutil.rmtree(other / "hygroma")
    text = check_data([path, other, tmp_path / "nowhere.csv"], "hygroma").text()
    for said in (
        "line 2: hygroma '2'", "line 3: hygroma 'yes'", "line 4: hygroma 'no'", *(f"gone/{n}.png" for n in range(3, 10)),
        rows[12]["path"], "under two patients", "one class only", "nowhere.csv: no such file",
    ):  # fmt: skip
        assert said in text, said


def test_folders_name_every_stray_file(folder: Path) -> None:
    for number in range(7):
        (folder / "normal" / f"v{number}.gif").write_bytes(b"GIF89a")
    (folder / "hygroma/a.mp4").write_bytes(b"x")
    faults = check_data([folder], "hygroma").faults
    assert len(faults) == 2 and "normal/v6.gif" in faults[0] and "hygroma/a.mp4" in faults[1]


@pytest.mark.requirement("P-13")
def test_several_are_one_recipes_data(tmp_path: Path, folder: Path) -> None:
    heads = [f"heads/{n}.png" for n in range(6)]
    (tmp_path / "heads").mkdir()
    for number, name in enumerate(heads):
        cv2.imwrite(str(tmp_path / name), picture(np.random.default_rng(50 + number), False))
    split = ["train", "holdout"]
    other = write_csv(tmp_path / "heads.csv", [{"path": n, "plane": "other", "split": split[i % 2]} for i, n in enumerate(heads)])
    found = check_data([folder, other], "hygroma")
    assert not found.faults and can(found)["export"]
    assert not any("No other anatomy" in cost for cost in found.costs)
    alone = check_data([other], "hygroma")
    assert not alone.faults and not can(alone)["export"] and not can(alone)["crossval"] and can(alone)["pretrain"]
    shutil.copy(folder / "normal/00-0.png", tmp_path / "twin.png")
    twin = write_csv(tmp_path / "twin.csv", [{"path": "twin.png", "hygroma": "1", "patient": "t"}])
    assert any("with two findings" in fault for fault in check_data([folder, twin], "hygroma").faults)
    assert any("in two of the data sets" in fault for fault in check_data([folder, folder], "hygroma").faults)


def test_too_few_patients_is_no_fault_of_a_data_set(tmp_path: Path) -> None:
    write_images(tmp_path / "few", patients=2)
    found = check_data([tmp_path / "few"], "hygroma")
    assert not found.faults
    says = {use.command: use.says for use in found.uses if not use.can}
    assert "add images of 2 more patients" in says["crossval"] and "export" in says and "adapt" in says


@pytest.mark.requirement("P-14")
@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_old_layout_is_refused_in_one_sentence(tmp_path: Path, given: str) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,source,kind,label,proposed_split,patient_or_video_id,sha256\na.png,fetus_framework,still,,train,P,0\n")
    said = r"manifest\.csv: the layout that recipes read up to 0\.6\.2; .*`hygroma data import`"
    with pytest.raises(InputError, match=said) as refused:
        open_datasets([manifest if given == "file" else tmp_path])
    assert "\n" not in str(refused.value)


def test_it_answers_in_words_and_in_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 0
    words = capsys.readouterr().out
    assert "16 images, nobody said whose" in words and "lesions     no" in words and "WRONG" not in words
    assert main(["data", "check", str(folder), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["sound"] and found["sets"][0]["images"] == 16 and len(found["uses"]) == len(COMMANDS)
    assert main(["data", "check", str(folder), "--positive", "sick"]) == InputError.exit_code
    assert "name the positive one" in capsys.readouterr().out


@pytest.mark.requirement("P-13")
def test_what_was_imported_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openpyxl")
    downloads = {"fetus-framework": fetus_framework(tmp_path / "views"), "hc18": hc18(tmp_path / "heads")}
    for name, folder in downloads.items():
        assert main(["data", "import", name, str(folder), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    tables = [str(tmp_path / f"out/{name}.csv") for name in downloads]
    assert main(["data", "check", *tables]) == 0
    words = capsys.readouterr().out
    assert "Cui C, Dong F" in words and "134.png = fetus-framework/0458.png" in words and "3 held out" in words
