"""What an import writes: stills of the size that lesions are drawn at, a table, and a file that says where they come from."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from calibration.bank import LONG_SIDE
from calibration.dataset_table import COLUMNS, EXCLUDED, HELD_OUT
from calibration.images import read_grey, shrunk
from calibration.lesion import Box
from calibration.naming import some
from calibration.origin import Origin, origin_file
from edge.errors import InputError

TENTHS = 1  # digits of a box's sides: annotators are no finer

Row = Mapping[str, str]


@dataclass(frozen=True)
class Imported:
    """table: what was written. images: rows by split. notes: what the user must know, a sentence each."""

    table: Path
    images: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "table": str(self.table)}


def require_download(folder: Path) -> Path:
    """The folder as it was given. InputError for an archive, a file, or nothing."""
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; give the folder of the download")
    if not folder.is_dir():
        packed = folder.suffix.lower() in (".zip", ".rar", ".7z", ".gz", ".tar")
        raise InputError(f"{folder}: {'an archive; unpack it' if packed else 'a file'}, and give the folder of the download")
    return folder


def still_packed(folder: Path) -> str:
    """For messages: the archives that lie in a download; "" where there is none."""
    packed = sorted(p.name for p in folder.rglob("*.zip"))
    return f"; {some(packed)} lies there: unpack it" if packed else ""


def require_new(table: Path, force: bool) -> None:
    """InputError where the table is there already."""
    if table.exists() and not force:
        raise InputError(f"{table}: is there already; give another --out, or --force to write it anew")


def read_still(path: Path) -> tuple[np.ndarray, float]:
    """uint8 [H,W], LONG_SIDE at most; and its size over the file's. InputError as `read_grey` has it."""
    grey = read_grey(path)
    return shrunk(grey, LONG_SIDE), min(1.0, LONG_SIDE / max(grey.shape))


def write_still(path: Path, grey: np.ndarray) -> None:
    """PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", grey)[1].tobytes()
    _replace(path, encoded)


def box_text(box: Iterable[float]) -> str:
    """As a table holds it."""
    return " ".join(f"{side:.{TENTHS}f}" for side in box)


def scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (side * scale for side in box)
    return x0, y0, x1, y1


def write_dataset(table: Path, rows: Sequence[Row], origin: Origin) -> Path:
    """The file that says where the images come from, then the table, either whole or not at all."""
    columns = [column for column in COLUMNS if any(row.get(column) for row in rows)]
    said = {key: value for key, value in asdict(origin).items() if value}
    _replace(origin_file(table), yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1000).encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(table, text.getvalue().encode())
    return table


def counted(rows: Iterable[Row]) -> dict[str, int]:
    """Rows by what becomes of them."""
    kinds = {HELD_OUT: HELD_OUT, EXCLUDED: EXCLUDED}
    out = {"trained on": 0, HELD_OUT: 0, EXCLUDED: 0}
    for row in rows:
        out[kinds.get(row["split"], "trained on")] += 1
    return out


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    os.replace(partial, path)
