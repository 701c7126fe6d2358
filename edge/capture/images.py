"""Folders of pictures and DICOM cines, played like clips."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge.capture.aspect import Squarer
from edge.capture.dicom import read_cine
from edge.capture.opencv import cv2
from edge.capture.pacer import FALLBACK_FPS
from edge.capture.recorded import FramesSource
from edge.errors import InputError
from edge.kinds import STILLS

log = logging.getLogger(__name__)


class ImagesSource(FramesSource):
    """The pictures of one folder in natural order (frame2 before frame10), not of the folders in it.

    uint8 grey [H,W] or BGR [H,W,3], as they are stored. A picture that cannot be decoded is counted, logged and left out.
    """

    def __init__(
        self, folder: str | Path, fps: float | None = None, fast: bool = False, pixel_aspect: float | None = None
    ) -> None:
        super().__init__(f"images:{folder}", (), fps or FALLBACK_FPS, fast)
        self._squarer = Squarer(self.name, None, pixel_aspect)
        self._folder = Path(folder)

    def open(self) -> None:
        """InputError when there is no such folder, or no picture in it."""
        if not self._folder.is_dir():
            what = "is not a folder" if self._folder.exists() else "no such folder"
            raise InputError(f"{self._folder}: {what}; give one that holds pictures, as in images:FOLDER?fps=10")
        paths = sorted((p for p in self._folder.iterdir() if p.suffix.lower() in STILLS), key=_natural)
        if not paths:
            raise InputError(f"{self._folder}: no picture in it; it may hold {', '.join(sorted(STILLS))}")
        self._images = self._decode(paths)
        super().open()
        self._holds = f"{len(paths)} pictures at {self._fps:g} fps"

    def _decode(self, paths: list[Path]) -> Iterator[np.ndarray]:
        given = 0
        for path in paths:
            image = _read(path)
            if image is None:
                self.decode_errors += 1
                log.warning("%s: cannot be decoded, left out", path)
                continue
            given += 1
            yield image
        if not given:
            raise InputError(f"{self._folder}: none of its {len(paths)} pictures can be decoded")


class DicomSource(FramesSource):
    """The frames of a DICOM file at their own times; see `read_cine` for pixels and errors."""

    def __init__(self, path: str | Path, fast: bool = False, pixel_aspect: float | None = None) -> None:
        super().__init__(f"dicom:{path}", (), FALLBACK_FPS, fast)
        self._path, self._pixel_aspect = Path(path), pixel_aspect

    def open(self) -> None:
        """InputError when there is no such file, or it cannot be decoded."""
        if not self._path.is_file():
            what = "is not a file" if self._path.exists() else "no such file"
            raise InputError(f"{self._path}: {what}; give a DICOM file, as in dicom:cine.dcm")
        cine = read_cine(self._path)
        self._images, self._fps, self._times_s = cine.images, cine.fps, cine.times_s
        self._squarer = Squarer(self.name, cine.pixel_aspect, self._pixel_aspect)
        super().open()
        self._holds = f"DICOM, {len(cine.images)} frames at {self._fps:g} fps"


def _read(path: Path) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYCOLOR)
    except (OSError, cv2.error):
        return None
    return image if image is None or image.dtype == np.uint8 else None


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]
