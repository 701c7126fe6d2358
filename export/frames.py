"""A folder of frames without labels, as a site records them: found, described by their contents, decoded to crops."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calibration.dataset import IMAGES, find_images, read_image
from calibration.leakage import perceptual_hash, same_images
from calibration.naming import NAMED, some
from calibration.stills import read_grey
from edge.errors import InputError
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare, to_grey
from edge.screen.still import read_still
from export.atomic import appearing

log = logging.getLogger("hygroma.frames")

Progress = Callable[[str, int, int], None]  # (what, done, total)


def find_frames(folder: Path) -> list[Path]:
    """Every picture under `folder`, by name; what else lies there is logged. InputError when there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds the unlabelled frames")
    found, others = find_images(folder)
    if not found:
        raise InputError(f"{folder}: holds no picture ({IMAGES}), in no folder below it either")
    if others:
        log.warning("%s: left out, no pictures: %s", folder, some(p.relative_to(folder).as_posix() for p in others))
    return found


def contents_of(paths: Sequence[Path], folder: Path) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: not readable ({error.strerror}); correct its rights, or remove it") from None
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def decode_frames(paths: Sequence[Path], side: int, target: Path, progress: Progress) -> None:
    """Writes uint8 [N,side,side] to `target`, .npy on disk, since a hundred thousand would not fit into memory. InputError naming
    what cannot be decoded, and then nothing is written."""
    spec = Preprocessing(size=side)
    bad: list[str] = []
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
        if bad:
            more = f"\nand {len(bad) - NAMED} more" if len(bad) > NAMED else ""
            raise InputError("\n".join(bad[:NAMED]) + more)
        crops.flush()


def require_unseen(paths: Sequence[Path], stills: Sequence[Path], progress: Progress) -> None:
    """InputError naming the frames that are the same image as one of the data's `stills`: each is held out of some run."""
    pictures = [*paths, *stills]
    hashes = np.empty((len(pictures), 255), bool)
    for number, path in enumerate(pictures):
        progress("frames: the same as a still?", number, len(pictures))
        hashes[number] = perceptual_hash(to_grey(read_image(path)) if number < len(paths) else read_grey(path))
    seen = [
        f"{pictures[p.a].name} = {pictures[p.b].name}" for p in same_images(hashes) if p.a < len(paths) <= p.b
    ]
    if seen:
        raise InputError(f"unlabelled frames that are stills of the data, so held out of a fold: {some(seen)}; remove them")
