"""The real first-trimester stills and their annotations, from a folder laid out as ../shared/data (manifest.csv)."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from calibration.lesion import THALAMI_MM, NuchalAnatomy
from edge.errors import InputError

CORNERS = ("x_min", "y_min", "x_max", "y_max")
MANIFEST = ("path", "source", "kind", "label", "proposed_split", "patient_or_video_id", "sha256")
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


def read_grey(path: Path) -> np.ndarray:
    """uint8 [H,W]. InputError when the file is no image that OpenCV decodes."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise InputError(f"{path}: not an image that can be decoded; remove it from the data set or replace it")
    return grey


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path}: missing; the data must be a folder laid out as ../shared/data")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in needed if column not in (reader.fieldnames or ())]:
            raise InputError(f"{path}: columns {', '.join(missing)} missing; the data must be laid out as ../shared/data")
        return list(reader)


def _anatomy(boxes: dict[str, tuple[float, float, float, float]]) -> NuchalAnatomy | None:
    if "NT" not in boxes or "thalami" not in boxes:
        return None
    nt, thalami = boxes["NT"], boxes["thalami"]
    long_side = max(thalami[2] - thalami[0], thalami[3] - thalami[1])
    return NuchalAnatomy(nt, long_side, posterior_down=nt[1] + nt[3] > thalami[1] + thalami[3])


def _number(row: dict[str, str], column: str, path: Path) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: {column} of {row['path']} is {row[column]!r}; expected a number of pixels"
        ) from None


def load_stills(data: Path) -> list[Still]:
    """Every fetus_framework still of `data` with a train or validation split, in the manifest's order."""
    boxes: dict[str, dict[str, tuple[float, float, float, float]]] = defaultdict(dict)
    for row in _rows(data / "ultrasound/nt_structures.csv", "path", "structure", *CORNERS):
        x0, y0, x1, y1 = (_number(row, k, data / "ultrasound/nt_structures.csv") for k in CORNERS)
        boxes[row["path"]][row["structure"]] = (x0, y0, x1, y1)
    flags = {row["path"]: row for row in _rows(data / "ultrasound/nt_weak_flags.csv", "path")}
    stills: list[Still] = []
    first_of_hash: dict[str, str] = {}
    for row in _rows(data / "manifest.csv", *MANIFEST):
        if row["source"] != "fetus_framework" or row["kind"] != "still":
            continue
        if row["proposed_split"] not in ("train", "validation"):
            continue
        flag = flags.get(row["path"], {})
        ratio = flag.get("nt_over_thalami_size")
        group = first_of_hash.setdefault(row["sha256"], row["patient_or_video_id"])
        stills.append(
            Still(
                path=data / row["path"],
                group={"FF0458": "FF0134"}.get(group, group),  # the one near-duplicate that the data's README names
                split=row["proposed_split"],
                plane=row["label"] == "standard plane",
                anatomy=_anatomy(boxes[row["path"]]),
                thickness_mm=float(ratio) * THALAMI_MM if ratio else None,
                by_eye_increased=flag.get("by_eye_increased_nt") == "1",
            )
        )
    if not stills:
        raise InputError(f"{data / 'manifest.csv'}: names no first-trimester still (source fetus_framework)")
    return stills


def other_anatomy(data: Path, source: str, split: str) -> list[tuple[Path, str]]:
    """Path and patient (or clip) of the stills of another source ("hc18", "mmotu", "pocus_covid", "nhbs_spj") and proposed
    split."""
    return [
        (data / row["path"], row["patient_or_video_id"])
        for row in _rows(data / "manifest.csv")
        if row["source"] == source and row["kind"] == "still" and row["proposed_split"] == split
    ]


def assign_folds(stills: list[Still], seed: int) -> np.ndarray:
    """int [N]: the fold 0..3 in which a training still is held out; -1 for the validation split.

    Grouped by patient (duplicates merged) and stratified by plane.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.full(len(stills), -1)
    train = np.array([i for i, still in enumerate(stills) if still.split == "train"])
    labels = [stills[i].plane for i in train]
    groups = [stills[i].group for i in train]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(train, labels, groups)):
        folds[train[held_out]] = fold
    return folds
