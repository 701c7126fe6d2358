"""What a data set holds, and everything that is wrong with it: each image is decoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.bank import require_boxes_inside
from calibration.dataset import HOLDOUT, UNASSIGNED, UNKNOWN, Dataset
from calibration.images import read_grey
from calibration.leakage import Pair, leaks, perceptual_hash, same_images
from calibration.open_dataset import inspect_source
from calibration.origin import read_origin
from edge.errors import InputError

EVERY = 1_000_000  # images: what a fault names is not cut short here


@dataclass(frozen=True)
class Held:
    """One data set. patients: None where nobody said whose the images are. findings, planes, splits, sites, scanners, boxes:
    images by kind. sizes: smallest and largest of the images that decode, [width, height] pixels; copies: pairs of images that
    are one."""

    source: str
    kind: str
    origin: str
    images: int
    unreadable: int
    patients: int | None
    findings: dict[str, int]
    planes: dict[str, int]
    splits: dict[str, int]
    sites: dict[str, int]
    scanners: dict[str, int]
    boxes: dict[str, int]
    sizes: list[list[int]]
    copies: list[str]


@dataclass(frozen=True)
class Inspected:
    """data: what could be opened; None where it is no data set at all. hashes: of each of its images, None of one that does not
    decode. faults: for which a command would refuse it, a sentence each with its fix."""

    held: Held | None
    data: Dataset | None
    hashes: Sequence[np.ndarray | None]
    faults: list[str]


def inspect(source: Path, positive: str, on_step: Callable[[int, int], None] = lambda done, total: None) -> Inspected:
    """Nothing is raised for what is wrong: it is said."""
    try:
        data, faults = inspect_source(source, positive, most=EVERY)
    except InputError as error:
        return Inspected(None, None, [], [str(error)])
    origin = ""
    try:
        found = read_origin(source)
        origin = f"{found.name} ({found.licence}); {found.citation}" if found else ""
    except InputError as error:
        faults.append(str(error))
    hashes: list[np.ndarray | None] = []
    sizes: list[tuple[int, int]] = []
    for number, image in enumerate(data.images):
        on_step(number, len(data.images))
        try:
            grey = read_grey(image.path)
            hashes.append(perceptual_hash(grey))
            sizes.append((grey.shape[1], grey.shape[0]))
            require_boxes_inside(image, grey.shape)
        except InputError as error:
            if len(hashes) == number:
                hashes.append(None)
            faults.append(str(error))
    pairs = pairs_of(hashes)
    if not data.elsewhere:  # of other anatomy no figure by fold is drawn
        faults += leaks(data, pairs, EVERY)
    sizes.sort(key=lambda size: size[0] * size[1])
    names = [image.name for image in data.images]
    called = {0.0: data.classes[0], 1.0: data.classes[1], UNKNOWN: "without"}
    held = Held(
        source=str(source),
        kind="folders" if source.is_dir() else "table",
        origin=origin,
        images=len(data.images),
        unreadable=sum(found is None for found in hashes),
        patients=len({image.patient for image in data.images}) if data.patients_known else None,
        findings=_counted(called[image.hygroma] for image in data.images),
        planes=_counted(image.plane_called or "unlabelled" for image in data.images),
        splits=_counted(_split(image.fold) for image in data.images),
        sites=_counted(image.site for image in data.images if image.site),
        scanners=_counted(image.scanner for image in data.images if image.scanner),
        boxes={
            "nt_box": sum(image.nt_box is not None for image in data.images),
            "thalami_box": sum(image.thalami_box is not None for image in data.images),
            "nt_mm": sum(image.nt_mm is not None for image in data.images),
            "mm_per_px": sum(image.mm_per_px is not None for image in data.images),
        },
        sizes=[list(sizes[0]), list(sizes[-1])] if sizes else [],
        copies=[f"{names[p.a]} = {names[p.b]}" + (f" ({p.bits} of 255 bits differ)" if p.bits else "") for p in pairs],
    )
    return Inspected(held, data, hashes, faults)


def pairs_of(hashes: Sequence[np.ndarray | None]) -> list[Pair]:
    """Images that are one, of those that decode."""
    at = [i for i, found in enumerate(hashes) if found is not None]
    if not at:
        return []
    pairs = same_images(np.stack([found for found in hashes if found is not None]))
    return [Pair(at[pair.a], at[pair.b], pair.bits) for pair in pairs]


def _split(fold: int) -> str:
    return {UNASSIGNED: "to be dealt into folds", HOLDOUT: "held out"}.get(fold, f"fold {fold}")


def _counted(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))
