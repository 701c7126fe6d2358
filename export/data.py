"""What a recipe's data sets hold, what can be learned from them, and what the absence of an ingredient costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from calibration.dataset import HOLDOUT, OTHER_PLANE, STANDARD_PLANE, UNKNOWN, Dataset, LabelledImage
from calibration.images import read_grey
from calibration.leakage import assign_folds, check_folds, patient_groups, perceptual_hash, same_images
from calibration.naming import lines
from calibration.open_dataset import elsewhere_of, open_datasets, stills_of
from edge.errors import InputError
from export.atomic import sha256_of
from export.heads.ood import MIN_IMAGES
from export.recipe import Recipe

# Real positives on which the gate and the operating point stand; with fewer they stand on simulated ones. Of 40 positives none
# lost bounds the share at .07 (95 %); 20 patients keep one of them from deciding it.
MIN_POSITIVES, MIN_PATIENTS = 40, 20
NO_HYGROMA = (
    "No image of a real cystic hygroma was used, in training or in testing: none could be had. What it finds are "
    "thickened nuchal regions, drawn into real images or simulated outright. How it does on real hygromas is "
    "unknown until a hospital measures it."
)


@dataclass(frozen=True)
class Data:
    """sets: as they were opened, in the recipe's order."""

    sets: Sequence[Dataset]

    @cached_property
    def stills(self) -> list[LabelledImage]:
        """The images of nuchal views, which the bank's entries index."""
        return stills_of(self.sets)

    @cached_property
    def trained(self) -> list[LabelledImage]:
        """Those of them that are not held out for good."""
        return [still for still in self.stills if still.fold != HOLDOUT]

    @cached_property
    def elsewhere(self) -> list[LabelledImage]:
        """Other anatomy to train on."""
        return elsewhere_of(self.sets, held_out=False)

    @cached_property
    def other_anatomy(self) -> list[LabelledImage]:
        """Other anatomy that the report judges."""
        return elsewhere_of(self.sets, held_out=True)

    @property
    def nuchal(self) -> Dataset:
        """The images of nuchal views as one data set, whose copies and folds are looked at together."""
        own = [found for found in self.sets if not found.elsewhere]
        return Dataset(
            own[0].source, own[0].folder, own[0].classes, self.stills, all(found.patients_known for found in own)
        )

    @property
    def holdout(self) -> bool:
        return any(still.fold == HOLDOUT for still in self.stills)

    @property
    def positives(self) -> list[LabelledImage]:
        """Real ones, to train on."""
        return [still for still in self.trained if still.hygroma == 1]

    @property
    def negatives(self) -> list[LabelledImage]:
        return [still for still in self.trained if still.hygroma == 0]

    def require_findings(self) -> None:
        """InputError where a class of images with a finding is missing, as a cross-validation of nothing else needs them."""
        self.nuchal.with_findings()

    @property
    def stands_on_real(self) -> bool:
        """Whether gate and operating point stand on real positives: where there are enough, or no lesion can be drawn."""
        return bool(self.positives) and (
            stands_on_real(len(self.positives), len({still.group for still in self.positives})) or not self.editable()
        )

    @property
    def planes(self) -> bool:
        """Whether a plane head can be learned from labels: both kinds are there."""
        others = len(self.elsewhere) + sum(still.plane == OTHER_PLANE for still in self.trained)
        return bool(others) and any(still.plane == STANDARD_PLANE for still in self.trained)

    @property
    def boxes(self) -> bool:
        return any(still.nt_box is not None for still in self.trained)

    @property
    def pictures(self) -> list[Path]:
        """Every image on which some run is judged, or trained."""
        return [image.path for image in (*self.stills, *self.elsewhere, *self.other_anatomy)]

    def editable(self, held_out: bool = False) -> list[LabelledImage]:
        """What lesions are drawn into, of the training images or of those that are held out for good."""
        return [still for still in self.stills if still.editable and (still.fold == HOLDOUT) == held_out]

    def digest(self, columns: Sequence[str]) -> str:
        """SHA-256 over what the tables say and over every image that a bank is made of."""
        return digest_of([*self.stills, *self.elsewhere], columns)


def digest_of(images: Sequence[LabelledImage], columns: Sequence[str] = ()) -> str:
    """SHA-256 over what is said of images and over their files, not over where these lie."""
    said = hashlib.sha256()
    for image in images:
        row = [image.name, image.patient, image.site, image.hygroma, image.plane, image.fold, image.nt_box, image.thalami_box,
               image.nt_mm, [image.labels.get(column) for column in columns], sha256_of(image.path)]  # fmt: skip
        said.update(json.dumps(row).encode())
    return said.hexdigest()


def stands_on_real(positives: int, patients: int) -> bool:
    """Whether real positives are enough for the gate and the operating point: how many, of how many patients."""
    return positives >= MIN_POSITIVES and patients >= MIN_PATIENTS


def open_data(recipe: Recipe) -> Data:
    """The recipe's data sets. InputError names file, line and fix."""
    columns = [head.column for head in recipe.heads]
    return Data(open_datasets([Path(source) for source in recipe.data], recipe.positive, columns))


def _draws(data: Data, recipe: Recipe) -> bool:
    """Whether lesions are drawn into training images."""
    return recipe.lesions and bool(data.editable())


def require_learnable(data: Data, recipe: Recipe) -> None:
    """InputError where no hygroma head could be learned from it, or nothing be judged."""
    source = ", ".join(recipe.data)
    if not data.stills:
        raise InputError(f"{source}: other anatomy alone; name a data set with nuchal views too (docs/data.md)")
    if not data.positives and not _draws(data, recipe):
        raise InputError(
            f"{source}: no image with hygroma 1 to train on, and none that a lesion can be drawn into"
            + (" (`lesions` is false)" if not recipe.lesions else "")
            + "; add images with hygromas, or healthy standard planes (hygroma 0, plane standard) with nt_box and thalami_box. "
            "Without any, `hygroma adapt` fits a given bundle to the site"
        )
    if not data.negatives:
        raise InputError(f"{source}: no image with hygroma 0 to train on; add healthy images, or fill in the column")
    if data.holdout and recipe.lesions and data.editable() and not data.editable(held_out=True) and not data.positives:
        raise InputError(
            f"{source}: found {sum(still.fold == HOLDOUT for still in data.stills)} held-out images, none of them a healthy "
            "standard plane with nt_box and thalami_box; add some to draw lesions into, or hold nothing out"
        )


def require_statistics(data: Data, recipe: Recipe) -> None:
    """InputError where a bundle's limit of distances could not be fitted: too few training images could be assessable."""
    n = sum(still.plane != OTHER_PLANE for still in data.trained)
    if n + recipe.phantom.training_frames < MIN_IMAGES:
        raise InputError(
            f"{', '.join(recipe.data)}: found {n} training images that may be assessable; a bundle needs {MIN_IMAGES}: add "
            "images, or phantom.training_frames in the recipe"
        )


def grouped(
    data: Data, seed: int, on_step: Callable[[int, int], None], lesions: bool = True
) -> tuple[list[str], np.ndarray]:
    """The patient and the fold, HOLDOUT among them, of each of `data.stills`; copies stay together. lesions: whether any are
    drawn. InputError where an image cannot be read, a patient is in two folds, or, where figures stand on real positives, a fold
    lacks a class."""
    nuchal, hashes, bad = data.nuchal, [], []
    for number, image in enumerate(nuchal.images):
        on_step(number, len(nuchal.images))
        try:
            hashes.append(perceptual_hash(read_grey(image.path)))
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError(lines(bad))
    groups = patient_groups(nuchal, same_images(np.stack(hashes)))
    folds = assign_folds(nuchal, groups, seed)
    found = [i for i, image in enumerate(nuchal.images) if image.hygroma != UNKNOWN and folds[i] != HOLDOUT]
    if data.stands_on_real or not lesions:
        judged = replace(nuchal, images=[nuchal.images[i] for i in found])
        check_folds(judged, [groups[i] for i in found], folds[found])
    return groups, folds


def lacks(data: Data, recipe: Recipe) -> list[str]:
    """What the data lack, and what that costs, a sentence each: said before anything is trained, and in the card."""
    given = "the given bundle's" if recipe.given else ""
    found: list[str] = []
    real, patients = len(data.positives), len({still.group for still in data.positives})
    drawn = _draws(data, recipe)
    if not real:
        found.append(NO_HYGROMA)
    elif not stands_on_real(real, patients):
        found.append(
            f"{real} images of real hygromas of {patients} patients, fewer than {MIN_POSITIVES} of {MIN_PATIENTS}: "
            + (
                "the gate and the operating point stand on simulated ones."
                if drawn
                else "the gate and the operating point stand on few."
            )
        )
    if not drawn:
        why = "`lesions` is false" if not recipe.lesions else "no healthy standard plane has both boxes"
        found.append(
            f"No simulated lesions ({why}): sensitivity by thickness, and whether an edit gives itself away, are not known."
        )
    if not data.planes:
        found.append(
            "No labels of planes (standard and other): the plane head imitates the given bundle's, and is not judged."
            if given
            else "No labels of planes (standard and other) and no given bundle: there is no plane head, and the device cannot "
            "tell whether a picture shows the nuchal plane at all."
        )
    if not data.boxes:
        found.append(
            "No boxes of the nuchal region: the map imitates the given bundle's, and is not judged."
            if given
            else "No boxes of the nuchal region and no given bundle: there is no nuchal map, and overlays are left out."
        )
    if not any(still.nt_mm is not None for still in data.trained):
        found.append("No thickness: the hygroma head learns yes and no alone, and does not rank by thickness.")
    if not data.holdout:
        found.append(
            "No held-out split: the shipped weights are judged on no image; the figures are of the folds' models."
        )
    if not data.other_anatomy:
        found.append("No other anatomy held out: how much of it is called assessable is not known.")
    if not all(opened.patients_known for opened in data.sets):
        found.append(
            "Nobody said whose the images are: each counts as a patient of its own, and folds may share patients."
        )
    if not recipe.phantom.training_frames:
        found.append("No phantom frames: the exams that the decision is fitted on show what the heads never saw.")
    if not recipe.phantom.fitting_exams:
        found.append(f"The decision was fitted on no exam: it is {given or 'the one that every fit starts from'}.")
    if len({still.site for still in data.stills}) < 2:
        found.append("Images of one site: how it does at another is not known.")
    return found
