"""A user's own images: a folder per class, and optionally a CSV that says whose they are. Everything that is wrong with them
is said before anything is trained.

    DATA/hygroma/*.png    DATA/normal/*.png    patients.csv: path,label,patient,site,plane,fold

Paths in the CSV are relative to DATA. `site`, `plane` ("standard" or "other") and `fold` (0 to 3) may be missing.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration.naming import some
from calibration.stills import FOLDS
from calibration.table import find_named, name_of, number, one_name, read_table
from edge.capture.dicom import open_cine
from edge.capture.picture import read_picture
from edge.errors import InputError
from edge.kinds import DICOMS, STILLS, is_dicom, is_litter, kind_of
from edge.stills import INDEX

POSITIVE = "hygroma"
NEEDED = ("path", "label", "patient")
KNOWN = (*NEEDED, "site", "plane", "fold")
PLANES = ("", "standard", "other")
UNASSIGNED = -1
IMAGES = f"{', '.join(sorted(STILLS | DICOMS))}, and DICOM by content"
TEXTS = frozenset({".txt", ".csv", ".json", ".xml", ".md", ".db", ".ini"})  # notes, annotations, what Windows leaves


@dataclass(frozen=True)
class LabelledImage:
    """One image. name: its path under the data folder; label: 1 in the positive class's folder, else 0; patient: the CSV's,
    without one the image's own name; fold: the CSV's, or UNASSIGNED."""

    path: Path
    name: str
    label: int
    patient: str
    site: str = ""
    plane: str = ""
    fold: int = UNASSIGNED


@dataclass(frozen=True)
class Dataset:
    """classes: names of the negative and the positive class. table: the CSV; None: nobody knows whose the images are."""

    folder: Path
    classes: tuple[str, str]
    images: list[LabelledImage]
    table: Path | None

    @property
    def labels(self) -> np.ndarray:
        """int [N], 1 positive."""
        return np.array([image.label for image in self.images])


def load_dataset(folder: Path, table: Path | None = None, positive: str = POSITIVE) -> Dataset:
    """The images of both class folders, by name, none of them decoded yet. InputError names what does not fit, and the fix."""
    classes = _classes(folder, one_name(positive))
    images = []
    for label, kind in enumerate(classes):
        files, others = find_images(find_named(folder, kind))
        if others:  # left out in silence they would be lost data
            raise InputError(
                f"{folder / kind}: {some(name_of(p, folder) for p in others)}: not among the images that are read "
                f"({IMAGES}); export them as PNG, or move them away"
            )
        if not files:
            raise InputError(f"{folder / kind}: holds no image ({IMAGES}); two classes are needed")
        names = [name_of(p, folder) for p in files]
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise InputError(f"{folder / kind}: two files of one name, written differently: {some(twice)}; rename one of each")
        images += [LabelledImage(p, name, label, patient=name) for p, name in zip(files, names, strict=True)]
    if table is not None:
        images = _with_table(images, classes, table)
    return Dataset(folder, classes, images, table)


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every image under `folder`, by name: by their endings, and DICOM by content too, since an archive's files have numbers for
    names. And what else lies there, texts aside. What systems leave in folders (`edge.kinds.is_litter`) is neither."""
    images, others = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not is_litter(p, folder)):
        if _is_image(path) or (path.name != INDEX and _looks_like_dicom(path)):
            images.append(path)
        elif path.name != INDEX and path.suffix.lower() not in TEXTS:
            others.append(path)
    return images, others


def read_image(path: Path) -> np.ndarray:
    """uint8 grey [H,W] or BGR [H,W,3]. InputError as `read_picture` and `open_cine` have them, and for a clip."""
    try:
        if kind_of(path) != "dicom":
            return read_picture(path)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check its name and its rights") from None
    cine = open_cine(path)
    if cine.count != 1:
        raise InputError(f"{path}: a clip of {cine.count} frames; export the labelled frame as a picture")
    ((_, image),) = cine.square_pictures()
    return image


def _looks_like_dicom(path: Path) -> bool:
    """A file that cannot be opened is none: it is named where it is read."""
    try:
        return is_dicom(path)
    except OSError:
        return False


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in STILLS | DICOMS and not is_litter(path)


def _classes(folder: Path, positive: str) -> tuple[str, str]:
    layout = f"expected a folder per class, such as {folder}/{POSITIVE} and {folder}/normal"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {layout}")
    found = sorted(name_of(p, folder) for p in folder.iterdir() if p.is_dir() and not is_litter(p))
    loose = [p.name for p in sorted(folder.iterdir()) if _is_image(p)]
    if loose:
        raise InputError(f"{folder}: {some(loose)}: outside the class folders; move each into the folder of its class")
    if not found:
        raise InputError(f"{folder}: empty; {layout}")
    if len(found) == 1:
        raise InputError(f"{folder}: one class only, {found[0]!r}; {layout}")
    if len(found) > 2:
        raise InputError(
            f"{folder}: {len(found)} folders, {some(found)}; two classes are compared: move the others away"
        )
    if positive not in found:
        raise InputError(
            f"{folder}: classes {found[0]!r} and {found[1]!r}, none is {positive!r}; name the positive one: --positive {found[0]}"
        )
    return found[0] if found[1] == positive else found[1], positive


def _with_table(images: list[LabelledImage], classes: tuple[str, str], table: Path) -> list[LabelledImage]:
    """The images with what their rows say."""
    by_name = {image.name: image for image in images}
    out: dict[str, LabelledImage] = {}
    lines: dict[str, int] = {}
    missing, unknown, conflicts, twice = [], [], [], []
    for line, row in _rows(table):
        name = one_name(row["path"])
        if name in lines:
            twice.append(f"{name} (lines {lines[name]} and {line})")
            continue
        lines[name] = line
        row["label"] = unicodedata.normalize("NFC", row["label"])
        if row["label"] not in classes:
            unknown.append(f"{row['label']!r} (line {line})")
        elif name not in by_name:
            close = difflib.get_close_matches(name, by_name, 1)
            missing.append(f"{name} (line {line}{f', did you mean {close[0]}?' if close else ''})")
        elif row["label"] != classes[by_name[name].label]:
            conflicts.append(f"{name}: {row['label']!r} (line {line})")
        else:
            out[name] = replace(
                by_name[name],
                patient=row["patient"],
                site=row.get("site", ""),
                plane=row.get("plane", ""),
                fold=_fold(row.get("fold", ""), table, line),
            )
    absent = [name for name in by_name if name not in lines]
    for found, what, fix in (
        (twice, "rows for the same image", "keep one row each"),
        (unknown, "labels that are no class folder", f"write {classes[0]} or {classes[1]}"),
        (missing, "names files that are not in the class folders", "correct the paths (relative to the data folder)"),
        (conflicts, "labels other than the folder", "move the image or correct the row"),
        (absent, "has no row for", "add a row each, or move the images away"),
    ):
        if found:
            raise InputError(f"{table}: {what}: {some(found)}; {fix}")
    folds = Counter(image.fold == UNASSIGNED for image in out.values())
    if len(folds) == 2:
        raise InputError(
            f"{table}: fold is empty in {folds[True]} of {len(out)} rows; fill it in all of them or in none"
        )
    return [out[image.name] for image in images]


def _fold(text: str, table: Path, line: int) -> int:
    if text == "":
        return UNASSIGNED
    found = number(text)  # a spreadsheet may write 1 as 1.0
    if found is None or found not in range(FOLDS):
        raise InputError(f"{table}, line {line}: fold {text!r}; expected 0 to {FOLDS - 1}, or nothing")
    return int(found)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and cells."""
    table = read_table(path, NEEDED, "leave --csv out if there is none")
    strange = [column for column in table.columns if column not in KNOWN]
    if strange:
        raise InputError(
            f"{path}: unknown columns {some(map(repr, strange))}; known are {', '.join(KNOWN)}: remove the others"
        )
    for row in table.rows:
        empty = [column for column in NEEDED if not row.cells[column]]
        if empty:
            raise InputError(f"{path}, line {row.line}: {some(empty)} empty; fill it in")
        if row.cells.get("plane", "") not in PLANES:
            raise InputError(f"{path}, line {row.line}: plane {row.cells['plane']!r}; expected standard, other or nothing")
    if not table.rows:
        raise InputError(f"{path}: has no rows; add one for each image, or leave --csv out")
    return [(row.line, row.cells) for row in table.rows]
