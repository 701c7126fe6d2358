"""Frames without labels, as a site records them, or of a table: found, described by their contents, decoded to crops."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calibration.dataset import HOLDOUT
from calibration.dataset_table import read_dataset
from calibration.images import IMAGES, find_images, read_grey, read_image
from calibration.leakage import perceptual_hash, same_between
from calibration.naming import lines, some
from calibration.table import name_of
from edge.errors import InputError
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, letterbox, prepare, to_grey
from edge.screen.still import read_still
from export.atomic import appearing

log = logging.getLogger("hygroma.frames")

Progress = Callable[[str, int, int], None]  # (what, done, total)


def find_frames(folder: Path) -> list[Path]:
    """Every picture under `folder`, by name; what else lies there is logged. Of a table, the images that are not held out.
    InputError when there is none."""
    if folder.is_file():
        found = [image.path for image in read_dataset(folder).images if image.fold != HOLDOUT]
        if not found:
            raise InputError(f"{folder}: all images are held out; name some to train on")
        return found
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds the unlabelled frames, or a table")
    found, others = find_images(folder)
    if not found:
        raise InputError(f"{folder}: holds no picture ({IMAGES}), in no folder below it either")
    if others:
        log.warning("%s: left out, no pictures: %s", folder, some(name_of(p, folder) for p in others))
    return found


def contents_of(paths: Sequence[Path], folder: Path) -> str:
    """SHA-256 over names, relative to the folder or to the table's, and contents."""
    digest, base = hashlib.sha256(), folder if folder.is_dir() else folder.parent
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: not readable ({error.strerror}); correct its rights, or remove it") from None
        digest.update(os.fsencode(os.path.relpath(path, base)) + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def decode_frames(
    paths: Sequence[Path], side: int, target: Path, progress: Progress, unseen: Sequence[Path] = ()
) -> None:
    """Writes uint8 [N,side,side] to `target`, .npy on disk, since a hundred thousand would not fit into memory. InputError naming
    what cannot be decoded, and what is the same image as one of the pictures `unseen`, whole or as the fan shows it; then nothing
    is written."""
    spec = Preprocessing(size=side)
    bad: list[str] = []
    whole: list[np.ndarray] = []  # perceptual hashes, where there is something to compare with
    in_fan: list[np.ndarray] = []
    with appearing(target) as partial:
        crops = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(paths), side, side))
        for number, path in enumerate(paths):
            progress("frames", number, len(paths))
            try:
                picture = read_image(path)
            except InputError as error:
                bad.append(str(error))
                continue
            fan = read_still(picture, spec).fan or full_fan(picture.shape)
            crops[number] = prepare(picture, fan, spec)
            if unseen:
                whole.append(perceptual_hash(to_grey(picture)))
                in_fan.append(perceptual_hash(crops[number]))
        if bad:
            raise InputError(lines(bad))
        if unseen:
            _require_unseen(paths, np.stack(whole), np.stack(in_fan), unseen, spec, progress)
        crops.flush()


def _require_unseen(
    paths: Sequence[Path],
    whole: np.ndarray,
    in_fan: np.ndarray,
    pictures: Sequence[Path],
    spec: Preprocessing,
    progress: Progress,
) -> None:
    """InputError naming the frames whose hashes [N,255] are those of one of `pictures`: each is held out of some run."""
    theirs: list[np.ndarray] = []
    theirs_squared: list[np.ndarray] = []
    for number, path in enumerate(pictures):
        progress("frames: compared with the data", number, len(pictures))
        grey = read_grey(path)
        theirs.append(perceptual_hash(grey))
        theirs_squared.append(perceptual_hash(letterbox(grey, spec)))
    found: dict[int, int] = {}
    for own, known in ((whole, theirs), (in_fan, theirs_squared)):
        for pair in same_between(own, np.stack(known)):
            found.setdefault(pair.a, pair.b)
    if found:
        raise InputError(
            "unlabelled frames that are pictures of the data, on which some run is judged: "
            f"{some(f'{paths[a]} = {pictures[b].name}' for a, b in found.items())}; remove them from `unlabelled.frames`"
        )
