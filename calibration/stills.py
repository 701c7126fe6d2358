"""The real first-trimester stills and their annotations, from a folder laid out as docs/data.md describes (manifest.csv)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from calibration.folds import grouped_folds
from calibration.lesion import THALAMI_MM, NuchalAnatomy
from calibration.naming import some
from calibration.table import find_named, number, read_table
from edge.capture.picture import read_picture
from edge.errors import InputError

CORNERS = ("x_min", "y_min", "x_max", "y_max")
MANIFEST = ("path", "source", "kind", "label", "proposed_split", "patient_or_video_id", "sha256")
RATIO = "nt_over_thalami_size"  # a column of nt_weak_flags.csv
SHOWN = 3  # of what is wrong that a message names
SHIPPED_SEED = 0  # of the recipe whose folds shipped_folds.csv has
FOLDS = 4  # the paper's protocol (arXiv 2512.22730)


@dataclass(frozen=True)
class Still:
    """One labelled still. `plane`: a standard mid-sagittal nuchal view; `group`: patient, duplicates merged."""

    path: Path
    group: str
    split: str  # train | validation
    plane: bool
    anatomy: NuchalAnatomy | None
    thickness_mm: float | None  # heuristic, millimetre-equivalents: a weak label, not a clinical one
    by_eye_increased: bool
    labels: Mapping[str, float] = field(default_factory=dict)  # {0,1} by column of manifest.csv; what is not known is left out


def read_grey(path: Path) -> np.ndarray:
    """uint8 [H,W]. InputError as `read_picture` has it."""
    return read_picture(path, grey=True)


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    return [row.cells for row in read_table(path, needed, "the data must be a folder laid out as docs/data.md describes").rows]


def _anatomy(boxes: dict[str, tuple[float, float, float, float]]) -> NuchalAnatomy | None:
    if "NT" not in boxes or "thalami" not in boxes:
        return None
    nt, thalami = boxes["NT"], boxes["thalami"]
    long_side = max(thalami[2] - thalami[0], thalami[3] - thalami[1])
    return NuchalAnatomy(nt, long_side, posterior_down=nt[1] + nt[3] > thalami[1] + thalami[3])


def _number(row: dict[str, str], column: str, path: Path) -> float:
    found = number(row[column])
    if found is None or not math.isfinite(found):
        raise InputError(f"{path}: {column} of {row['path']} is {row[column]!r}; expected a number")
    return found


def _label(row: dict[str, str], column: str, path: Path) -> float:
    if row[column] not in ("0", "1"):
        raise InputError(f"{path}: {column} of {row['path']} is {row[column]!r}; expected 0, 1, or nothing where it is not known")
    return float(row[column])


def load_stills(data: Path, columns: Sequence[str] = ()) -> list[Still]:
    """Every fetus_framework still of `data` with a train or validation split, in the manifest's order. columns: of manifest.csv,
    that hold further labels."""
    boxes: dict[str, dict[str, tuple[float, float, float, float]]] = defaultdict(dict)
    for row in _rows(data / "ultrasound/nt_structures.csv", "path", "structure", *CORNERS):
        x0, y0, x1, y1 = (_number(row, k, data / "ultrasound/nt_structures.csv") for k in CORNERS)
        boxes[row["path"]][row["structure"]] = (x0, y0, x1, y1)
    flags = {row["path"]: row for row in _rows(data / "ultrasound/nt_weak_flags.csv", "path")}
    stills: list[Still] = []
    first_of_hash: dict[str, str] = {}
    for row in _rows(data / "manifest.csv", *MANIFEST, *columns):
        if row["source"] != "fetus_framework" or row["kind"] != "still":
            continue
        if row["proposed_split"] not in ("train", "validation"):
            continue
        flag = flags.get(row["path"], {})
        group = first_of_hash.setdefault(row["sha256"], row["patient_or_video_id"])
        stills.append(
            Still(
                path=find_named(data, row["path"]),
                group={"FF0458": "FF0134"}.get(group, group),  # the one near-duplicate that the data's README names
                split=row["proposed_split"],
                plane=row["label"] == "standard plane",
                anatomy=_anatomy(boxes[row["path"]]),
                thickness_mm=(
                    _number(flag, RATIO, data / "ultrasound/nt_weak_flags.csv") * THALAMI_MM if flag.get(RATIO) else None
                ),
                by_eye_increased=flag.get("by_eye_increased_nt") == "1",
                labels={c: _label(row, c, data / "manifest.csv") for c in columns if row[c]},
            )
        )
    if not stills:
        raise InputError(f"{data / 'manifest.csv'}: names no first-trimester still (source fetus_framework)")
    return stills


def other_anatomy(data: Path, source: str, split: str) -> list[tuple[Path, str]]:
    """Path and patient (or clip) of the stills of another source ("hc18", "mmotu", "pocus_covid", "nhbs_spj") and proposed
    split."""
    return [
        (find_named(data, row["path"]), row["patient_or_video_id"])
        for row in _rows(data / "manifest.csv")
        if row["source"] == source and row["kind"] == "still" and row["proposed_split"] == split
    ]


def all_pictures(data: Path) -> list[Path]:
    """Every still that the manifest names, whatever its source and split, once."""
    return list(dict.fromkeys(find_named(data, row["path"]) for row in _rows(data / "manifest.csv") if row["kind"] == "still"))


def editable(stills: Iterable[Still]) -> list[Still]:
    """Standard planes with an annotated translucency that does not look thickened."""
    return [s for s in stills if s.plane and s.anatomy is not None and not s.by_eye_increased]


def check_data(data: Path, others: Iterable[tuple[str, str]]) -> None:
    """What training and validation will ask of `data`, asked before either: both classes of planes to train on, a validation
    split, no patient or file in both, every file there. `others`: sources and splits of other anatomy that are read too. No
    picture is decoded. InputError names the file, what was found and the fix."""
    manifest, stills = data / "manifest.csv", load_stills(data)
    train, validation = ([s for s in stills if s.split == split] for split in ("train", "validation"))
    standard = sum(s.plane for s in train)
    if standard in (0, len(train)):
        raise InputError(
            f"{manifest}: found {standard} standard planes among {len(train)} training stills; the plane head needs both "
            "classes: add rows with label `standard plane`, and with another"
        )
    for split, part in (("train", train), ("validation", validation)):
        if not editable(part):
            raise InputError(
                f"{manifest}: found {len(part)} stills with proposed_split `{split}`, {sum(s.plane for s in part)} of them "
                "standard planes, none with boxes of NT and thalami that does not look thickened; add some to draw lesions into, "
                f"with their boxes in {data / 'ultrasound/nt_structures.csv'}"
            )
    rows = [row for row in _rows(manifest, *MANIFEST) if row["kind"] == "still"]
    ours = [r for r in rows if r["source"] == "fetus_framework" and r["proposed_split"] in ("train", "validation")]
    for column, what in (("patient_or_video_id", "patients"), ("sha256", "identical files")):
        if shared := _in_both(ours, column):
            raise InputError(
                f"{manifest}: {what} in both train and validation: {some(shared, SHOWN)}; give all stills of one the same "
                "proposed_split, or remove the copy"
            )
    read = {("hc18", "train"), *others}
    ours += [row for row in rows if (row["source"], row["proposed_split"]) in read]
    if gone := [row["path"] for row in ours if not find_named(data, row["path"]).is_file()]:
        raise InputError(
            f"{manifest}: names files that are not in {data}: {some(gone, SHOWN)}; restore them or remove their rows"
        )


def _in_both(rows: Iterable[dict[str, str]], column: str) -> list[str]:
    """Each value of `column` that stands in rows of two splits, with the first path in either."""
    first: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row[column]:
            first[row[column]].setdefault(row["proposed_split"], row["path"])
    return [f"{value} ({', '.join(sorted(paths.values()))})" for value, paths in first.items() if len(paths) > 1]


def assign_folds(stills: list[Still], seed: int) -> np.ndarray:
    """int [N]: the fold 0..3 in which a training still is held out; -1 for the validation split.

    Grouped by patient (duplicates merged) and stratified by plane. The public data that the shipped bundle was made of keep
    that bundle's folds (shipped_folds.csv). InputError when there are fewer patients than folds.
    """
    folds = np.full(len(stills), -1)
    train = np.array([i for i, still in enumerate(stills) if still.split == "train"], int)
    groups = [stills[i].group for i in train]
    if len(set(groups)) < FOLDS:
        raise InputError(
            f"manifest.csv: found {len(train)} training stills of {len(set(groups))} patients; {FOLDS} folds need {FOLDS} "
            "patients: add stills with proposed_split `train`"
        )
    shipped = shipped_folds() if seed == SHIPPED_SEED else {}
    if shipped.keys() == set(groups):
        folds[train] = [shipped[group] for group in groups]
    else:
        folds[train] = grouped_folds([stills[i].plane for i in train], groups, FOLDS, seed)
    return folds


def shipped_folds() -> dict[str, int]:
    """The fold of each training patient of the shipped bundle's data, by its name in their table."""
    rows = read_table(Path(__file__).with_name("shipped_folds.csv"), ("patient", "fold")).rows
    return {row.cells["patient"]: int(row.cells["fold"]) for row in rows}
