"""A data set as a table, a row an image (docs/data.md)."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from calibration.dataset import (
    FOLDS,
    HOLDOUT,
    NEGATIVE,
    OTHER_PLANE,
    POSITIVE,
    STANDARD_PLANE,
    UNASSIGNED,
    UNKNOWN,
    Dataset,
    LabelledImage,
)
from calibration.lesion import Box
from calibration.naming import NAMED, lines, some
from calibration.table import Row, Table, find_named, number, one_name, read_table
from edge.errors import InputError

COLUMNS = (
    "path", "patient", "site", "hygroma", "plane", "split", "nt_box", "thalami_box", "nt_mm", "mm_per_px", "scanner",
)  # fmt: skip
RENAMED = {"label": "hygroma, with 1 and 0", "fold": "split"}  # of a column in older tables
OLD_LAYOUT = (
    "the layout that recipes read up to 0.6.2; name a table of docs/data.md: `hygroma data import` makes one of either public "
    "data set"
)
FINDINGS = {"1": 1.0, "0": 0.0, "": UNKNOWN}
PLANES = {"standard": STANDARD_PLANE, "other": OTHER_PLANE, "": UNKNOWN}
TRAIN, HELD_OUT, EXCLUDED = "train", "holdout", "exclude"
SPLITS = {TRAIN: UNASSIGNED, "": UNASSIGNED, HELD_OUT: HOLDOUT} | {str(fold): fold for fold in range(FOLDS)}

log = logging.getLogger("hygroma.data")

T = TypeVar("T")


def read_dataset(path: Path, columns: Sequence[str] = ()) -> Dataset:
    """The rows that are not excluded, each with its file. InputError names the line, the column, what was found and the fix."""
    found, faults = inspect_dataset(path, columns)
    if faults:
        raise InputError(lines(faults))
    return found


def inspect_dataset(path: Path, columns: Sequence[str] = (), most: int = NAMED) -> tuple[Dataset, list[str]]:
    """The rows that can be read, and everything that is wrong with the table. most: images that a fault names. InputError where
    it is none."""
    table = read_table(path, ("path",), "give a folder per class or a table (docs/data.md)")
    faults = _wrong_columns(table, columns)
    folder, images, named = path.parent, list[LabelledImage](), dict[str, int]()
    twice, missing = [], []
    for row in table.rows:
        image, wrong = _image(path, folder, row, columns)
        faults += wrong
        if image is None:
            continue
        if image.name in named:
            twice.append(f"{image.name} (lines {named[image.name]} and {row.line})")
            continue
        named[image.name] = row.line
        if image.path.is_file():
            images.append(image)
        else:
            missing.append(f"{image.name} (line {row.line}{_close(image.path)})")
    for found, what, fix in (
        (twice, "rows for the same image", "keep one row each"),
        (missing, "names files that are not there", f"correct the paths (relative to {folder})"),
    ):
        if found:
            faults.append(f"{path}: {what}: {some(found, most)}; {fix}")
    if not images and not faults:
        faults.append(f"{path}: has no rows; add one for each image")
    faults += _half_filled(path, images)
    return Dataset(path, folder, (NEGATIVE, POSITIVE), images, patients_known=any(image.patient for image in images)), faults


def is_old_layout(columns: Collection[str]) -> bool:
    """Whether these are the columns of `manifest.csv`, which recipes read up to 0.6.2."""
    return {"source", "kind", "proposed_split"} <= set(columns)


def _wrong_columns(table: Table, columns: Sequence[str]) -> list[str]:
    if is_old_layout(table.columns):
        raise InputError(f"{table.path}: {OLD_LAYOUT}")
    faults = [
        f"{table.path}: column {old!r}: write {new} (docs/data.md)"
        for old, new in RENAMED.items()
        if old in table.columns and old not in columns
    ]
    known = (*COLUMNS, *columns)
    strange = [column for column in table.columns if column not in known and column not in RENAMED]
    absent = [column for column in known if column not in table.columns]
    for column in strange:
        if close := difflib.get_close_matches(column.lower(), absent, 1):
            faults.append(f"{table.path}: unknown column {column!r}; did you mean {close[0]!r}? Known are {', '.join(known)}")
    if strange:
        log.info("%s: columns that are not read: %s", table.path, some(strange))
    return faults


def _half_filled(path: Path, images: Sequence[LabelledImage]) -> list[str]:
    """What is filled in for all of them or for none: a half-filled column would be guessed at."""
    faults = []
    if 0 < (empty := sum(not image.patient for image in images)) < len(images):
        faults.append(f"{path}: patient is empty in {empty} of {len(images)} rows; fill it in all of them or in none")
    folds = Counter(image.fold == UNASSIGNED for image in images if image.fold != HOLDOUT)
    if len(folds) == 2:
        faults.append(
            f"{path}: split gives a fold in {folds[False]} of {folds[True] + folds[False]} rows that are trained on; give one "
            f"(0 to {FOLDS - 1}) in all of them, or `train` in all"
        )
    return faults


def _image(path: Path, folder: Path, row: Row, columns: Sequence[str]) -> tuple[LabelledImage | None, list[str]]:
    """And what is wrong with the row; None for one that is excluded or without a path."""
    cells = row.cells
    where = f"{path}, line {row.line}"
    split = cells.get("split", "").lower()
    if split == EXCLUDED:
        return None, []
    if not cells["path"]:
        return None, [f"{where}: path empty; fill it in"]
    written = number(split)
    if written is not None and math.isfinite(written) and written == int(written):
        split = str(int(written))  # a spreadsheet may write 1 as 1.0

    def one_of(column: str, known: dict[str, T], words: str, text: str | None = None) -> T:
        text = cells.get(column, "") if text is None else text
        if text not in known:
            raise InputError(f"{where}: {column} {cells[column]!r}; expected {words}, or nothing")
        return known[text]

    def measure(column: str, least: float) -> float | None:
        if not cells.get(column):
            return None
        found = number(cells[column])
        if found is None or not math.isfinite(found) or found < least:
            raise InputError(
                f"{where}: {column} {cells[column]!r}; expected a number {'above 0' if least else 'of 0 or more'}, or nothing"
            )
        return found

    def finding(column: str) -> float:
        found = number(cells.get(column, ""))
        text = str(int(found)) if found in (0.0, 1.0) else cells.get(column, "")
        return one_of(column, FINDINGS, "1 or 0", text)

    readers: dict[str, Callable[[], Any]] = {
        "hygroma": lambda: finding("hygroma"),
        "plane": lambda: one_of("plane", PLANES, "standard or other", cells.get("plane", "").lower()),
        "fold": lambda: one_of("split", SPLITS, f"a fold (0 to {FOLDS - 1}), {TRAIN}, {HELD_OUT} or {EXCLUDED}", split),
        "nt_box": lambda: _box(where, "nt_box", cells.get("nt_box", "")),
        "thalami_box": lambda: _box(where, "thalami_box", cells.get("thalami_box", "")),
        "nt_mm": lambda: measure("nt_mm", 0.0),
        "mm_per_px": lambda: measure("mm_per_px", math.ulp(0.0)),
        "labels": lambda: {column: found for column in columns if (found := finding(column)) != UNKNOWN},
    }
    read: dict[str, Any] = {}
    faults = []
    for field, reader in readers.items():
        try:
            read[field] = reader()
        except InputError as error:
            faults.append(str(error))
    read |= {column: cells.get(column, "") for column in ("patient", "site", "scanner")}
    return LabelledImage(find_named(folder, cells["path"]), one_name(cells["path"]), **read), faults


def _box(where: str, column: str, text: str) -> Box | None:
    if not text:
        return None
    sides = [number(part) for part in re.split(r"[\s;|]+", text.strip(" ()[]"))]
    if len(sides) != 4 or any(side is None or not math.isfinite(side) for side in sides):
        raise InputError(f"{where}: {column} {text!r}; expected left, top, right and bottom in pixels, such as 210 180 262 204")
    x0, y0, x1, y1 = (float(side) for side in sides if side is not None)
    if x0 >= x1 or y0 >= y1 or x0 < 0 or y0 < 0:
        raise InputError(f"{where}: {column} {text!r}; left must be less than right, top less than bottom, and none below 0")
    return x0, y0, x1, y1


def _close(path: Path) -> str:
    try:
        close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
    except OSError:
        return ""
    return f", did you mean {close[0]}?" if close else ""
