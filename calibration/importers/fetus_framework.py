"""The Dataset for Fetus Framework (Mendeley Data n2rbrb9t4f): first-trimester nuchal views with boxes of nine structures.

The download holds numbered pictures in four sets, each with folders of standard and of other planes, and `ObjectDetection.xlsx`
with a row a box. A number is one picture, whatever set it lies in, of about one woman.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.dataset_table import EXCLUDED, HELD_OUT
from calibration.images import is_image
from calibration.importers.written import (
    Imported,
    Row,
    box_text,
    counted,
    read_still,
    require_download,
    require_new,
    scaled,
    still_packed,
    write_dataset,
    write_still,
)
from calibration.lesion import Box, NuchalAnatomy, measured_mm
from calibration.naming import lines, some
from calibration.origin import Origin
from calibration.table import read_table
from edge.errors import InputError
from edge.kinds import is_litter

NAME = "fetus-framework"
ORIGIN = Origin(
    name="Dataset for Fetus Framework",
    licence="CC BY 4.0",
    citation='Cui C, Dong F (2022), "Dataset for Fetus Framework", Mendeley Data V1, doi:10.17632/n2rbrb9t4f.1',
    limits=[
        "The real nuchal views come from one hospital and its branch, most from one or two scanner makers, at 11 to 14 weeks. "
        "Other makes, presets and populations are untested."
    ],
)
BOXES_FILE = "ObjectDetection.xlsx"
COLUMNS = ("fname", "structure", "h_min", "w_min", "h_max", "w_max")
HOSPITAL, BRANCH = "Shenzhen People's Hospital", "Longhua branch of Shenzhen People's Hospital"
SETS = {"set1": HOSPITAL, "set2": HOSPITAL, "internal": HOSPITAL, "external": BRANCH}  # how their folders' names begin -> site
TRAINED_SETS = ("set1", "set2")  # the other two are the authors' tests
PLANES = {"standard": "standard", "nonstandard": "other"}  # folders, by their letters
NT, THALAMI = "nt", "thalami"
STRUCTURES = frozenset({  # by their letters and digits; the two above are used
    NT, THALAMI, "nuchaltranslucency", "midbrain", "palate", "4thventricle", "fourthventricle", "fourthventricleit", "it",
    "intracranialtranslucency", "cisternamagna", "cisternaemagna", "cm", "nasalbone", "nasaltip", "nasalskin",
})  # fmt: skip
ALIASES = {"nuchaltranslucency": NT}
COPIES = {458: 134, 1105: 1104}  # of one picture, under two numbers: they count as one woman's
INCREASED = frozenset({0, 169, 266, 803})  # look thickened to us, no clinical label: they are neither healthy nor sick
BEYOND_PX = 1.0  # a box may end so far outside its picture: annotators round
LEAST_PX = 4.0  # side of a box in a still that a thickness is measured in


@dataclass(frozen=True)
class _Picture:
    number: int
    path: Path
    site: str
    plane: str
    trained: bool  # its set is no test of the authors'


def import_fetus_framework(
    download: Path, out: Path, force: bool = False, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Imported:
    """Writes OUT/fetus-framework.csv, its stills (grey, 512 pixels at most) and its origin. `split`: the shipped bundle's folds
    and held-out images; what that bundle was not made of is excluded. InputError names everything in the download that does not
    fit."""
    table = out / f"{NAME}.csv"
    require_new(table, force)
    pictures = _pictures(require_download(download))
    boxes = _boxes(_boxes_file(download), pictures)
    splits = shipped_splits()
    rows: list[Row] = []
    bad: list[str] = []
    out.mkdir(parents=True, exist_ok=True)
    for done, picture in enumerate(pictures.values()):
        on_step(done, len(pictures))
        try:
            rows.append(_row(picture, boxes[picture.number], splits, out))
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError(lines(bad))
    write_dataset(table, rows, ORIGIN)
    return Imported(table, counted(rows), _notes(rows, splits))


def shipped_splits() -> dict[str, str]:
    """A fold or `holdout` by patient, of the images that the shipped bundle was made of and judged on."""
    rows = read_table(Path(__file__).parents[1] / "shipped_folds.csv", ("patient", "fold")).rows
    return {row.cells["patient"]: row.cells["fold"] for row in rows}


def patient_of(number: int) -> str:
    return f"FF{COPIES.get(number, number):04d}"


def _row(picture: _Picture, boxes: dict[str, Box], splits: dict[str, str], out: Path) -> Row:
    grey, scale = read_still(picture.path)
    height, width = (side / scale for side in grey.shape)
    for structure, box in boxes.items():
        if box[2] > width + BEYOND_PX or box[3] > height + BEYOND_PX:
            raise InputError(
                f"{picture.path}: {BOXES_FILE} has a box of {structure} to {box[2]:g} x {box[3]:g}, outside its {width:.0f} x "
                f"{height:.0f} pixels; one of the two is of another version, or damaged: download them again"
            )
    own = {structure: scaled(box, scale) for structure, box in boxes.items()}
    name = f"{NAME}/{picture.number:04d}.png"
    write_still(out / name, grey)
    patient = patient_of(picture.number)
    healthy = picture.plane == "standard" and picture.number not in INCREASED
    split = splits.get(patient, EXCLUDED) if picture.trained else EXCLUDED
    thickness = ""
    if split != EXCLUDED and all(min(b[2] - b[0], b[3] - b[1]) >= LEAST_PX for b in own.values()) and {NT, THALAMI} <= own.keys():
        thickness = f"{measured_mm(grey, NuchalAnatomy.of(own[NT], own[THALAMI])):.3f}"
    return {
        "path": name,
        "patient": patient,
        "site": picture.site,
        "hygroma": "0" if healthy else "",
        "plane": picture.plane,
        "split": split,
        "nt_box": box_text(own[NT]) if NT in own else "",
        "thalami_box": box_text(own[THALAMI]) if THALAMI in own else "",
        "nt_mm": thickness,
    }


def _notes(rows: Sequence[Row], splits: dict[str, str]) -> list[str]:
    notes = []
    here = {row["patient"] for row in rows if row["split"] != EXCLUDED}
    if missing := sorted(splits.keys() - here):
        notes.append(
            f"{len(missing)} of the {len(splits)} patients that the shipped bundle was made of and judged on are missing "
            f"({some(missing)}): a bundle made of this table is another one; download the rest"
        )
    if excluded := sum(row["split"] == EXCLUDED for row in rows):
        notes.append(
            f"{excluded} images are excluded, which the shipped bundle was neither made of nor judged on: the authors' test "
            f"sets, copies of these, and what its makers did not have; to judge on them give them `{HELD_OUT}` in column split, "
            "to train on them a fold"
        )
    return notes


# -- the pictures -------------------------------------------------------------------------------------------------------


def _pictures(download: Path) -> dict[int, _Picture]:
    """By number, in order."""
    found: dict[int, _Picture] = {}
    bad: list[str] = []
    in_sets: dict[str, int] = dict.fromkeys(SETS, 0)
    for path in sorted(p for p in download.rglob("*") if is_image(p) and not is_litter(p, download)):
        folders = [_letters(part) for part in path.relative_to(download).parts[:-1]]
        kinds = [name for name in SETS for folder in folders if folder.startswith(name)]
        planes = [PLANES[folder] for folder in folders if folder in PLANES]
        if not kinds:
            continue  # the authors' figures, or what a user keeps there
        if not planes or not path.stem.isdecimal():
            bad.append(f"{path}: expected a picture with a number for its name in a folder Standard or Non-standard")
            continue
        in_sets[kinds[-1]] += 1
        picture = _Picture(int(path.stem), path, SETS[kinds[-1]], planes[-1], kinds[-1] in TRAINED_SETS)
        other = found.setdefault(picture.number, picture)
        if other is not picture and (other.plane != picture.plane or other.path.read_bytes() != path.read_bytes()):
            bad.append(f"{path}: another picture than {other.path}, under the same number")
    if empty := [name for name, n in in_sets.items() if not n]:
        whole = "Set1-..., Set2-..., Internal Test Set and External Test Set, each with Standard or Non-standard"
        raise InputError(
            f"{download}: no pictures of the sets {some(empty)}{still_packed(download)}; expected the whole download: {whole}"
        )
    if bad:
        raise InputError(lines(bad))
    return dict(sorted(found.items()))


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


# -- the boxes ----------------------------------------------------------------------------------------------------------


def _boxes_file(download: Path) -> Path:
    found = sorted(p for p in download.rglob("*.xlsx") if p.name.lower() == BOXES_FILE.lower())
    if not found:
        raise InputError(f"{download}: no {BOXES_FILE}{still_packed(download)}; it is part of the download: add it")
    if any(path.read_bytes() != found[0].read_bytes() for path in found[1:]):
        raise InputError(f"{found[1]}: another one than {found[0]}; keep that of the download")
    return found[0]


def _boxes(path: Path, pictures: dict[int, _Picture]) -> dict[int, dict[str, Box]]:
    """Pixels of the pictures as they were downloaded, by number and structure: of the two that are used."""
    header, *rows = _cells(path)
    names = [str(cell).strip().lower() if cell is not None else "" for cell in header]
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(
            f"{path}: columns {some(filter(None, names)) or 'none'}; {some(missing)} missing; expected {', '.join(COLUMNS)}"
        )
    at = [names.index(name) for name in COLUMNS]
    out: dict[int, dict[str, Box]] = defaultdict(dict)
    bad: list[str] = []
    for line, cells in enumerate(rows, 2):
        if all(cell is None for cell in cells):
            continue
        where = f"{path}, row {line}"
        name, structure, *corners = (cells[i] for i in at)
        number = Path(str(name)).stem
        known = ALIASES.get(_letters(str(structure)), _letters(str(structure)))
        if not number.isdecimal() or int(number) not in pictures:
            bad.append(f"{where}: fname {str(name)!r}: no such picture in the download; unpack all of it")
        elif known not in STRUCTURES:
            bad.append(f"{where}: structure {str(structure)!r} is not known; expected NT, thalami, or another of the nine")
        elif (box := _box(corners)) is None:
            shown = " ".join(str(corner) for corner in corners)
            bad.append(f"{where}: h_min w_min h_max w_max {shown}; expected pixels from 0, either minimum below its maximum")
        elif known in (NT, THALAMI) and out[int(number)].setdefault(known, box) != box:
            bad.append(f"{where}: a second box of {structure} in {name}; keep one")
    if bad:
        raise InputError(lines(bad))
    return out


def _cells(path: Path) -> list[tuple[Any, ...]]:
    """The rows of the workbook's first sheet."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path}: reading it takes openpyxl; pip install 'hygroma-edge[import]'") from None
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        rows = [tuple(row) for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # zip, XML and openpyxl's own each have their kinds
        raise InputError(f"{path}: no Excel workbook, or damaged ({type(error).__name__}); download it again") from None
    if not rows:
        raise InputError(f"{path}: empty; download it again")
    return rows


def _box(corners: Sequence[Any]) -> Box | None:
    """Left, top, right, bottom; None for what is no box."""
    try:
        y0, x0, y1, x1 = (float(corner) for corner in corners)
    except (TypeError, ValueError):
        return None
    sound = all(map(math.isfinite, (x0, y0, x1, y1))) and 0 <= x0 < x1 and 0 <= y0 < y1
    return (x0, y0, x1, y1) if sound else None
