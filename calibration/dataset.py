"""A data set: images, and as far as known what they show and whose they are (docs/data.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calibration.lesion import Box, NuchalAnatomy
from calibration.origin import Origin
from edge.errors import InputError

FOLDS = 4  # the paper's protocol (arXiv 2512.22730)
UNKNOWN = -1.0  # of a label
UNASSIGNED, HOLDOUT = -1, -2  # in place of a fold: it is still to be chosen; never trained on
POSITIVE, NEGATIVE = "hygroma", "normal"  # classes, and their folders
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
    def plane_called(self) -> str:
        """As a table says it."""
        return {STANDARD_PLANE: "standard", OTHER_PLANE: "other"}.get(self.plane, "")

    @property
    def label(self) -> int:
        """The finding, of an image that has one."""
        return int(self.hygroma)

    @property
    def anatomy(self) -> NuchalAnatomy | None:
        """What a lesion is drawn by; None without both boxes."""
        if self.nt_box is None or self.thalami_box is None:
            return None
        return NuchalAnatomy.of(self.nt_box, self.thalami_box)

    @property
    def editable(self) -> bool:
        """Whether lesions may be drawn into it: a healthy standard plane with both boxes."""
        return self.plane == STANDARD_PLANE and self.hygroma == 0.0 and self.anatomy is not None


@dataclass(frozen=True)
class Dataset:
    """source: the folder or table that was named; folder: what the images' names are under. classes: what the negative and the
    positive finding are called. patients_known: the table says whose each image is. origin: where it comes from, as a file beside
    it says."""

    source: Path
    folder: Path
    classes: tuple[str, str]
    images: list[LabelledImage]
    patients_known: bool
    origin: Origin | None = None

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
                raise InputError(
                    f"{self.source}: no image of {name!r} to train on; two classes are needed: add images with hygroma {label}"
                )
        return replace(self, images=images)
