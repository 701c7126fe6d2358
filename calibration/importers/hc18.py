"""HC18 (Zenodo 1327317): axial fetal heads, other anatomy to train on and to judge on.

The download holds `training_set` and `test_set` with NNN_HC.png (a woman's further pictures NNN_2HC.png and so on; outlines of
skulls in *_Annotation.png), and a table of pixel sizes for either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.dataset import FOLDS
from calibration.dataset_table import HELD_OUT, TRAIN
from calibration.importers.written import (
    Imported,
    Row,
    counted,
    read_still,
    require_download,
    require_new,
    still_packed,
    write_dataset,
    write_still,
)
from calibration.naming import lines, some
from calibration.origin import Origin
from calibration.table import number, read_table
from edge.errors import InputError
from edge.kinds import is_litter

NAME = "hc18"
ORIGIN = Origin(
    name="HC18",
    licence="CC BY 4.0",
    citation="van den Heuvel TLA et al. (2018), PLoS ONE 13(8):e0200412; Zenodo doi:10.5281/zenodo.1327317",
)
TABLES = {"training_set": "training_set_pixel_size_and_HC.csv", "test_set": "test_set_pixel_size.csv"}
COLUMNS = ("filename", "pixel size(mm)")
SHIPPED = 999  # training images, all of which the shipped bundle was made of
JUDGED = "axial fetal heads (HC18; others of its images were negatives of the plane head in training)"  # a site of the report
_IMAGE = re.compile(r"(\d+)(_\d*HC)", re.IGNORECASE)


@dataclass(frozen=True)
class _Head:
    """mm_per_px: of the picture as it was downloaded."""

    path: Path
    part: str
    mm_per_px: float

    @property
    def patient(self) -> str:
        """In training, a number is a woman. Nothing says so of the test images: each counts for itself."""
        return f"HC18-test-{self.path.stem}" if self.part == "test_set" else f"HC18-{self.path.stem.split('_')[0]}"


def import_hc18(
    download: Path, out: Path, force: bool = False, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Imported:
    """Writes OUT/hc18.csv, its stills (grey, 512 pixels at most) and its origin. `split`: the shipped bundle's folds of the
    training set, `holdout` for the test set. InputError names everything in the download that does not fit."""
    table = out / f"{NAME}.csv"
    require_new(table, force)
    require_download(download)
    found = {part: _heads(download, part, out / NAME) for part in TABLES}
    heads = [head for own in found.values() for head in own]
    splits = shipped_splits([head.path.stem for head in found["training_set"]])
    rows: list[Row] = []
    bad: list[str] = []
    out.mkdir(parents=True, exist_ok=True)
    for done, head in enumerate(heads):
        on_step(done, len(heads))
        try:
            grey, scale = read_still(head.path)
        except InputError as error:
            bad.append(str(error))
            continue
        name = f"{NAME}/{head.part}/{head.path.stem}.png"
        write_still(out / name, grey)
        trained = head.part == "training_set"
        rows.append({
            "path": name,
            "patient": head.patient,
            "site": "Radboud University Medical Center" if trained else JUDGED,
            "plane": "other",
            "split": splits[head.path.stem] if trained else HELD_OUT,
            "mm_per_px": f"{head.mm_per_px / scale:.6g}",
        })  # fmt: skip
    if bad:
        raise InputError(lines(bad))
    write_dataset(table, rows, ORIGIN)
    notes = []
    if len(splits) != SHIPPED:
        notes.append(
            f"{len(splits)} training images, and the shipped bundle was made of {SHIPPED}: its folds cannot be told, so column "
            f"split says `{TRAIN}`, and a bundle made of this table is another one"
        )
    return Imported(table, counted(rows), notes)


def shipped_splits(stems: Sequence[str]) -> dict[str, str]:
    """The shipped bundle's fold of each training image. Its makers had a copy in which image i of the sorted list is called i_HC
    or i_2HC, from 1, and dealt the images out in the order of those names' letters."""
    if len(stems) != SHIPPED:
        return dict.fromkeys(stems, TRAIN)
    renumbered = {}
    for position, stem in enumerate(sorted(stems), 1):
        match = _IMAGE.fullmatch(stem)
        assert match is not None  # _heads took no other
        renumbered[f"{position}{match[2]}"] = stem
    return {renumbered[name]: str(position % FOLDS) for position, name in enumerate(sorted(renumbered))}


def _heads(download: Path, part: str, ours: Path) -> list[_Head]:
    """What the part's table names; every one of them is there, and no other. ours: what an import wrote is no download."""
    table = _only(download, TABLES[part])
    folders = [
        p
        for p in sorted(download.rglob(part))
        if p.is_dir() and any(p.glob("*.png")) and not is_litter(p, download) and not p.resolve().is_relative_to(ours.resolve())
    ]
    if len(folders) != 1:
        what = f"{len(folders)} folders {part} with pictures" if folders else f"no folder {part} with pictures"
        raise InputError(f"{download}: {what}{still_packed(download)}; expected one, as {part}.zip holds it")
    own = [p for p in sorted(folders[0].iterdir()) if p.suffix.lower() == ".png" and not is_litter(p, download)]
    pictures = {p.name: p for p in own if "annotation" not in p.stem.lower()}
    heads: dict[str, _Head] = {}
    bad: list[str] = []
    for row in read_table(table, COLUMNS, "it is part of the download: add it").rows:
        name, size = row.cells["filename"], number(row.cells["pixel size(mm)"])
        where = f"{table}, line {row.line}"
        if name not in pictures:
            bad.append(f"{where}: {name!r} is not in {folders[0]}; unpack all of {part}.zip")
        elif not _IMAGE.fullmatch(Path(name).stem):
            bad.append(f"{where}: {name!r}; expected a name such as 010_HC.png or 010_2HC.png")
        elif size is None or not 0 < size < 100:
            bad.append(f"{where}: pixel size(mm) {row.cells['pixel size(mm)']!r}; expected millimetres above 0")
        elif name in heads:
            bad.append(f"{where}: {name!r} a second time; keep one row")
        else:
            heads[name] = _Head(pictures[name], part, size)
    if strange := [name for name in pictures if name not in heads] if not bad else []:
        bad.append(f"{table}: has no row for {some(strange)}; download it again")
    if bad:
        raise InputError(lines(bad))
    return [heads[name] for name in sorted(heads)]


def _only(download: Path, name: str) -> Path:
    found = sorted(download.rglob(name))
    if not found:
        raise InputError(f"{download}: no {name}{still_packed(download)}; it is part of the download: add it")
    return found[0]
