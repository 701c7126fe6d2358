"""A user's own images: what is read, and everything that can be wrong with them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")  # the fakes make checkpoints too
pytest.importorskip("sklearn")

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))
from dicoms import cine
from fakes.labelled import write_csv, write_images

from calibration.crops import read_crops
from calibration.dataset import load_dataset, read_image
from calibration.leakage import assign_folds, inner_split, patient_groups, perceptual_hash, same_images
from edge.errors import InputError

Rows = list[dict[str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


def rows(data: Path) -> Rows:
    names = sorted(p.relative_to(data).as_posix() for p in data.rglob("*.png"))
    return [{"path": n, "label": n.split("/")[0], "patient": n[:-6].replace("/", ""), "site": "A"} for n in names]


def test_folders_alone_are_a_data_set(data: Path) -> None:
    found = load_dataset(data)
    assert found.classes == ("normal", "hygroma") and found.table is None
    assert found.labels.tolist() == [0] * 8 + [1] * 8
    assert len({image.patient for image in found.images}) == 16  # nobody knows better


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8", ","), ("utf-8-sig", ";")])
def test_a_csv_says_whose_the_images_are(data: Path, encoding: str, delimiter: str) -> None:
    table = write_csv(data.parent / "p.csv", rows(data)[::-1], encoding, delimiter)
    found = load_dataset(data, table)
    assert [i.name for i in found.images] == [i.name for i in load_dataset(data).images]  # whatever the rows' order
    assert found.images[0].patient == "normal00" and found.images[0].site == "A"


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
        (third_class, "3 folders, hygroma, normal, unsure; two classes are compared"),
        (other_names, "none is 'hygroma'; name the positive one: --positive CH"),
        (loose, "stray.png: outside the class folders; move each"),
        (all_gone, "no such folder; expected a folder per class"),
        (nothing_in_it, "empty; expected a folder per class"),
    ],
)
def test_folders_that_are_no_data_set(data: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(data)
    with pytest.raises(InputError) as error:
        load_dataset(data)
    assert words in str(error.value) and str(data) in str(error.value)


def test_dicom_is_known_by_its_content_and_texts_are_let_be(data: Path) -> None:
    """An archive's files have numbers for names; a still under one is neither refused nor left out in silence."""
    cine(data / "normal/1.2.840.3", [np.full((90, 120), 80, np.uint8)], 40)
    (data / "normal/Thumbs.db").write_bytes(b"x")
    (data / "normal/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found = load_dataset(data)
    assert [image.name for image in found.images if image.label == 0][-1] == "normal/1.2.840.3" and len(found.images) == 17
    assert read_image(data / "normal/1.2.840.3").shape == (90, 120)


def changed(row: int, **cells: str) -> Callable[[Rows], Rows]:
    return lambda many: [{**r, **(cells if i == row else {})} for i, r in enumerate(many)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            changed(0, path="hygroma/00-O.png"),
            "not in the class folders: hygroma/00-O.png (line 2, did you mean hygroma/0",
        ),
        (changed(1, label="Hygroma"), "labels that are no class folder: 'Hygroma' (line 3); write normal or hygroma"),
        (changed(1, label="normal"), "labels other than the folder: hygroma/01-0.png: 'normal' (line 3)"),
        (changed(2, patient=""), "line 4: patient empty; fill it in"),
        (lambda r: r[1:], "has no row for: hygroma/00-0.png; add a row each"),
        (lambda r: [*r, r[0]], "rows for the same image: hygroma/00-0.png (lines 2 and 18)"),
        (lambda r: [{"file": "a"}], "columns file; path, label, patient missing; expected path,label,patient"),
        (lambda r: [{**x, "age": "3"} for x in r], "unknown columns 'age'; known are path, label"),
        (lambda r: [{**x, "plane": "good"} for x in r], "line 2: plane 'good'; expected standard, other or nothing"),
        (lambda r: [{**x, "fold": "4"} for x in r], "line 2: fold '4'; expected 0 to 3"),
        (lambda r: [{**x, "fold": "0" if i else ""} for i, x in enumerate(r)], "fold is empty in 1 of 16 rows"),
    ],
)
def test_a_csv_that_does_not_fit(data: Path, spoil: Callable[[Rows], Rows], words: str) -> None:
    table = write_csv(data.parent / "p.csv", spoil(rows(data)))
    with pytest.raises(InputError) as error:
        load_dataset(data, table)
    assert words in str(error.value) and str(table) in str(error.value)


def test_a_csv_that_is_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; leave --csv out"):
        load_dataset(data, tmp_path / "none.csv")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cut off in the middle of a letter; save it as CSV UTF-8"):
        load_dataset(data, tmp_path / "t.csv")
    (tmp_path / "h.csv").write_text("path,label,patient\n")
    with pytest.raises(InputError, match="has no rows"):
        load_dataset(data, tmp_path / "h.csv")


def test_a_column_given_twice_is_refused(data: Path) -> None:
    table = data.parent / "p.csv"
    table.write_text("path,label,patient,patient\nnormal/00-0.png,normal,a,b\n")
    with pytest.raises(InputError, match="columns 'patient' given more than once"):
        load_dataset(data, table)


def test_unreadable_images_are_named_together(data: Path) -> None:
    (data / "normal/00-0.png").write_bytes(b"")
    (data / "hygroma/03-0.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as error:
        read_crops(load_dataset(data), 32)
    assert "normal/00-0.png" in str(error.value) and "hygroma/03-0.png" in str(error.value)


# -- leakage ----------------------------------------------------------------------------------------------------------


def groups(data: Path, table: Path | None = None) -> list[str]:
    found = load_dataset(data, table)
    return patient_groups(found, same_images(read_crops(found, 32).hashes))


def re_encode(source: Path, target: Path) -> None:
    """The same picture as another file: smaller, brighter, JPEG."""
    import cv2

    image = cv2.imread(str(source), 0)
    image = cv2.resize(np.clip(image * 1.1 + 5, 0, 255).astype(np.uint8), None, fx=0.8, fy=0.8)
    cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 80])


def test_a_copy_under_another_label_is_refused(data: Path) -> None:
    re_encode(data / "normal/00-0.png", data / "hygroma/copy.jpg")
    with pytest.raises(InputError, match=r"the same image under two labels: normal/00-0.png = hygroma/copy.jpg"):
        groups(data)


def test_a_copy_under_another_patient_is_refused_and_without_a_csv_kept_together(data: Path) -> None:
    re_encode(data / "normal/00-0.png", data / "normal/copy.jpg")
    named = dict(zip([i.name for i in load_dataset(data).images], groups(data), strict=True))
    assert named["normal/copy.jpg"] == named["normal/00-0.png"] and len(set(named.values())) == 16
    table = write_csv(
        data.parent / "p.csv",
        [*rows(data), {"path": "normal/copy.jpg", "label": "normal", "patient": "someone", "site": ""}],
    )
    with pytest.raises(
        InputError, match=r"two patients: normal/00-0.png \(patient normal00\) = normal/copy.jpg \(patient s"
    ):
        groups(data, table)


def test_different_pictures_are_not_taken_for_one(data: Path) -> None:
    assert len(set(groups(data))) == 16


def test_a_hash_is_of_the_picture_and_not_of_its_level() -> None:
    image = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint8)
    assert (perceptual_hash(image) == perceptual_hash(image + 40)).mean() > 0.98


def test_folds_are_grouped_stratified_and_repeatable(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "p.csv", write_images(tmp_path / "data", patients=8, each=2))
    found = load_dataset(tmp_path / "data", table)
    who = [i.patient for i in found.images]
    folds = assign_folds(found, who, seed=3)
    assert (folds == assign_folds(found, who, seed=3)).all() and (folds != assign_folds(found, who, seed=4)).any()
    for fold in range(4):
        assert found.labels[folds == fold].tolist().count(1) == 4  # 2 of 8 patients, 2 images each
    assert all(len({f for f, w in zip(folds, who, strict=True) if w == name}) == 1 for name in set(who))


def test_a_patient_in_two_folds_is_refused(data: Path) -> None:
    many = [{**r, "fold": str(i % 4)} for i, r in enumerate(rows(data))]
    found = load_dataset(data, write_csv(data.parent / "p.csv", many))
    assert assign_folds(found, [i.patient for i in found.images], 0).tolist() == [0, 1, 2, 3] * 4
    many[1]["patient"] = many[0]["patient"]
    found = load_dataset(data, write_csv(data.parent / "p.csv", many))
    with pytest.raises(InputError, match=r"patients in two folds: hygroma00: .*in fold 0, .*in fold 1; give each"):
        assign_folds(found, [i.patient for i in found.images], 0)


def test_a_fold_without_a_class_is_refused(data: Path) -> None:
    many = [{**r, "fold": str(i % 3 if r["label"] == "normal" else i % 4)} for i, r in enumerate(rows(data))]
    found = load_dataset(data, write_csv(data.parent / "p.csv", many))
    with pytest.raises(InputError, match="fold 3 has no image of 'normal'"):
        assign_folds(found, [i.patient for i in found.images], 0)


def test_too_few_patients_for_four_folds(tmp_path: Path) -> None:
    write_images(tmp_path / "data", patients=3)
    found = load_dataset(tmp_path / "data")
    with pytest.raises(InputError, match="normal: 3 patients for 4 folds; add images of 1 more"):
        assign_folds(found, [i.patient for i in found.images], 0)


def test_what_is_watched_shares_no_patient_with_what_is_trained_on() -> None:
    labels, who = np.repeat([0, 1], 20), [f"p{i // 2}" for i in range(40)]
    trained, watched = inner_split(labels, who, np.arange(40), seed=0)
    assert sorted([*trained, *watched]) == list(range(40)) and 4 <= len(watched) <= 12
    assert not {who[i] for i in trained} & {who[i] for i in watched}
    assert set(labels[watched]) == set(labels[trained]) == {0, 1}
    with pytest.raises(InputError, match="1 and 10 patients of the two classes"):
        inner_split(labels, ["one"] * 20 + who[20:], np.arange(40), seed=0)
