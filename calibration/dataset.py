"""A data set: images, and as far as known what they show and whose they are. A folder per class, or a table (docs/data.md). All
commands read it here. No image is decoded: what is wrong with names, labels and folds is said before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calibration.images import IMAGES, find_images, is_image
from calibration.lesion import Box, NuchalAnatomy
from calibration.naming import some
from calibration.table import find_named, name_of, one_name
from edge.errors import InputError
from edge.kinds import is_litter

FOLDS = 4  # the paper's protocol (arXiv 2512.22730)
UNKNOWN = -1.0  # of a label
UNASSIGNED, HOLDOUT = -1, -2  # in place of a fold: it is still to be chosen; never trained on
POSITIVE, NEGATIVE, OTHER = "hygroma", "normal", "other"  # folders
STANDARD_PLANE, OTHER_PLANE = 1.0, 0.0


@dataclass(frozen=True)
class LabelledImage:
    """One image. name: what tables, reports and messages call it; patient: "" where nobody said. hygroma, plane {0,1} or UNKNOWN:
    the finding, and whether it shows the standard mid-sagittal nuchal plane. fold: 0 to 3, UNASSIGNED or HOLDOUT. Boxes in pixels
    of the image as it lies on disk. nt_mm: thickness of the translucency, mm or mm-equivalents. labels: {0,1} by further column;
    what is not known is left out."""

    path: Path
    name: str
    patient: str = ""
    site: str = ""
    hygroma: float = UNKNOWN
    plane: float = UNKNOWN
    fold: int = UNASSIGNED
    nt_box: Box | None = None
    thalami_box: Box | None = None
    nt_mm: float | None = None
    mm_per_px: float | None = None
    scanner: str = ""
    labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The patient; an image that is nobody's stands for itself."""
        return self.patient or self.name

    @property
    def label(self) -> int:
        """The finding, of an image that has one."""
        return int(self.hygroma)

    @property
    def anatomy(self) -> NuchalAnatomy | None:
        """What a lesion is drawn by; None without both boxes."""
        if self.nt_box is None or self.thalami_box is None:
            return None
        nt, thalami = self.nt_box, self.thalami_box
        long_side = max(thalami[2] - thalami[0], thalami[3] - thalami[1])
        return NuchalAnatomy(nt, long_side, posterior_down=nt[1] + nt[3] > thalami[1] + thalami[3])

    @property
    def editable(self) -> bool:
        """Whether lesions may be drawn into it: a healthy standard plane with both boxes."""
        return self.plane == STANDARD_PLANE and self.hygroma == 0.0 and self.anatomy is not None


@dataclass(frozen=True)
class Dataset:
    """source: the folder or table that was named; folder: what the images' names are under. classes: what the negative and the
    positive finding are called. patients_known: the table says whose each image is."""

    source: Path
    folder: Path
    classes: tuple[str, str]
    images: list[LabelledImage]
    patients_known: bool

    @property
    def labels(self) -> np.ndarray:
        """int [N], 1 positive; of a data set whose images all have a finding."""
        return np.array([image.label for image in self.images])

    @property
    def elsewhere(self) -> bool:
        """Whether it shows other anatomy alone: no image is a standard plane or has a finding."""
        return all(image.plane == OTHER_PLANE and image.hygroma == UNKNOWN for image in self.images)

    def with_findings(self) -> Dataset:
        """The images with a finding, those that are never trained on left out. InputError where a class is missing."""
        images = [image for image in self.images if image.hygroma != UNKNOWN and image.fold != HOLDOUT]
        for label, name in enumerate(self.classes):
            if not any(image.hygroma == label for image in images):
                raise InputError(f"{self.source}: no image of {name!r} to train on; two classes are needed: add images with hygroma {label}")
        return replace(self, images=images)


def open_dataset(source: Path, positive: str = POSITIVE, columns: Sequence[str] = ()) -> Dataset:
    """The data set that a folder or a table holds. positive: the folder of the positive class, where it has another name. columns:
    of a table, further labels that must be there. InputError names what does not fit, and the fix."""
    if source.is_dir():
        if columns:
            raise InputError(f"{source}: folders say nothing of {some(columns)}; give a table with these columns (docs/data.md)")
        return _of_folders(source, one_name(positive))
    from calibration.dataset_table import read_dataset

    return read_dataset(source, columns)


def open_datasets(sources: Sequence[Path], positive: str = POSITIVE, columns: Sequence[str] = ()) -> list[Dataset]:
    """Several data sets that are used together, by names that differ."""
    sets = [open_dataset(source, positive, columns) for source in sources]
    if len(sets) == 1:
        return sets
    twice = [path for path, n in Counter(image.path.resolve() for found in sets for image in found.images).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]}: in two of the data sets; name each image once")
    return [
        replace(found, images=[replace(image, name=f"{number}/{image.name}") for image in found.images])
        for number, found in enumerate(sets, 1)
    ]


def stills_of(sets: Sequence[Dataset]) -> list[LabelledImage]:
    """The images of all data sets but those of other anatomy alone, in order."""
    return [image for found in sets if not found.elsewhere for image in found.images]


def elsewhere_of(sets: Sequence[Dataset], held_out: bool) -> list[LabelledImage]:
    """The images of data sets of other anatomy alone: those to train on, or those that are never trained on."""
    return [image for found in sets if found.elsewhere for image in found.images if (image.fold == HOLDOUT) == held_out]


def _of_folders(folder: Path, positive: str) -> Dataset:
    classes, with_other = _classes(folder, positive)
    images: list[LabelledImage] = []
    for kind in (*classes, *([OTHER] if with_other else [])):
        files, others = find_images(find_named(folder, kind))
        if others:  # left out in silence they would be lost data
            raise InputError(
                f"{folder / kind}: {some(name_of(p, folder) for p in others)}: not among the images that are read "
                f"({IMAGES}); export them as PNG, or move them away"
            )
        if not files:
            raise InputError(f"{folder / kind}: holds no image ({IMAGES}); add some, or remove the folder")
        names = [name_of(p, folder) for p in files]
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise InputError(f"{folder / kind}: two files of one name, written differently: {some(twice)}; rename one of each")
        finding = UNKNOWN if kind not in classes else float(kind == classes[1])
        # Who keeps other planes apart says that the rest are standard ones; who does not says nothing of planes.
        plane = UNKNOWN if not with_other else STANDARD_PLANE if kind in classes else OTHER_PLANE
        images += [LabelledImage(p, name, hygroma=finding, plane=plane) for p, name in zip(files, names, strict=True)]
    return Dataset(folder, folder, classes, images, patients_known=False)


def _classes(folder: Path, positive: str) -> tuple[tuple[str, str], bool]:
    """The negative and the positive folder, and whether there is one of other planes."""
    layout = f"expected a folder per class, such as {folder}/{POSITIVE} and {folder}/{NEGATIVE}, or a table (docs/data.md)"
    found = sorted(name_of(p, folder) for p in folder.iterdir() if p.is_dir() and not is_litter(p))
    loose = [p.name for p in sorted(folder.iterdir()) if is_image(p)]
    if loose:
        raise InputError(f"{folder}: {some(loose)}: outside the class folders; move each into the folder of its class")
    if not found:
        raise InputError(f"{folder}: empty; {layout}")
    other = OTHER in found and positive != OTHER
    kinds = [name for name in found if name != OTHER or not other]
    if len(kinds) == 1:
        raise InputError(f"{folder}: one class only, {kinds[0]!r}; {layout}")
    if len(kinds) > 2:
        raise InputError(
            f"{folder}: {len(kinds)} folders, {some(kinds)}; two classes are compared, and {OTHER!r} may lie beside them: move "
            "the others away"
        )
    if positive not in kinds:
        raise InputError(
            f"{folder}: classes {kinds[0]!r} and {kinds[1]!r}, none is {positive!r}; name the positive one: --positive {kinds[0]}"
        )
    return (kinds[0] if kinds[1] == positive else kinds[1], positive), other
