"""The annotated first-trimester stills, from tables that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.stills import check_data, load_stills
from edge.errors import InputError

COLUMNS = "path,source,kind,patient_or_video_id,label,proposed_split,sha256\n"
MANIFEST = COLUMNS + "a.png,fetus_framework,still,p,standard plane,train,0\n"
BOXES = "path,structure,x_min,y_min,x_max,y_max\na.png,NT,1,2,3,4\na.png,thalami,1,2,30,40\n"
FLAGS = "path,nt_over_thalami_size,by_eye_increased_nt\na.png,0.1,1\n"


def write(folder: Path, manifest: str = MANIFEST, boxes: str = BOXES, flags: str = FLAGS) -> Path:
    (folder / "ultrasound").mkdir()
    (folder / "manifest.csv").write_text(manifest)
    (folder / "ultrasound/nt_structures.csv").write_text(boxes)
    (folder / "ultrasound/nt_weak_flags.csv").write_text(flags)
    return folder


def test_a_still_with_its_boxes(tmp_path: Path) -> None:
    (still,) = load_stills(write(tmp_path))
    assert still.plane and still.by_eye_increased and still.anatomy is not None and still.anatomy.nt == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"manifest": MANIFEST.replace("proposed_split", "split")}, "; proposed_split missing; expected path,source,kind"),
        ({"manifest": ""}, "manifest.csv: columns none; path, source, "),
        ({"boxes": BOXES.replace("y_max", "y")}, "; y_max missing; expected path,structure,"),
        ({"boxes": BOXES.replace("1,2,3,4", "1,2,,4")}, "nt_structures.csv: x_max of a.png is ''; expected a number"),
        ({"boxes": BOXES.replace("1,2,3,4", "1,2")}, "nt_structures.csv: x_max of a.png is ''; expected a number"),
        ({"manifest": MANIFEST.replace("fetus_framework", "other")}, "names no first-trimester still"),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path: Path, tables: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as error:
        load_stills(write(tmp_path, **tables))
    assert words in str(error.value)


# -- what is asked before training

OVARY = ("mmotu", "ood_hard_negative")
ROWS = [  # path, source, label, split, patient, sha256
    ("a.png", "fetus_framework", "standard plane", "train", "p1", "01"),
    ("b.png", "fetus_framework", "other", "train", "p2", "02"),
    ("c.png", "fetus_framework", "standard plane", "validation", "p3", "03"),
    ("d.png", "hc18", "head", "train", "p4", "04"),
    ("e.png", "mmotu", "cyst", "ood_hard_negative", "p5", "05"),
    ("f.png", "mmotu", "cyst", "unused", "p6", "06"),
]
Rows = list[tuple[str, ...]]


def asked(folder: Path, rows: Rows, boxes: str = "ac", gone: str = "f") -> None:
    """`boxes`, `gone`: names of the stills that have boxes, and of the files that are not there."""
    manifest = COLUMNS + "".join(f"{p},{s},still,{who},{label},{split},{sha}\n" for p, s, label, split, who, sha in rows)
    lines = "".join(f"{n}.png,NT,1,2,3,4\n{n}.png,thalami,1,2,30,40\n" for n in boxes)
    write(folder, manifest, BOXES.partition("\n")[0] + "\n" + lines, FLAGS.partition("\n")[0] + "\nb.png,,\n")
    for path, *_ in rows:
        if path[0] not in gone:
            (folder / path).touch()
    check_data(folder, [OVARY])


def changed(row: int, column: int, value: str) -> Rows:
    return [tuple(value if (i, j) == (row, column) else cell for j, cell in enumerate(r)) for i, r in enumerate(ROWS)]


def test_data_that_training_can_use_is_not_refused(tmp_path: Path) -> None:
    asked(tmp_path, ROWS)  # f.png, which nothing reads, is not there


@pytest.mark.parametrize(
    ("rows", "boxes", "gone", "words"),
    [
        (changed(1, 2, "standard plane"), "ac", "f", "found 2 standard planes among 2 training stills; the plane head needs"),
        (changed(0, 2, "other"), "ac", "f", "found 0 standard planes among 2 training stills"),
        (changed(2, 3, "test"), "ac", "f", "found 0 stills with proposed_split `validation`, 0 of them standard"),
        (changed(2, 2, "other"), "ac", "f", "found 1 stills with proposed_split `validation`, 0 of them standard"),
        (ROWS, "a", "f", "found 1 stills with proposed_split `validation`, 1 of them standard planes, none with boxes"),
        (ROWS, "c", "f", "found 2 stills with proposed_split `train`, 1 of them standard planes, none with boxes"),
        (changed(2, 4, "p2"), "ac", "f", "patients in both train and validation: p2 (b.png, c.png); give all stills of one"),
        (changed(2, 5, "01"), "ac", "f", "identical files in both train and validation: 01 (a.png, c.png); give all"),
        (ROWS, "ac", "b", "names files that are not in "),
        (ROWS, "ac", "de", "d.png, e.png; restore them or remove their rows"),
        (ROWS, "ac", "abcde", "a.png, b.png, c.png and 2 more; restore"),
    ],
)
def test_data_that_would_fail_after_hours_is_refused(
    tmp_path: Path, rows: Rows, boxes: str, gone: str, words: str
) -> None:
    with pytest.raises(InputError) as error:
        asked(tmp_path, rows, boxes, gone)
    assert words in str(error.value) and str(tmp_path / "manifest.csv") in str(error.value)


def test_the_data_that_the_shipped_model_was_made_of_passes() -> None:
    unfamiliar = pytest.importorskip("export.report.other_anatomy")
    data = Path(__file__).parents[3] / "shared/data"
    if not data.is_dir():
        pytest.skip(f"{data}: not on this machine")
    check_data(data, unfamiliar.SOURCES)
