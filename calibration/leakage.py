"""Leakage between folds: one image under two patients or two labels, one patient in two folds. Found and refused.

Two files are the same image when their perceptual hashes nearly agree. The hash is the sign pattern of the image's 255
lowest cosine frequencies (after Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration.dataset import FOLDS, HOLDOUT, UNASSIGNED, UNKNOWN, Dataset, LabelledImage
from calibration.folds import grouped_folds
from calibration.naming import some
from edge.errors import InputError

HASH_SIDE, HASH_FREQUENCIES = 64, 16  # pixels, frequencies an axis: 16*16 less the mean are 255 bits
# Measured on 1,368 first-trimester stills of 1,366 patients: different patients differ by 56 bits at least; re-encoded,
# rescaled, brightened or annotated copies by 32 at most (95 % by 20). The usual 63-bit hash confuses patients (4 bits).
SAME_IMAGE_BITS = 32
INNER_PARTS = 5  # one of them, a fifth of the training images, tells when to stop
BLOCK = 1024  # rows compared at once: bounds memory


@dataclass(frozen=True)
class Pair:
    """Two images, by index, that are one; how many of the 255 bits differ."""

    a: int
    b: int
    bits: int


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """uint8 [H,W] -> bool [255]."""
    small = cv2.resize(grey, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:HASH_FREQUENCIES, :HASH_FREQUENCIES].flatten()[1:]
    return np.asarray(low > np.median(low))


def same_images(hashes: np.ndarray) -> list[Pair]:
    """Every pair within SAME_IMAGE_BITS; bool [N,255]. Exact copies are pairs of 0 bits."""
    return [pair for pair in same_between(hashes, hashes) if pair.a < pair.b]


def same_between(hashes: np.ndarray, others: np.ndarray) -> Iterator[Pair]:
    """Every pair of one of `hashes` (a) and one of `others` (b) within SAME_IMAGE_BITS; bool [N,255] and [M,255]."""
    bits, known = hashes.astype(np.float32), others.astype(np.float32)
    ones, known_ones = bits.sum(1), known.sum(1)
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK]
        distance = ones[start : start + BLOCK, None] + known_ones[None] - 2 * block @ known.T
        for i, j in np.argwhere(distance <= SAME_IMAGE_BITS):
            yield Pair(int(start + i), int(j), round(float(distance[i, j])))


def patient_groups(data: Dataset, pairs: Sequence[Pair]) -> list[str]:
    """The group that each image must stay with: its patient; where nobody said whose they are, copies of one image are one group.

    InputError naming the pairs when one image has two findings or shows two kinds of planes, stands under two patients, or is
    trained on as well as held out."""
    images = data.images

    def differing(key: str, unknown: object) -> list[str]:
        return [
            f"{_named(images[p.a], key)} = {_named(images[p.b], key)} ({p.bits} of 255 bits differ)"
            for p in pairs
            if unknown not in (values := [getattr(images[i], key) for i in (p.a, p.b)]) and values[0] != values[1]
        ]

    for key, unknown, what, fix in (
        ("hygroma", UNKNOWN, "with two findings", "keep the right one of each"),
        ("plane", UNKNOWN, "as two kinds of planes", "keep the right one of each"),
        ("patient", "", "under two patients", "give it one patient, or remove the copy"),
    ):
        if found := differing(key, unknown):
            raise InputError(f"{data.source}: the same image {what}: {some(found)}; {fix}")
    groups = [image.group for image in images]
    for pair in pairs:
        one, other = groups[pair.a], groups[pair.b]
        if one != other:
            groups = [one if group == other else group for group in groups]
    split: dict[str, dict[bool, str]] = defaultdict(dict)
    for group, image in zip(groups, images, strict=True):
        split[group].setdefault(image.fold == HOLDOUT, image.name)
    if both := [f"{group} ({', '.join(sorted(found.values()))})" for group, found in split.items() if len(found) > 1]:
        raise InputError(
            f"{data.source}: patients trained on as well as held out: {some(both)}; give all images of one the same split, or remove "
            "the copy"
        )
    return groups


def _named(image: LabelledImage, key: str) -> str:
    return f"{image.name} (patient {image.patient})" if key == "patient" else image.name


def assign_folds(data: Dataset, groups: Sequence[str], seed: int) -> np.ndarray:
    """int [N]: the fold in which each image is held out, HOLDOUT for what is never trained on. The table's folds where it has them;
    else grouped by patient, stratified by finding and plane, with both classes in every fold where that can be. InputError when
    there are fewer patients than folds, or a patient is in two folds."""
    folds = np.array([image.fold for image in data.images])
    free = np.flatnonzero(folds == UNASSIGNED).tolist()
    trained = np.flatnonzero(folds != HOLDOUT).tolist()
    if (n := len({groups[i] for i in trained})) < FOLDS:
        raise InputError(
            f"{data.source}: {n} patients to train on for {FOLDS} folds; add images of {FOLDS - n} more patients"
            + ("" if data.patients_known else " (copies of one image count once)")
        )
    if len(free):
        mine, images = [groups[i] for i in free], [data.images[i] for i in free]
        # By plane as well, which another head is fitted on; by finding alone where that leaves a fold without a class.
        folds[free] = grouped_folds([f"{image.hygroma:g} {image.plane:g}" for image in images], mine, FOLDS, seed)
        findings = np.array([image.hygroma for image in images])
        known = {*findings.tolist()} - {UNKNOWN}
        if any(not known <= set(findings[folds[free] == fold].tolist()) for fold in range(FOLDS)):
            folds[free] = grouped_folds(findings, mine, FOLDS, seed)
    _check_patients(data, groups, folds)
    return folds


def _check_patients(data: Dataset, groups: Sequence[str], folds: np.ndarray) -> None:
    where: dict[str, dict[int, str]] = defaultdict(dict)
    for image, group, fold in zip(data.images, groups, folds, strict=True):
        where[group].setdefault(int(fold), image.name)
    split = [
        f"{group}: " + ", ".join(f"{name} in fold {fold}" for fold, name in sorted(found.items()))
        for group, found in where.items()
        if len(found) > 1
    ]
    if split:
        raise InputError(f"{data.source}: patients in two folds: {some(split)}; give each patient one fold")


def check_folds(data: Dataset, groups: Sequence[str], folds: np.ndarray) -> None:
    """InputError when a class has fewer patients than there are folds, or a fold lacks a class; of images that all have a
    finding."""
    for label, kind in enumerate(data.classes):
        n = len({group for group, image in zip(groups, data.images, strict=True) if image.label == label})
        if n < FOLDS:
            raise InputError(
                f"{data.source}: {n} patients with images of {kind!r} for {FOLDS} folds; add images of {FOLDS - n} more patients"
                + ("" if data.patients_known else " (copies of one image count once)")
            )
    held = Counter(zip(folds.tolist(), data.labels.tolist(), strict=True))
    for fold in range(FOLDS):
        for label, kind in enumerate(data.classes):
            if not held[fold, label]:
                raise InputError(
                    f"{data.source}: fold {fold} has no image of {kind!r}; add patients of that class, or give the folds in the table "
                    "(column split)"
                )


def inner_split(
    labels: np.ndarray, groups: Sequence[str], keep: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The training images `keep` of a fold -> (trained on, watched for early stopping): indices, about 4 to 1, grouped and
    stratified. InputError when either part would lack a class."""
    mine, own = [groups[i] for i in keep], labels[keep]
    patients = [len({group for group, label in zip(mine, own, strict=True) if label == kind}) for kind in (0, 1)]
    if min(patients) >= 2:
        parts = grouped_folds(own, mine, min(INNER_PARTS, *patients), seed)
        for part in range(parts.max() + 1):  # the first that holds both classes and leaves both
            watched, trained = keep[parts == part], keep[parts != part]
            if all(len(set(labels[side].tolist())) == 2 for side in (watched, trained)):
                return trained, watched
    raise InputError(
        f"{patients[0]} and {patients[1]} patients of the two classes to train on: part of them must be set aside for early "
        "stopping, and both parts need both classes; add patients"
    )
