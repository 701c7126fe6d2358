"""A data set as a table, a row an image (docs/data.md)."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
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
from calibration.naming import some
from calibration.table import Row, Table, find_named, number, one_name, read_table
from edge.errors import InputError

COLUMNS = (
    "path", "patient", "site", "hygroma", "plane", "split", "nt_box", "thalami_box", "nt_mm", "mm_per_px", "scanner",
)  # fmt: skip
RENAMED = {"label": "hygroma, with 1 and 0", "fold": "split"}  # of a column in older tables
FINDINGS = {"1": 1.0, "0": 0.0, "": UNKNOWN}
PLANES = {"standard": STANDARD_PLANE, "other": OTHER_PLANE, "": UNKNOWN}
TRAIN, HELD_OUT, EXCLUDED = "train", "holdout", "exclude"
SPLITS = {TRAIN: UNASSIGNED, "": UNASSIGNED, HELD_OUT: HOLDOUT} | {str(fold): fold for fold in range(FOLDS)}

log = logging.getLogger("hygroma.data")

T = TypeVar("T")


def read_dataset(path: Path, columns: Sequence[str] = ()) -> Dataset:
    """The rows that are not excluded, each with its file. InputError names the line, the column, what was found and the fix."""
    table = read_table(path, ("path",), "give a folder per class or a table (docs/data.md)")
    _check_columns(table, columns)
    folder, images, lines = path.parent, [], dict[str, int]()
    twice, missing = [], []
    for row in table.rows:
        image = _image(path, folder, row, columns)
        if image is None:
            continue
        if image.name in lines:
            twice.append(f"{image.name} (lines {lines[image.name]} and {row.line})")
            continue
        lines[image.name] = row.line
        if not image.path.is_file():
            missing.append(f"{image.name} (line {row.line}{_close(image.path)})")
        images.append(image)
    for found, what, fix in (
        (twice, "rows for the same image", "keep one row each"),
        (missing, "names files that are not there", f"correct the paths (relative to {folder})"),
    ):
        if found:
            raise InputError(f"{path}: {what}: {some(found)}; {fix}")
    if not images:
        raise InputError(f"{path}: has no rows; add one for each image")
    _check_filled(path, images)
    return Dataset(path, folder, (NEGATIVE, POSITIVE), images, patients_known=any(image.patient for image in images))


def _check_columns(table: Table, columns: Sequence[str]) -> None:
    for old, new in RENAMED.items():
        if old in table.columns and old not in columns:
            raise InputError(f"{table.path}: column {old!r}: write {new} (docs/data.md)")
    known = (*COLUMNS, *columns)
    strange = [column for column in table.columns if column not in known]
    absent = [column for column in known if column not in table.columns]
    for column in strange:
        if close := difflib.get_close_matches(column.lower(), absent, 1):
            raise InputError(f"{table.path}: unknown column {column!r}; did you mean {close[0]!r}? Known are {', '.join(known)}")
    if strange:
        log.info("%s: columns that are not read: %s", table.path, some(strange))


def _check_filled(path: Path, images: Sequence[LabelledImage]) -> None:
    """What is filled in for all of them or for none: a half-filled column would be guessed at."""
    if 0 < (empty := sum(not image.patient for image in images)) < len(images):
        raise InputError(f"{path}: patient is empty in {empty} of {len(images)} rows; fill it in all of them or in none")
    folds = Counter(image.fold == UNASSIGNED for image in images if image.fold != HOLDOUT)
    if len(folds) == 2:
        raise InputError(
            f"{path}: split gives a fold in {folds[False]} of {folds[True] + folds[False]} rows that are trained on; give one "
            f"(0 to {FOLDS - 1}) in all of them, or `train` in all"
        )


def _image(path: Path, folder: Path, row: Row, columns: Sequence[str]) -> LabelledImage | None:
    """None for a row that is excluded."""
    cells = row.cells
    where = f"{path}, line {row.line}"
    if not cells["path"]:
        raise InputError(f"{where}: path empty; fill it in")
    split = cells.get("split", "").lower()
    if split == EXCLUDED:
        return None
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
            raise InputError(f"{where}: {column} {cells[column]!r}; expected a number {'above 0' if least else 'of 0 or more'}, or nothing")
        return found

    def finding(column: str) -> float:
        found = number(cells.get(column, ""))
        text = str(int(found)) if found in (0.0, 1.0) else cells.get(column, "")
        return one_of(column, FINDINGS, "1 or 0", text)

    given: dict[str, Any] = {column: _box(where, column, cells.get(column, "")) for column in ("nt_box", "thalami_box")}
    return LabelledImage(
        path=find_named(folder, cells["path"]),
        name=one_name(cells["path"]),
        patient=cells.get("patient", ""),
        site=cells.get("site", ""),
        hygroma=finding("hygroma"),
        plane=one_of("plane", PLANES, "standard or other", cells.get("plane", "").lower()),
        fold=one_of("split", SPLITS, f"a fold (0 to {FOLDS - 1}), {TRAIN}, {HELD_OUT} or {EXCLUDED}", split),
        nt_mm=measure("nt_mm", 0.0),
        mm_per_px=measure("mm_per_px", math.ulp(0.0)),
        scanner=cells.get("scanner", ""),
        labels={column: found for column in columns if (found := finding(column)) != UNKNOWN},
        **given,
    )


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
