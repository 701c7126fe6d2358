"""The bank: every labelled crop that training and validation draw from, made once and kept on disk.

A crop is the still as the daemon would see it, letterboxed to `BANK_SIZE`; augmentation happens later, on crops. Each still
with an annotated translucency gives itself, itself with its calipers painted out, shams, a borderline thickness and
simulated lesions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from calibration.lesion import LESION_MM, NORMAL_NT_MM, draw_lesion_mm, operate, paint_out_calipers
from calibration.stills import Still, other_anatomy, read_grey
from edge.screen.preprocess import Preprocessing, letterbox

BANK_SIZE = 256  # pixels: 1.33 x the model's 192, so that zooming in by augmentation does not blur
# Edits of a still, in this order: enough that an epoch rarely shows the same one twice, few enough for memory (0.7 GB).
EDITS = ("sham", "sham", "lesion", "lesion", "lesion", "borderline")
MAX_SEPTA = 3
UNKNOWN = -1.0


@dataclass(frozen=True)
class Entry:
    """Labels of one crop. `plane` and `hygroma` are 0, 1 or UNKNOWN; `box` is the nuchal region in crop fractions (x0, y0,
    x1, y1) or None; `source` is "real", "cleaned" (calipers painted out), "sham", "lesion", "borderline" (between normal and
    lesion: a thickness without a label), "hc18" or "phantom"; `still` indexes the stills, -1 if none; `labels`: of further
    heads, of untouched and cleaned stills alone."""

    still: int
    source: str
    fold: int
    plane: float
    hygroma: float
    thickness_mm: float
    box: tuple[float, float, float, float] | None
    labels: dict[str, float] = field(default_factory=dict)

    def label(self, column: str) -> float:
        """{0,1} or UNKNOWN: `plane`, `hygroma`, or a column of the data's manifest.csv."""
        found: float = getattr(self, column) if column in ("plane", "hygroma") else self.labels.get(column, UNKNOWN)
        return found


@dataclass(frozen=True)
class Bank:
    crops: np.ndarray  # uint8 [N,BANK_SIZE,BANK_SIZE]
    entries: list[Entry]

    def where(self, keep: Callable[[Entry], bool]) -> np.ndarray:
        """Indices of the entries that `keep` accepts."""
        return np.array([i for i, entry in enumerate(self.entries) if keep(entry)], int)

    def extended(self, crops: np.ndarray, entries: list[Entry]) -> Bank:
        return Bank(np.concatenate([self.crops, crops]), self.entries + entries)


def box_in_crop(box: tuple[float, float, float, float], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box in pixels of a picture of `shape` [H,W] -> fractions of its letterboxed square."""
    height, width = shape
    side = max(height, width)
    left, top = (side - width) / 2, (side - height) / 2
    return (box[0] + left) / side, (box[1] + top) / side, (box[2] + left) / side, (box[3] + top) / side


def build_bank(
    data: Path, stills: list[Still], folds: np.ndarray, seed: int, on_step: Callable[[int, int], None]
) -> Bank:
    """Deterministic from `seed`, still by still. `on_step(done, total)` is called as it goes."""
    spec = Preprocessing(size=BANK_SIZE)
    crops: list[np.ndarray] = []
    entries: list[Entry] = []
    for index, still in enumerate(stills):
        on_step(index, len(stills))
        grey = read_grey(still.path)
        fold = int(folds[index])
        # the visibly increased ones are the evidence on real pixels: never labelled healthy, never trained on
        healthy = UNKNOWN if still.by_eye_increased or not still.plane else 0.0
        box = box_in_crop(still.anatomy.nt, grey.shape) if still.anatomy else None
        mm = still.thickness_mm if still.thickness_mm is not None else UNKNOWN
        labels = dict(still.labels)
        crops.append(letterbox(grey, spec))
        entries.append(Entry(index, "real", fold, float(still.plane), healthy, mm, box, labels))
        if not still.plane or still.anatomy is None:
            continue
        crops.append(letterbox(paint_out_calipers(grey, still.anatomy.nt), spec))
        entries.append(Entry(index, "cleaned", fold, float(still.plane), healthy, mm, box, labels))
        if still.by_eye_increased:
            continue
        streams = [np.random.default_rng([seed, index, variant]) for variant in range(len(EDITS))]
        for edit, rng in zip(EDITS, streams, strict=True):
            target = _thickness(edit, rng)
            septa = int(rng.integers(0, MAX_SEPTA + 1)) if edit == "lesion" else 0
            image, done = operate(grey, still.anatomy, target, rng, septa)
            crops.append(letterbox(image, spec))
            name, label = _class_of(done.thickness_mm)
            nuchal = box_in_crop(done.nuchal_box, grey.shape)
            entries.append(Entry(index, name, fold, 1.0, label, done.thickness_mm, nuchal))
    heads = other_anatomy(data, "hc18", "train")
    for number, (path, _) in enumerate(heads):
        crops.append(letterbox(read_grey(path), spec))
        entries.append(Entry(-1, "hc18", number % 4, 0.0, UNKNOWN, UNKNOWN, None))
    return Bank(np.stack(crops), entries)


def _class_of(thickness_mm: float) -> tuple[str, float]:
    """Source and label of an edit by the thickness it reached, not the one it aimed at."""
    if thickness_mm >= LESION_MM[0]:
        return "lesion", 1.0
    return ("sham", 0.0) if thickness_mm <= NORMAL_NT_MM[1] else ("borderline", UNKNOWN)


def _thickness(edit: str, rng: np.random.Generator) -> float:
    """The thickness an edit sets, mm-equivalents."""
    if edit == "lesion":
        return draw_lesion_mm(rng)
    return float(rng.uniform(*(NORMAL_NT_MM if edit == "sham" else (NORMAL_NT_MM[1], LESION_MM[0]))))


def save_bank(bank: Bank, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "crops.npy", bank.crops)
    rows = [{key: value for key, value in asdict(entry).items() if value != {}} for entry in bank.entries]
    (folder / "entries.json").write_text(json.dumps(rows))


def load_bank(folder: Path) -> Bank:
    rows = json.loads((folder / "entries.json").read_text())
    entries = [Entry(**{**row, "box": tuple(row["box"]) if row["box"] else None}) for row in rows]
    return Bank(np.load(folder / "crops.npy"), entries)
