"""Boxes that a reader drew around the nuchal region of cross-validated images: the data set's own `nt_box`, or a table
`path,x0,y0,x1,y1`, pixels of the image as it lies there, left, top, right, bottom; paths as the data set names its images."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path

from calibration.bank import box_in_crop, within
from calibration.dataset import LabelledImage
from calibration.images import read_image
from calibration.table import number, one_name, read_table
from edge.errors import InputError
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing
from edge.screen.still import read_still
from export.training.augment import Box

COLUMNS = ("path", "x0", "y0", "x1", "y1")
SIDES = COLUMNS[1:]


def read_boxes(table: Path, stills: Mapping[str, LabelledImage], size: int) -> dict[str, Box]:
    """Name of an image -> its box in fractions of its crop of `size` pixels, cut to the fan. stills: by name, those that were
    cross-validated. InputError names the table's line: a column, a number or a path that is wrong, two boxes of one image, a box
    outside the image or its fan."""
    out: dict[str, Box] = {}
    for line, row in _rows(table):
        where, name = f"{table}, line {line}", one_name(row["path"])
        if name not in stills:
            close = difflib.get_close_matches(name, list(stills), 1)
            hint = f"; did you mean {close[0]}?" if close else "; give the path as the data set has it"
            raise InputError(f"{where}: path: found {name!r}, which is no image of this cross-validation{hint}")
        if name in out:
            raise InputError(f"{where}: path: found a second box for {name}; keep one")
        out[name] = _in_crop(where, _sides(where, row), stills[name].path, size)
    if not out:
        raise InputError(f"{table}: has no rows; add one for each image that has a box, or leave --boxes out")
    return out


def own_boxes(stills: Mapping[str, LabelledImage], size: int) -> dict[str, Box]:
    """The same of the boxes that the data set has. InputError names the image."""
    return {
        name: _in_crop(f"{name}: nt_box", still.nt_box, still.path, size, rounded=True)
        for name, still in stills.items()
        if still.nt_box is not None
    }


def _sides(where: str, row: dict[str, str]) -> Box:
    values = []
    for side in SIDES:
        found = number(row[side])
        values.append(math.nan if found is None else found)
        if not math.isfinite(values[-1]):
            raise InputError(f"{where}: {side}: found {row[side]!r}; expected a number of pixels")
    x0, y0, x1, y1 = values
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{where}: found the box {_shown(values)}; x0 must be less than x1, and y0 less than y1")
    return x0, y0, x1, y1


def _in_crop(where: str, box: Box, path: Path, size: int, rounded: bool = False) -> Box:
    """rounded: a pixel beyond the image is the reader's rounding."""
    picture = read_image(path)
    height, width = picture.shape[:2]
    if box[0] < 0 or box[1] < 0 or box[2] > width + rounded or box[3] > height + rounded:
        raise InputError(
            f"{where}: found the box {_shown(box)} outside {path}, {width} x {height} pixels; give pixels of that image"
        )
    fan = read_still(picture, Preprocessing(size=size)).fan or full_fan(picture.shape)
    cut = within(box, fan.box)
    if cut is None:
        raise InputError(
            f"{where}: found the box {_shown(box)} outside the fan of {path}, {_shown(fan.box)}, which is what the model sees; "
            "correct it, or leave the row out"
        )
    left, top, right, bottom = fan.box
    return box_in_crop(cut, (bottom - top, right - left))


def _shown(box: Box | list[float]) -> str:
    return ", ".join(f"{v:g}" for v in box)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and cells."""
    return [(row.line, row.cells) for row in read_table(path, COLUMNS, "leave --boxes out if there is none").rows]
