"""The bank: every labelled crop that training and validation draw from, made once and kept on disk.

A crop is the still as the daemon would see it, letterboxed to `BANK_SIZE`; augmentation happens later, on crops. A healthy
standard plane with boxes gives itself, itself with its calipers painted out, shams, a borderline thickness and simulated lesions;
any other image itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from calibration.dataset import FOLDS, HOLDOUT, STANDARD_PLANE, UNKNOWN, LabelledImage
from calibration.folds import grouped_folds
from calibration.images import read_grey, shrunk
from calibration.lesion import LESION_MM, NORMAL_NT_MM, Box, draw_lesion_mm, operate, paint_out_calipers
from calibration.naming import lines
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing, letterbox
from edge.screen.still import read_still

BANK_SIZE = 256  # pixels: 1.33 x the model's 192, so that zooming in by augmentation does not blur
# Edits of a still, in this order: enough that an epoch rarely shows the same one twice, few enough for memory (0.7 GB).
EDITS = ("sham", "sham", "lesion", "lesion", "lesion", "borderline")
MAX_SEPTA = 3
VALIDATION, RENDERED = -1, -2  # in place of a fold: never trained on; a phantom, which belongs to all
# Of a picture that a fan's box fills in a still cut out of its screen: of 2,367 such stills (Fetus Framework, HC18) .58 at least.
# Below, the picture is a whole screen, of which the fan is cut out.
CUT_OUT = 0.55
# Pixels of a still with boxes, at most: what calibration/lesion.py measures and draws in pixels holds at this size.
LONG_SIDE = 512


@dataclass(frozen=True)
class Entry:
    """Labels of one crop. `plane` and `hygroma` are 0, 1 or UNKNOWN; `box` is the nuchal region in crop fractions (x0, y0,
    x1, y1) or None; `source` is "real", "cleaned" (calipers painted out), "sham", "lesion", "borderline" (between normal and
    lesion: a thickness without a label), "elsewhere" (other anatomy) or "phantom"; `still` indexes the stills, -1 if none;
    `labels`: of further heads, of untouched and cleaned stills alone. group: the patient. soft_plane: the probability of a
    standard plane that the given bundle says, UNKNOWN where it was not asked; guessed_box: the box is the given bundle's, nobody
    drew it."""

    still: int
    source: str
    fold: int
    plane: float
    hygroma: float
    thickness_mm: float
    box: tuple[float, float, float, float] | None
    labels: dict[str, float] = field(default_factory=dict)
    group: str = ""
    soft_plane: float = UNKNOWN
    guessed_box: bool = False

    def label(self, column: str) -> float:
        """{0,1} or UNKNOWN: `plane`, `hygroma`, or a further column of the data set."""
        found: float = getattr(self, column) if column in ("plane", "hygroma") else self.labels.get(column, UNKNOWN)
        return found

    @property
    def owner(self) -> str:
        """Whose it is: the patient; without one the still, of which several entries were made."""
        return self.group or f"still {self.still}"

    @property
    def standard(self) -> bool:
        """Whether it counts as a standard plane: labelled so; of a real image that nobody labelled, where it has a finding, which
        could be told then, or the given bundle does not say otherwise."""
        if self.plane != UNKNOWN or self.source != "real":
            return self.plane == STANDARD_PLANE
        return self.hygroma != UNKNOWN or self.soft_plane == UNKNOWN or self.soft_plane >= 0.5

    @property
    def plane_aim(self) -> float:
        """Probability of a standard plane to be learned: the label, else what the given bundle says; UNKNOWN without either."""
        return self.plane if self.plane != UNKNOWN else self.soft_plane


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


@dataclass(frozen=True)
class Picture:
    """A still, cut to its fan where a screen lies around it, made smaller where lesions are drawn at another size. grey uint8
    [H,W]; image: with its boxes in pixels of `grey`."""

    grey: np.ndarray
    image: LabelledImage


def require_boxes_inside(image: LabelledImage, shape: tuple[int, ...]) -> None:
    """InputError when a box lies outside the image, of `shape` [H,W]."""
    height, width = shape
    for name, box in (("nt_box", image.nt_box), ("thalami_box", image.thalami_box)):
        if box is not None and (box[2] > width + 1 or box[3] > height + 1):  # annotators round
            raise InputError(
                f"{image.path}: {name} {' '.join(f'{side:g}' for side in box)} lies outside the image of {width} x {height} "
                "pixels; give pixels of the image as it lies there"
            )


def read_still_picture(image: LabelledImage) -> Picture:
    """InputError when the image cannot be read, or a box lies outside it."""
    grey = read_grey(image.path)
    require_boxes_inside(image, grey.shape)
    fan = read_still(grey, Preprocessing(size=BANK_SIZE)).fan
    if fan is not None and (fan.box[2] - fan.box[0]) * (fan.box[3] - fan.box[1]) < CUT_OUT * grey.size:
        x0, y0, x1, y1 = fan.box
        grey = np.ascontiguousarray(grey[y0:y1, x0:x1])
        image = replace(image, nt_box=within(image.nt_box, fan.box), thalami_box=within(image.thalami_box, fan.box))
    return _of_usual_size(Picture(grey, image)) if image.anatomy is not None else Picture(grey, image)


def _of_usual_size(picture: Picture) -> Picture:
    """The same at LONG_SIDE at most, where it is larger."""
    grey = shrunk(picture.grey, LONG_SIDE)
    if grey is picture.grey:
        return picture
    scale = grey.shape[1] / picture.grey.shape[1], grey.shape[0] / picture.grey.shape[0]

    def scaled(box: Box | None) -> Box | None:
        return box and (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])

    image = replace(picture.image, nt_box=scaled(picture.image.nt_box), thalami_box=scaled(picture.image.thalami_box))
    return Picture(grey, image)


def within(box: Box | None, part: tuple[int, int, int, int]) -> Box | None:
    """A box in pixels of `part` of its picture; None where it lies beside it."""
    if box is None:
        return None
    x0, y0, x1, y1 = part
    inside = max(box[0] - x0, 0.0), max(box[1] - y0, 0.0), min(box[2], x1) - x0, min(box[3], y1) - y0
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else None


def build_bank(
    stills: Sequence[LabelledImage],
    groups: Sequence[str],
    folds: np.ndarray,
    elsewhere: Sequence[LabelledImage],
    seed: int,
    on_step: Callable[[int, int], None],
    lesions: bool = True,
    columns: Sequence[str] = (),
) -> Bank:
    """Deterministic from `seed`, still by still. groups, folds [N]: of the stills, HOLDOUT among the folds; elsewhere: images of
    other anatomy to train on; lesions: whether any are drawn; columns: further labels that entries keep. `on_step(done, total)`
    is called as it goes. InputError names every image that cannot be read."""
    spec = Preprocessing(size=BANK_SIZE)
    crops: list[np.ndarray] = []
    entries: list[Entry] = []
    bad: list[str] = []

    def add(grey: np.ndarray, entry: Entry) -> None:
        crops.append(letterbox(grey, spec))
        entries.append(entry)

    for index, still in enumerate(stills):
        on_step(index, len(stills) + len(elsewhere))
        try:
            picture = read_still_picture(still)
        except InputError as error:
            bad.append(str(error))
            continue
        grey, still = picture.grey, picture.image
        fold = VALIDATION if folds[index] == HOLDOUT else int(folds[index])
        box = box_in_crop(still.nt_box, grey.shape) if still.nt_box else None
        mm = UNKNOWN if still.nt_mm is None else still.nt_mm
        labels = {column: still.labels[column] for column in columns if column in still.labels}
        real = Entry(index, "real", fold, still.plane, still.hygroma, mm, box, labels, groups[index])
        add(grey, real)
        if still.plane != STANDARD_PLANE or still.anatomy is None:
            continue
        add(paint_out_calipers(grey, still.anatomy.nt), replace(real, source="cleaned"))
        if not lesions or not still.editable:
            continue
        streams = [np.random.default_rng([seed, index, variant]) for variant in range(len(EDITS))]
        for edit, rng in zip(EDITS, streams, strict=True):
            target = _thickness(edit, rng)
            septa = int(rng.integers(0, MAX_SEPTA + 1)) if edit == "lesion" else 0
            edited, done = operate(grey, still.anatomy, target, rng, septa)
            name, label = _class_of(done.thickness_mm)
            nuchal = box_in_crop(done.nuchal_box, grey.shape)
            add(edited, Entry(index, name, fold, 1.0, label, done.thickness_mm, nuchal, group=groups[index]))
    for number, (image, fold) in enumerate(zip(elsewhere, folds_elsewhere(elsewhere, seed), strict=True)):
        on_step(len(stills) + number, len(stills) + len(elsewhere))
        try:
            add(read_still_picture(image).grey, Entry(-1, "elsewhere", int(fold), 0.0, UNKNOWN, UNKNOWN, None, group=image.group))
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError(lines(bad))
    return Bank(np.stack(crops), entries)


def folds_elsewhere(images: Sequence[LabelledImage], seed: int) -> np.ndarray:
    """int [N]: the fold in which each image of other anatomy is left out: the table's, else by patient."""
    folds = np.array([image.fold for image in images], int)
    free = np.flatnonzero((folds < 0) | (folds >= FOLDS)).tolist()
    if free:
        folds[free] = grouped_folds(np.zeros(len(free), int), [images[i].group for i in free], FOLDS, seed)
    return folds


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
    usual = {"labels": {}, "group": "", "soft_plane": UNKNOWN, "guessed_box": False}
    rows = [{k: v for k, v in asdict(entry).items() if k not in usual or v != usual[k]} for entry in bank.entries]
    (folder / "entries.json").write_text(json.dumps(rows))


def load_bank(folder: Path) -> Bank:
    rows = json.loads((folder / "entries.json").read_text())
    entries = [Entry(**{**row, "box": tuple(row["box"]) if row["box"] else None}) for row in rows]
    return Bank(np.load(folder / "crops.npy"), entries)
