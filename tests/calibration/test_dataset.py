"""A data set of folders or of a table: what is read, and everything that can be wrong with it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")  # the fakes make checkpoints too
pytest.importorskip("sklearn")

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))
from dicoms import cine
from fakes.labelled import write_csv, write_images

from calibration.crops import read_crops
from calibration.dataset import HOLDOUT, UNKNOWN
from calibration.images import read_image
from calibration.leakage import assign_folds, check_folds, inner_split, patient_groups, perceptual_hash, same_images
from calibration.open_dataset import elsewhere_of, open_dataset, open_datasets, stills_of
from edge.errors import InputError

Rows = list[dict[str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


def rows(data: Path) -> Rows:
    names = sorted(p.relative_to(data).as_posix() for p in data.rglob("*.png"))
    return [
        {"path": n, "hygroma": str(int(n.startswith("h"))), "patient": n[:-6].replace("/", ""), "site": "A"} for n in names
    ]


def test_folders_alone_are_a_data_set(data: Path) -> None:
    found = open_dataset(data)
    assert found.classes == ("normal", "hygroma") and not found.patients_known
    assert found.labels.tolist() == [0] * 8 + [1] * 8
    assert len({image.group for image in found.images}) == 16  # nobody knows better


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8", ","), ("utf-8-sig", ";")])
def test_a_table_says_whose_the_images_are(data: Path, encoding: str, delimiter: str) -> None:
    table = write_csv(data / "p.csv", rows(data)[::-1], encoding, delimiter)
    found = open_dataset(table)
    assert [i.name for i in found.images] == [row["path"] for row in rows(data)[::-1]] and found.patients_known
    assert found.images[-1].patient == "hygroma00" and found.images[-1].site == "A" and found.images[-1].hygroma == 1
    assert [image.path for image in open_dataset(data).images] == [data / image.name for image in open_dataset(data).images]


def test_a_folder_of_other_planes_says_that_the_rest_are_standard(data: Path) -> None:
    assert {image.plane for image in open_dataset(data).images} == {UNKNOWN}
    shutil.copytree(data / "normal", data / "other")
    found = open_dataset(data)
    assert [(i.hygroma, i.plane) for i in found.images] == [(0, 1)] * 8 + [(1, 1)] * 8 + [(UNKNOWN, 0)] * 8
    assert len(found.with_findings().images) == 16


def test_any_two_classes_are_a_data_set(data: Path) -> None:
    (data / "hygroma").rename(data / "cyst")
    (data / "normal").rename(data / "no cyst")
    found = open_dataset(data, "cyst")
    assert found.classes == ("no cyst", "cyst") and found.labels.tolist() == [0] * 8 + [1] * 8


def test_a_table_says_as_much_as_is_known_of_each(data: Path) -> None:
    said = [
        {"plane": "standard", "split": "2", "nt_box": "10 20 30.5 40", "thalami_box": "1 2 3 4", "nt_mm": "2,1", "hygroma": "0"},
        {"plane": "other", "split": "holdout", "hygroma": ""},
        {"split": "exclude"},
        {"split": "2.0", "hygroma": "1.0", "scanner": "Voluson", "mm_per_px": ".1"},
    ]
    columns = ("plane", "split", "nt_box", "thalami_box", "nt_mm", "mm_per_px", "scanner")
    many = [{**dict.fromkeys(columns, ""), **row, **of} for row, of in zip(rows(data), said, strict=False)]
    first, other, last = open_dataset(write_csv(data / "p.csv", many)).images
    assert first.nt_box == (10, 20, 30.5, 40) and first.nt_mm == 2.1 and first.fold == 2 and first.editable
    assert (other.plane, other.hygroma, other.fold, other.editable) == (0, UNKNOWN, HOLDOUT, False)
    assert (last.hygroma, last.plane, last.scanner, last.mm_per_px, last.fold) == (1, UNKNOWN, "Voluson", 0.1, 2)


def test_a_hospitals_own_columns_are_let_be(data: Path) -> None:
    many = [{**row, "age": "31", "remark": "twins"} for row in rows(data)]
    assert open_dataset(write_csv(data / "p.csv", many)).images == open_dataset(write_csv(data / "q.csv", rows(data))).images


def test_several_data_sets_are_used_together_by_names_that_differ(data: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "second", patients=5)
    others = [{"path": row["path"], "plane": "other", "split": "holdout" if i else "train"} for i, row in enumerate(rows(data))]
    shutil.copytree(data, tmp_path / "third")
    table = write_csv(tmp_path / "third/p.csv", others)
    sets = open_datasets([data, tmp_path / "second", table])
    assert len(stills_of(sets)) == 26 == len({still.name for still in stills_of(sets)})
    assert len(elsewhere_of(sets, held_out=False)) == 1 and len(elsewhere_of(sets, held_out=True)) == 15
    with pytest.raises(InputError, match="00-0.png: in two of the data sets; name each image once"):
        open_datasets([data, write_csv(data / "p.csv", rows(data))])


def remove_class(data: Path) -> None:
    shutil.rmtree(data / "normal")


def empty_class(data: Path) -> None:
    for path in (data / "normal").iterdir():
        path.unlink()


def third_class(data: Path) -> None:
    (data / "unsure").mkdir()


def other_names(data: Path) -> None:
    (data / "hygroma").rename(data / "CH")


def loose(data: Path) -> None:
    shutil.copy(data / "normal/00-0.png", data / "stray.png")


def all_gone(data: Path) -> None:
    shutil.rmtree(data)


def nothing_in_it(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def strange_file(data: Path) -> None:
    (data / "normal/clip.gif").write_bytes(b"GIF89a")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (strange_file, "normal: normal/clip.gif: not among the images that are read (.bmp, "),
        (remove_class, "one class only, 'hygroma'; expected a folder per class"),
        (empty_class, "normal: holds no image"),
        (third_class, "3 folders, hygroma, normal, unsure; two classes are compared, and 'other' may lie beside them"),
        (other_names, "none is 'hygroma'; name the positive one: --positive CH"),
        (loose, "stray.png: outside the class folders; move each"),
        (all_gone, "no such file; give a folder per class or a table"),
        (nothing_in_it, "empty; expected a folder per class"),
    ],
)
def test_folders_that_are_no_data_set(data: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(data)
    with pytest.raises(InputError) as error:
        open_dataset(data)
    assert words in str(error.value) and str(data) in str(error.value)


def test_dicom_is_known_by_its_content_and_texts_are_let_be(data: Path) -> None:
    """An archive's files have numbers for names; a still under one is neither refused nor left out in silence."""
    cine(data / "normal/1.2.840.3", [np.full((90, 120), 80, np.uint8)], 40)
    (data / "normal/Thumbs.db").write_bytes(b"x")
    (data / "normal/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found = open_dataset(data)
    assert [image.name for image in found.images if image.label == 0][-1] == "normal/1.2.840.3" and len(found.images) == 17
    assert read_image(data / "normal/1.2.840.3").shape == (90, 120)


def changed(row: int, **cells: str) -> Callable[[Rows], Rows]:
    return lambda many: [{**r, **(cells if i == row else {})} for i, r in enumerate(many)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (changed(0, path="hygroma/00-O.png"), "names files that are not there: hygroma/00-O.png (line 2, did you mean 0"),
        (changed(1, hygroma="yes"), "line 3: hygroma 'yes'; expected 1 or 0, or nothing"),
        (changed(2, patient=""), "patient is empty in 1 of 16 rows; fill it in all of them or in none"),
        (lambda r: [*r, r[0]], "rows for the same image: hygroma/00-0.png (lines 2 and 18)"),
        (lambda r: [{"file": "a"}], "columns file; path missing"),
        (lambda r: [{**x, "Plane": "other"} for x in r], "unknown column 'Plane'; did you mean 'plane'? Known are path, patient"),
        (lambda r: [{**x, "nt_bx": "1 2 3 4"} for x in r], "unknown column 'nt_bx'; did you mean 'nt_box'?"),
        (lambda r: [{**x, "label": "normal"} for x in r], "column 'label': write hygroma, with 1 and 0"),
        (lambda r: [{**x, "fold": "1"} for x in r], "column 'fold': write split"),
        (lambda r: [{**x, "plane": "good"} for x in r], "line 2: plane 'good'; expected standard or other, or nothing"),
        (lambda r: [{**x, "split": "4"} for x in r], "line 2: split '4'; expected a fold (0 to 3), train, holdout or exclude"),
        (lambda r: [{**x, "split": "0" if i else ""} for i, x in enumerate(r)], "split gives a fold in 15 of 16 rows"),
        (lambda r: [{**x, "split": "exclude"} for x in r], "has no rows"),
        (lambda r: [{**x, "nt_box": "1 2 3"} for x in r], "line 2: nt_box '1 2 3'; expected"),
        (lambda r: [{**x, "nt_box": "9 2 3 4"} for x in r], "line 2: nt_box '9 2 3 4'; left must be less than right"),
        (lambda r: [{**x, "nt_mm": "-1"} for x in r], "line 2: nt_mm '-1'; expected a number of 0 or more"),
    ],
)
def test_a_table_that_does_not_fit(data: Path, spoil: Callable[[Rows], Rows], words: str) -> None:
    table = write_csv(data / "p.csv", spoil(rows(data)))
    with pytest.raises(InputError) as error:
        open_dataset(table)
    assert words in str(error.value) and str(table) in str(error.value)


def test_a_table_that_is_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.csv: no such file; give a folder per class or a table"):
        open_dataset(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cut off in the middle of a letter; save it as CSV UTF-8"):
        open_dataset(tmp_path / "t.csv")
    (tmp_path / "h.csv").write_text("path,hygroma,patient\n")
    with pytest.raises(InputError, match="has no rows"):
        open_dataset(tmp_path / "h.csv")


def test_a_column_given_twice_is_refused(data: Path) -> None:
    table = data / "p.csv"
    table.write_text("path,hygroma,patient,patient\nnormal/00-0.png,0,a,b\n")
    with pytest.raises(InputError, match="columns 'patient' given more than once"):
        open_dataset(table)


def test_unreadable_images_are_named_together(data: Path) -> None:
    (data / "normal/00-0.png").write_bytes(b"")
    (data / "hygroma/03-0.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as error:
        read_crops(open_dataset(data), 32)
    assert "normal/00-0.png" in str(error.value) and "hygroma/03-0.png" in str(error.value)


# -- leakage ----------------------------------------------------------------------------------------------------------


def groups(data: Path, table: Path | None = None) -> list[str]:
    found = open_dataset(table or data)
    return patient_groups(found, same_images(read_crops(found, 32).hashes))


def re_encode(source: Path, target: Path) -> None:
    """The same picture as another file: smaller, brighter, JPEG."""
    import cv2

    image = cv2.imread(str(source), 0)
    image = cv2.resize(np.clip(image * 1.1 + 5, 0, 255).astype(np.uint8), None, fx=0.8, fy=0.8)
    cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 80])


def test_a_copy_under_another_label_is_refused(data: Path) -> None:
    re_encode(data / "normal/00-0.png", data / "hygroma/copy.jpg")
    with pytest.raises(InputError, match=r"the same image with two findings: normal/00-0.png = hygroma/copy.jpg"):
        groups(data)


def test_a_copy_under_another_patient_is_refused_and_without_a_table_kept_together(data: Path) -> None:
    re_encode(data / "normal/00-0.png", data / "normal/copy.jpg")
    named = dict(zip([i.name for i in open_dataset(data).images], groups(data), strict=True))
    assert named["normal/copy.jpg"] == named["normal/00-0.png"] and len(set(named.values())) == 16
    table = write_csv(
        data / "p.csv",
        [*rows(data), {"path": "normal/copy.jpg", "hygroma": "0", "patient": "someone", "site": ""}],
    )
    with pytest.raises(
        InputError, match=r"under two patients: normal/00-0.png \(patient normal00\) = normal/copy.jpg \(patient s"
    ):
        groups(data, table)


def test_different_pictures_are_not_taken_for_one(data: Path) -> None:
    assert len(set(groups(data))) == 16


def test_a_hash_is_of_the_picture_and_not_of_its_level() -> None:
    image = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint8)
    assert (perceptual_hash(image) == perceptual_hash(image + 40)).mean() > 0.98


def test_folds_are_grouped_stratified_and_repeatable(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "data/p.csv", write_images(tmp_path / "data", patients=8, each=2))
    found = open_dataset(table)
    who = [i.patient for i in found.images]
    folds = assign_folds(found, who, seed=3)
    assert (folds == assign_folds(found, who, seed=3)).all() and (folds != assign_folds(found, who, seed=4)).any()
    for fold in range(4):
        assert found.labels[folds == fold].tolist().count(1) == 4  # 2 of 8 patients, 2 images each
    assert all(len({f for f, w in zip(folds, who, strict=True) if w == name}) == 1 for name in set(who))


def test_a_patient_in_two_folds_is_refused(data: Path) -> None:
    many = [{**r, "split": str(i % 4)} for i, r in enumerate(rows(data))]
    found = open_dataset(write_csv(data / "p.csv", many))
    assert assign_folds(found, [i.patient for i in found.images], 0).tolist() == [0, 1, 2, 3] * 4
    many[1]["patient"] = many[0]["patient"]
    found = open_dataset(write_csv(data / "p.csv", many))
    with pytest.raises(InputError, match=r"patients in two folds: hygroma00: .*in fold 0, .*in fold 1; give each"):
        assign_folds(found, [i.patient for i in found.images], 0)


def test_a_fold_without_a_class_is_refused(data: Path) -> None:
    many = [{**r, "split": str(i % 3 if r["hygroma"] == "0" else i % 4)} for i, r in enumerate(rows(data))]
    found = open_dataset(write_csv(data / "p.csv", many))
    who = [image.patient for image in found.images]
    with pytest.raises(InputError, match="fold 3 has no image of 'normal'"):
        check_folds(found, who, assign_folds(found, who, 0))


def test_too_few_patients_for_four_folds(tmp_path: Path) -> None:
    write_images(tmp_path / "data", patients=3)
    found = open_dataset(tmp_path / "data")
    who = [image.group for image in found.images]
    with pytest.raises(InputError, match="3 patients with images of 'normal' for 4 folds; add images of 1 more"):
        check_folds(found, who, assign_folds(found, who, 0))
    few = replace(found, images=found.images[:3])
    with pytest.raises(InputError, match="3 patients to train on for 4 folds; add images of 1 more"):
        assign_folds(few, who[:3], 0)


def test_a_patient_trained_on_and_held_out_is_refused(data: Path) -> None:
    many = [{**r, "split": "holdout" if i % 4 == 0 else "train"} for i, r in enumerate(rows(data))]
    folds = assign_folds(open_dataset(write_csv(data / "p.csv", many)), [r["patient"] for r in many], 0)
    assert folds.tolist().count(HOLDOUT) == 4
    many[1]["patient"] = many[0]["patient"]
    with pytest.raises(InputError, match=r"trained on as well as held out: hygroma00 \(hygroma/00-0.png, hygroma/01-0.png\)"):
        groups(data, write_csv(data / "p.csv", many))


def test_what_is_watched_shares_no_patient_with_what_is_trained_on() -> None:
    labels, who = np.repeat([0, 1], 20), [f"p{i // 2}" for i in range(40)]
    trained, watched = inner_split(labels, who, np.arange(40), seed=0)
    assert sorted([*trained, *watched]) == list(range(40)) and 4 <= len(watched) <= 12
    assert not {who[i] for i in trained} & {who[i] for i in watched}
    assert set(labels[watched]) == set(labels[trained]) == {0, 1}
    with pytest.raises(InputError, match="1 and 10 patients of the two classes"):
        inner_split(labels, ["one"] * 20 + who[20:], np.arange(40), seed=0)
