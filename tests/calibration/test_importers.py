"""Imports of public downloads: what they write, and every way in which a download can be wrong."""

from __future__ import annotations

import csv
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openpyxl")
sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes.downloads import HEADER, NT, SETS, THALAMI, box_row, fetus_framework, hc18
from shared_tables import DATA, HEADS, NUCHAL, write_tables

from calibration.dataset import HOLDOUT, OTHER_PLANE, STANDARD_PLANE, UNKNOWN, LabelledImage
from calibration.images import read_grey
from calibration.importers.fetus_framework import INCREASED, import_fetus_framework, patient_of, shipped_splits
from calibration.importers.hc18 import SHIPPED, import_hc18
from calibration.importers.hc18 import shipped_splits as head_splits
from calibration.lesion import measured_mm
from calibration.open_dataset import open_dataset
from edge.cli.main import main
from edge.errors import InputError


def by_number(table: Path) -> dict[int, LabelledImage]:
    return {int(image.path.stem): image for image in open_dataset(table).images}


@pytest.mark.requirement("P-12")
@pytest.mark.parametrize("nested", [0, 1, 2])
def test_the_fetus_framework_becomes_a_table_with_the_shipped_folds(tmp_path: Path, nested: int) -> None:
    found = import_fetus_framework(fetus_framework(tmp_path / "download", nested), tmp_path / "out")
    assert found.images == {"trained on": 8, "holdout": 2, "exclude": 5} and found.table.name == "fetus-framework.csv"
    images = by_number(found.table)
    splits = shipped_splits()
    assert set(images) == {0, 1, 2, 3, 134, 458, 1061, 1062, 1104, 1105}  # no test set, no copy of one, nothing new
    for number, image in images.items():
        assert image.fold == (HOLDOUT if splits[image.patient] == "holdout" else int(splits[image.patient]))
        standard = number < 1061
        assert image.plane == (STANDARD_PLANE if standard else OTHER_PLANE) and image.site == "Shenzhen People's Hospital"
        assert image.hygroma == (0 if standard and number not in INCREASED else UNKNOWN)
        assert read_grey(image.path).shape == (240, 512)  # the size that lesions are drawn at
    assert images[1].fold == images[1062].fold == HOLDOUT and images[0].hygroma == UNKNOWN
    assert images[458].patient == images[134].patient == "FF0134" and images[1105].patient == "FF1104"
    assert images[2].nt_box == pytest.approx([side * 0.8 for side in NT]) and images[2].editable
    assert images[2].thalami_box == pytest.approx([side * 0.8 for side in THALAMI]) and images[1061].nt_box is None
    anatomy = images[2].anatomy
    assert anatomy is not None and images[2].nt_mm == pytest.approx(measured_mm(read_grey(images[2].path), anatomy), abs=1e-3)
    assert any("missing" in note and "1358" in note for note in found.notes)  # of 1,366 patients, 8 are here
    origin = open_dataset(found.table).origin
    assert origin is not None and origin.licence == "CC BY 4.0" and "n2rbrb9t4f" in origin.citation and len(origin.limits) == 1


@pytest.mark.requirement("P-12")
def test_hc18_becomes_a_table_of_other_anatomy(tmp_path: Path) -> None:
    found = import_hc18(hc18(tmp_path / "download"), tmp_path / "out")
    data = open_dataset(found.table)
    assert data.elsewhere and found.images == {"trained on": 6, "holdout": 3, "exclude": 0}
    trained = [image for image in data.images if image.fold != HOLDOUT]
    assert [image.patient for image in trained] == ["HC18-000", "HC18-001", "HC18-001", "HC18-002", "HC18-003", "HC18-003"]
    assert {image.site[:36] for image in data.images if image.fold == HOLDOUT} == {"axial fetal heads (HC18; others of i"}
    assert trained[0].mm_per_px == pytest.approx(0.01) and not any("Annotation" in image.name for image in data.images)
    assert any(str(SHIPPED) in note for note in found.notes)  # six images are not the shipped bundle's
    assert data.origin is not None and "1327317" in data.origin.citation


def test_a_whole_hc18_has_four_folds_of_its_own(tmp_path: Path) -> None:
    stems = [f"{n // 2:03d}_{'' if n % 2 else '2'}HC" for n in range(SHIPPED)]
    splits = head_splits(stems)
    assert set(splits) == set(stems) and [list(splits.values()).count(str(f)) for f in range(4)] == [250, 250, 250, 249]
    # 1_2HC, 10_2HC, 100_2HC, 101_2HC ... of the renumbered names: by their letters 100_HC comes before 10_2HC
    assert [splits[stem] for stem in ("049_HC", "050_2HC")] == ["0", "1"]


@pytest.mark.requirement("P-12")
def test_the_shared_stills_have_the_same_patients_folds_and_findings(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is not here")
    write_tables(tmp_path)
    splits = shipped_splits()
    for image in open_dataset(tmp_path / NUCHAL).images:
        number = int(image.path.stem)
        assert image.patient == patient_of(number)
        assert image.fold == (HOLDOUT if splits[image.patient] == "holdout" else int(splits[image.patient]))
        assert image.hygroma == (0 if image.plane == STANDARD_PLANE and number not in INCREASED else UNKNOWN)
    heads = open_dataset(tmp_path / HEADS).images
    own = {int(image.path.stem.split("_")[0]): image for image in heads}
    woman, last, stems = 0, "", {}  # as the original may call them: a woman's numbered pictures sort before her first
    for number in sorted(own):
        kind = own[number].path.stem.split("_")[1]
        woman += kind <= last or last == "HC"
        stems[f"{woman:03d}_{kind}"], last = own[number].fold, kind
    assert {stem: int(fold) for stem, fold in head_splits(list(stems)).items()} == stems


@pytest.mark.requirement("P-12")
def test_the_shared_stills_imported_are_the_shared_tables(tmp_path: Path) -> None:
    """As if they had been downloaded: the same stills, planes, patients, folds, findings and boxes."""
    if not DATA.is_dir():
        pytest.skip("../shared/data is not here")
    import openpyxl

    table, *_ = write_tables(tmp_path / "tables")
    known = {int(image.path.stem): image for image in open_dataset(table).images}
    chosen = sorted({*list(known)[::40], 0, 134, 458, 803, 1104, 1105})
    download = tmp_path / "download"
    fetus_framework(download, 0, boxed=())  # the test sets, which are excluded
    for path in download.glob("Set*/*/*.png"):
        path.unlink()
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for number in chosen:
        image = known[number]
        folder = SETS["set1"] if image.plane == STANDARD_PLANE else SETS["set2-other"]
        shutil.copy(image.path, download / folder / f"{number}.jpg")
        for structure, box in (("NT", image.nt_box), ("thalami", image.thalami_box)):
            if box is not None:
                book.active.append(box_row(number, structure, box))
    book.save(download / "ObjectDetection.xlsx")
    found = by_number(import_fetus_framework(download, tmp_path / "out").table)
    assert sorted(found) == chosen
    for number, image in found.items():
        same = known[number]
        for key in ("patient", "hygroma", "plane", "fold", "nt_box", "thalami_box", "editable"):
            assert getattr(image, key) == getattr(same, key), (number, key)
        assert np.array_equal(read_grey(image.path), read_grey(same.path))


def test_a_table_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    download = hc18(tmp_path / "download")
    import_hc18(download, tmp_path / "out")
    with pytest.raises(InputError, match="is there already.*--force"):
        import_hc18(download, tmp_path / "out")
    assert import_hc18(download, tmp_path / "out", force=True).table.is_file()


def root(download: Path) -> Path:
    return download / "Dataset for Fetus Framework"


def boxes(download: Path, *rows: list[object], header: list[str] = HEADER) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in ([*header], *rows):
        book.active.append(row)
    book.save(root(download) / "ObjectDetection.xlsx")


def first(path: Path, pattern: str) -> Path:
    return sorted(path.rglob(pattern))[0]


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda d: shutil.rmtree(d), "no such folder"),
    (lambda d: (shutil.rmtree(d), d.write_bytes(b"PK")), "a file, and give the folder of"),
    (lambda d: (shutil.rmtree(root(d)), (d / "Dataset.zip").write_bytes(b"PK")), r"Dataset\.zip lies there: unpack it"),
    (lambda d: shutil.rmtree(first(d, "Set2*")), "no pictures of the sets set2"),
    (lambda d: shutil.rmtree(first(d, "External*")), "no pictures of the sets external"),
    (lambda d: first(d, "*.xlsx").unlink(), r"no ObjectDetection\.xlsx"),
    (lambda d: first(d, "*.xlsx").write_bytes(b"PK\x03\x04 cut off"), "no Excel workbook, or damaged"),
    (lambda d: first(d, "*.xlsx").write_text("fname,structure"), "no Excel workbook, or damaged"),
    (lambda d: first(d, "*.xlsx").write_bytes(first(d, "*.xlsx").read_bytes()[:-200]), "no Excel workbook, or damaged"),
    (lambda d: boxes(d, header=["file", "structure", "x", "y", "w", "h"]), "h_min, w_min, h_max.*missing; expected fname"),
    (lambda d: boxes(d, box_row(2, "NT", NT), box_row(2, "stomach", NT)), "row 3: structure 'stomach' is not known"),
    (lambda d: boxes(d, box_row(9999, "NT", NT)), "row 2: fname '9999.png': no such picture"),
    (lambda d: boxes(d, box_row(2, "NT", (120, 180, 900, 200))), "box of nt to 900 x 200, outside its 640 x 300"),
    (lambda d: boxes(d, box_row(2, "NT", (220, 180, 120, 200))), "row 2: h_min w_min h_max w_max 180 220 200 120"),
    (lambda d: boxes(d, ["2.png", "NT", "top", 1, 2, 3]), "row 2: h_min w_min h_max w_max top 1 2 3"),
    (lambda d: boxes(d, ["2.png", "NT", None, 1, 2, 3]), "row 2: h_min"),
    (lambda d: boxes(d, ["2.png", "NT", float("nan"), 1, 2, 3]), "row 2: "),
    (lambda d: boxes(d, box_row(2, "NT", NT), box_row(2, "NT", THALAMI)), "row 3: a second box of NT in 2.png"),
    (lambda d: first(d, "2.png").write_bytes(first(d, "2.png").read_bytes()[:400]), r"2\.png: "),
    (lambda d: first(d, "2.png").unlink(), "fname '2.png': no such picture in the download"),
    (lambda d: first(d, "2.png").rename(first(d, "2.png").with_name("two.png")), "a number for its name"),
    (lambda d: shutil.copy(first(d, "3.png"), first(d, "Set1*") / "Standard/3.png").write_bytes(first(d, "1.png").read_bytes()),
     "under the same number"),
]  # fmt: skip


@pytest.mark.requirement("P-12")
@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_a_download_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    download = fetus_framework(tmp_path / "download")
    spoil(download)
    with pytest.raises(InputError, match=said):
        import_fetus_framework(download, tmp_path / "out")
    assert not (tmp_path / "out/fetus-framework.csv").exists()


def test_what_systems_leave_in_a_download_is_no_part_of_it(tmp_path: Path) -> None:
    heads, views = hc18(tmp_path / "heads"), fetus_framework(tmp_path / "views")
    for download, folder, name in ((heads, "training_set", "000_HC.png"), (views, "Internal Test Set/Standard", "5.png")):
        for litter in (download / "__MACOSX" / folder / f"._{name}", download / "__MACOSX" / folder / name):
            litter.parent.mkdir(parents=True, exist_ok=True)
            litter.write_bytes(b"x")
    (heads / "training_set/._000_HC.png").write_bytes(b"x")
    first(views, "Set1*").joinpath("Standard/._0.png").write_bytes(b"x")
    assert import_hc18(heads, heads).images["trained on"] == 6
    assert import_hc18(heads, heads, force=True).images["trained on"] == 6  # what it wrote into the download is none of it
    assert import_fetus_framework(views, views).images == import_fetus_framework(views, views, force=True).images


def test_an_import_that_was_cut_leaves_no_table_and_is_made_again(tmp_path: Path) -> None:
    download = hc18(tmp_path / "download")

    def cut(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_hc18(download, tmp_path / "out", on_step=cut)
    assert not (tmp_path / "out/hc18.csv").exists()
    assert len(open_dataset(import_hc18(download, tmp_path / "out").table).images) == 9


def test_a_picture_that_lies_in_two_sets_counts_once(tmp_path: Path) -> None:
    download = fetus_framework(tmp_path / "download")
    shutil.copy(first(download, "2.png"), first(download, "Set2*") / "Standard/2.png")
    found = import_fetus_framework(download, tmp_path / "out")
    assert len([image for image in open_dataset(found.table).images if image.patient == "FF0002"]) == 1


def table_of(download: Path, part: str) -> Path:
    return first(download, f"{part}*.csv")


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


WRONG_HEADS: list[tuple[Callable[[Path], object], str]] = [
    (lambda d: (shutil.rmtree(d), d.with_suffix(".zip").write_bytes(b"PK")), "no such folder"),
    (lambda d: (shutil.rmtree(d / "training_set"), (d / "training_set.zip").write_bytes(b"PK")), r"training_set\.zip lies there"),
    (lambda d: shutil.rmtree(d / "test_set"), "no folder test_set"),
    (lambda d: table_of(d, "training").unlink(), "no training_set_pixel_size_and_HC.csv"),
    (lambda d: edit(table_of(d, "training"), "filename", "name"), "filename missing"),
    (lambda d: edit(table_of(d, "training"), "0.01", "-1"), r"line 2: pixel size\(mm\) '-1'"),
    (lambda d: edit(table_of(d, "training"), "000_HC.png", "001_HC.png"), "a second time"),
    (lambda d: (d / "training_set/000_HC.png").unlink(), "'000_HC.png' is not in .*training_set"),
    (lambda d: shutil.copy(d / "test_set/000_HC.png", d / "test_set/900_HC.png"), "has no row for 900_HC.png"),
    (lambda d: (d / "test_set/000_HC.png").write_bytes(b"\x89PNG"), "000_HC.png: "),
]


@pytest.mark.requirement("P-12")
@pytest.mark.parametrize(("spoil", "said"), WRONG_HEADS, ids=[said[:30] for _, said in WRONG_HEADS])
def test_an_hc18_that_does_not_fit_is_refused(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    download = hc18(tmp_path / "download")
    spoil(download)
    with pytest.raises(InputError, match=said):
        import_hc18(download, tmp_path / "out")
    assert not (tmp_path / "out/hc18.csv").exists()


def test_without_openpyxl_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = fetus_framework(tmp_path / "download")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=re.escape("pip install 'hygroma-edge[import]'")):
        import_fetus_framework(download, tmp_path / "out")


def test_every_fault_of_a_download_is_said(tmp_path: Path) -> None:
    download = fetus_framework(tmp_path / "download")
    boxes(download, box_row(2, "stomach", NT), box_row(9999, "NT", NT), box_row(3, "NT", (5, 5, 1, 1)))
    with pytest.raises(InputError) as refused:
        import_fetus_framework(download, tmp_path / "out")
    assert all(f"row {row}:" in str(refused.value) for row in (2, 3, 4))


def test_the_command_imports_and_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download = hc18(tmp_path / "download")
    assert main(["data", "import", "hc18", str(download), "--out", str(tmp_path / "out")]) == 0
    assert "hc18.csv: 6 trained on, 3 holdout" in capsys.readouterr().out
    assert main(["data", "import", "hc18", str(download), "--out", str(tmp_path / "out")]) == InputError.exit_code
    with (tmp_path / "out/hc18.csv").open(newline="") as file:
        assert {row["plane"] for row in csv.DictReader(file)} == {"other"}
    assert np.asarray(read_grey(tmp_path / "out/hc18/training_set/000_HC.png")).shape == (54, 80)
