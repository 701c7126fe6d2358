"""Files of images: which of a folder's are some, and how one is read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge.capture.dicom import open_cine
from edge.capture.picture import read_picture
from edge.errors import InputError
from edge.kinds import DICOMS, STILLS, is_dicom, is_litter, kind_of
from edge.screen.preprocess import to_grey
from edge.stills import INDEX

IMAGES = f"{', '.join(sorted(STILLS | DICOMS))}, and DICOM by content"
TEXTS = frozenset({".txt", ".csv", ".json", ".xml", ".md", ".db", ".ini"})  # notes, annotations, what Windows leaves


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every image under `folder`, by name: by their endings, and DICOM by content too, since an archive's files have numbers for
    names. And what else lies there, texts aside. What systems leave in folders (`edge.kinds.is_litter`) is neither."""
    images, others = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not is_litter(p, folder)):
        if is_image(path) or (path.name != INDEX and _looks_like_dicom(path)):
            images.append(path)
        elif path.name != INDEX and path.suffix.lower() not in TEXTS:
            others.append(path)
    return images, others


def is_image(path: Path) -> bool:
    """Whether a file's ending says so."""
    return path.is_file() and path.suffix.lower() in STILLS | DICOMS and not is_litter(path)


def read_image(path: Path) -> np.ndarray:
    """uint8 grey [H,W] or BGR [H,W,3]. InputError as `read_picture` and `open_cine` have them, and for a clip."""
    try:
        if kind_of(path) != "dicom":
            return read_picture(path)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check its name and its rights") from None
    cine = open_cine(path)
    if cine.count != 1:
        raise InputError(f"{path}: a clip of {cine.count} frames; export the labelled frame as a picture")
    ((_, image),) = cine.square_pictures()
    return image


def read_grey(path: Path) -> np.ndarray:
    """uint8 [H,W]; a picture in colour as its decoder makes it grey. InputError as `read_image` has it."""
    try:
        if kind_of(path) != "dicom":
            return read_picture(path, grey=True)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check its name and its rights") from None
    return to_grey(read_image(path))


def _looks_like_dicom(path: Path) -> bool:
    """A file that cannot be opened is none: it is named where it is read."""
    try:
        return is_dicom(path)
    except OSError:
        return False


def shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H,W] at `side` pixels at most, the very same where it is no larger."""
    factor = side / max(grey.shape)
    if factor >= 1:
        return grey
    height, width = (max(1, round(own * factor)) for own in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
