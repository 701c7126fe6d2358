"""The annotated first-trimester stills, from tables that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.stills import load_stills
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
        ({"manifest": MANIFEST.replace("proposed_split", "split")}, "manifest.csv: columns proposed_split missing"),
        ({"manifest": ""}, "manifest.csv: columns path, source, "),
        ({"boxes": BOXES.replace("y_max", "y")}, "nt_structures.csv: columns y_max missing"),
        ({"boxes": BOXES.replace("1,2,3,4", "1,2,,4")}, "nt_structures.csv: x_max of a.png is ''; expected a number"),
        ({"boxes": BOXES.replace("1,2,3,4", "1,2")}, "nt_structures.csv: x_max of a.png is None; expected a number"),
        ({"manifest": MANIFEST.replace("fetus_framework", "other")}, "names no first-trimester still"),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path: Path, tables: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as error:
        load_stills(write(tmp_path, **tables))
    assert words in str(error.value)
