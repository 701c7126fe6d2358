"""Folders of pictures and DICOM cines, played like clips."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge.capture.aspect import Squarer
from edge.capture.dicom import Cine, open_cine
from edge.capture.pacer import FALLBACK_FPS
from edge.capture.picture import read_picture
from edge.capture.recorded import FileSource, FramesSource
from edge.capture.source import Source
from edge.errors import InputError
from edge.kinds import DICOMS, STILLS, is_clip, is_dicom, is_litter, kind_of

log = logging.getLogger(__name__)


class ImagesSource(FramesSource):
    """The pictures of one folder in natural order (frame2 before frame10), not of the folders in it.

    uint8 grey [H,W] or BGR [H,W,3], as `read_picture` gives them; of DICOM files every picture, with square pixels. What cannot
    be decoded is counted, logged and left out; what systems leave in a folder is not looked at.
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
        paths = sorted((p for p in self._folder.iterdir() if is_picture(p)), key=_natural)
        if not paths:
            raise InputError(f"{self._folder}: no picture in it; it may hold {', '.join(sorted(STILLS))} and DICOM")
        self._images = self._decode(paths)
        super().open()
        self._holds = f"{len(paths)} pictures at {self._fps:g} fps"

    def _decode(self, paths: list[Path]) -> Iterator[np.ndarray]:
        given = 0
        for path in paths:
            try:
                for image in self._pictures(path):
                    given += 1
                    yield image
            except (InputError, OSError) as error:
                self.decode_errors += 1
                log.warning("%s; left out", error if isinstance(error, InputError) else f"{path}: {error.strerror}")
        if not given:
            raise InputError(f"{self._folder}: none of its {len(paths)} pictures can be decoded")

    def _pictures(self, path: Path) -> Iterator[np.ndarray]:
        if not is_dicom(path):
            yield read_picture(path)
            return
        for _, image in open_cine(path).square_pictures(self._damaged):
            yield image

    def _damaged(self, index: int) -> None:
        self.decode_errors += 1


def is_picture(path: Path) -> bool:
    """A still or DICOM by its ending, or DICOM by content, and somebody's. One that cannot be opened is told when it is read."""
    if is_litter(path) or not path.is_file():
        return False
    try:
        return path.suffix.lower() in STILLS | DICOMS or is_dicom(path)
    except OSError:
        return False


class DicomSource(FramesSource):
    """The frames of a DICOM file at their own times; see `open_cine` for pixels and errors. Damaged ones are left out."""

    def __init__(self, path: str | Path, fast: bool = False, pixel_aspect: float | None = None) -> None:
        super().__init__(f"dicom:{path}", (), FALLBACK_FPS, fast)
        self._path, self._pixel_aspect = Path(path), pixel_aspect

    def open(self) -> None:
        """InputError when there is no such file, or it cannot be decoded."""
        if not self._path.is_file():
            what = "is not a file" if self._path.exists() else "no such file"
            raise InputError(f"{self._path}: {what}; give a DICOM file, as in dicom:cine.dcm")
        cine = open_cine(self._path)
        self._fps, self._times_s = cine.fps, []
        self._images = self._decode(cine, self._times_s)
        self._squarer = Squarer(self.name, cine.pixel_aspect, self._pixel_aspect)
        super().open()
        self._holds = f"DICOM, {cine.count} frames at {self._fps:g} fps"

    def _decode(self, cine: Cine, times_s: list[float]) -> Iterator[np.ndarray]:
        for index, image in cine.pictures(self._damaged):
            times_s.append(cine.at_s(index))
            yield image

    def _damaged(self, index: int) -> None:
        self.decode_errors += 1


class PictureSource(FramesSource):
    """One picture file; see `read_picture` for what is refused."""

    def __init__(self, path: Path, fast: bool = False, pixel_aspect: float | None = None) -> None:
        super().__init__(f"file:{path}", (), FALLBACK_FPS, fast)
        self._path = path
        self._squarer = Squarer(self.name, None, pixel_aspect)

    def open(self) -> None:
        """InputError when it cannot be read whole."""
        self._images = [read_picture(self._path)]
        super().open()
        self._holds = "a picture"


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]


def open_by_content(path: Path, fast: bool, pixel_aspect: float | None) -> Source:
    """The source for `file:`, by what lies there and whatever its name: a folder of pictures, DICOM, a still, or a clip.

    InputError for a folder without a picture.
    """
    if path.is_dir():
        inside = sorted((p for p in path.iterdir() if p.is_file() and not is_litter(p)), key=_natural)
        if any(is_picture(p) for p in inside):
            return ImagesSource(path, None, fast, pixel_aspect)
        if clips := [p.name for p in inside if is_clip(p)]:
            raise InputError(f"{path}: a folder of {len(clips)} clips; name one of them: file:{path / clips[0]}")
        raise InputError(f"{path}: a folder without pictures; name a clip, a DICOM file, or a folder that holds pictures")
    kind = ""
    if path.is_file():
        with suppress(OSError):  # told when it is opened
            kind = kind_of(path)
    if kind == "dicom":
        return DicomSource(path, fast, pixel_aspect)
    if kind == "still" and path.suffix.lower() in STILLS:  # others may be films: a GIF, JPEGs one after the other
        return PictureSource(path, fast, pixel_aspect)
    return FileSource(path, fast, pixel_aspect)
