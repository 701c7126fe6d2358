"""A site's own images as a bundle's heads are fitted on them: read as the device reads a still, planes, patients, folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from calibration.crops import read_crops
from calibration.dataset import FOLDS, HOLDOUT, OTHER_PLANE, UNKNOWN, Dataset, LabelledImage
from calibration.leakage import assign_folds, check_folds, patient_groups, same_images
from edge.errors import InputError
from edge.records import Signal

STANDARD, OTHER, UNLABELLED = 1, 0, -1  # planes


@dataclass(frozen=True)
class Site:
    """A site's images that the device would score. labels {0,1} [N], UNKNOWN where another plane has no finding; planes [N]:
    STANDARD, OTHER or UNLABELLED; groups, folds [N]; crops uint8 [N,S,S]; others: the images left out, by signal."""

    data: Dataset
    labels: np.ndarray
    planes: np.ndarray
    groups: list[str]
    folds: np.ndarray
    crops: np.ndarray
    others: dict[str, int]


def read_site(
    data: Dataset, size: int, seed: int, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Site:
    """The images as the device would see them, folds grouped by patient. Images that it would not score are left out and
    counted, and so are images without a finding and held-out ones, which are not fitted on. InputError as `hygroma crossval` has
    them."""
    data.with_findings()  # both classes are there
    unused = Counter(why for image in data.images if (why := _why_unused(image)))
    data = replace(data, images=[image for image in data.images if not _why_unused(image)])
    crops = read_crops(data, size, on_step)
    kept = [i for i, signal in enumerate(crops.signals) if signal == Signal.OK.value]
    others = unused + Counter(signal for signal in crops.signals if signal != Signal.OK.value)
    if not kept:
        raise InputError(f"{data.source}: none of {len(data.images)} images would be scored ({dict(others)})")
    groups = patient_groups(data, same_images(crops.hashes))
    shown = replace(data, images=[data.images[i] for i in kept])
    own = [groups[i] for i in kept]
    folds = assign_folds(shown, own, seed)
    planes = np.array([int(image.plane) for image in shown.images])
    standard = [i for i, plane in enumerate(planes) if plane != OTHER]  # the hygroma head is fitted on these alone
    try:
        check_folds(replace(shown, images=[shown.images[i] for i in standard]), [own[i] for i in standard], folds[standard])
    except InputError as error:
        of_these = "" if len(standard) == len(kept) else "of the images that are not labelled as other planes: "
        raise InputError(f"{of_these}{error}") from None
    return Site(shown, shown.labels, planes, own, folds, crops.model[kept], dict(others))


def _why_unused(image: LabelledImage) -> str:
    """Why no head is fitted on it, in words; "" where one is."""
    if image.fold == HOLDOUT:
        return "held out"
    return "" if image.hygroma != UNKNOWN or image.plane == OTHER_PLANE else "without a finding"


def why_frozen(site: Site) -> str:
    """Why the plane head cannot be fitted; "" when it can."""
    if (site.planes == UNLABELLED).all():
        return "the site's images carry no plane labels"
    for plane, name in ((STANDARD, "standard"), (OTHER, "other")):
        mine = site.planes == plane
        patients = {g for g, m in zip(site.groups, mine, strict=True) if m}
        folds = set(site.folds[mine].tolist())
        if len(patients) < FOLDS or len(folds) < FOLDS:
            return f"{len(patients)} patients in {len(folds)} folds are labelled {name!r}, {FOLDS} in {FOLDS} are needed"
    return ""
