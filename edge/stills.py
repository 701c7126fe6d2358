"""Scoring of files: stills, folders of them, DICOM, clips. Pictures in, one record a frame out; nothing is latched."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge.capture.dicom import open_cine
from edge.capture.picture import read_picture
from edge.capture.recorded import FileSource
from edge.decision.assess import assess
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import ConfigError, HygromaError, InputError
from edge.events.disk import why_unwritable
from edge.events.evidence import heat_overlay
from edge.kinds import KNOWN, is_litter, kind_of
from edge.records import Frame, Reading, Scores
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still

INDEX = "DICOMDIR"  # the table of contents of a DICOM medium: DICOM, without a picture
MAX_BYTES = 2**30  # of one file: an hour of 720p H.264; larger is a mistake that would fill memory


@dataclass(frozen=True)
class Scored:
    """One frame's result. `reading.crop` is what the model saw when the signal is OK."""

    path: Path
    frame: int
    reading: Reading
    assessable: bool
    reasons: tuple[str, ...]
    scores: Scores
    crop: np.ndarray  # uint8 [S,S]: what was scored
    ms: float  # screen reading, preprocessing and inference


@dataclass(frozen=True)
class Unscored:
    """A file, or a folder, that gave no result; `error` names it, what was found and what to do."""

    path: Path
    error: str


class Overlays:
    """Pictures of scored frames with their nuchal maps, PNG, in one folder. No input's overlay replaces another's."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. ConfigError when it cannot be written."""
        if problem := why_unwritable(folder):
            raise ConfigError(f"--overlay: {problem}; name a folder that this user may write")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._owners: dict[str, Path] = {}  # by the name that its overlays begin with

    def write(self, scored: Scored) -> None:
        """OSError when it cannot be written."""
        if scored.scores.nuchal_map is None:
            raise ConfigError("--overlay: the bundle has no nuchal map; leave it out, or name a bundle with one")
        picture = heat_overlay(scored.crop, scored.scores.nuchal_map, 3 * scored.crop.shape[0])
        _, png = cv2.imencode(".png", picture)
        (self._folder / f"{self._name(scored.path)}_{scored.frame:06d}.png").write_bytes(png.tobytes())

    def _name(self, path: Path) -> str:
        stem = path.stem if path.suffix.lower() in KNOWN else path.name  # of 1.2.840.3 the 3 is no ending
        name, number = stem, 1
        while self._owners.setdefault(name, path) != path:
            number += 1
            name = f"{stem}-{number}"
        return name


def score_paths(
    paths: list[Path], scorer: Scorer, every: int = 1, overlays: Overlays | None = None
) -> Iterator[Scored | Unscored]:
    """Every `every`-th frame of the files and folders that are named. What goes wrong with one leaves the others alone."""
    for named in paths:
        try:
            files, problems = list_files(named)
        except (OSError, ValueError) as error:  # a name too long, a null byte, a folder that is closed
            yield Unscored(named, _told(named, error))
            continue
        yield from problems
        if not files and not problems:
            yield Unscored(named, f"{named}: nothing in this folder can be scored; it takes pictures, clips and DICOM")
        for path in files:
            try:
                for scored in score_file(path, scorer, every):
                    yield scored
                    if overlays is not None:
                        overlays.write(scored)
            except (HygromaError, OSError, ValueError, MemoryError, cv2.error) as error:
                yield Unscored(path, _told(path, error))


def list_files(named: Path) -> tuple[list[Path], list[Unscored]]:
    """A file as it is; of a folder all within that can be scored, by name, and what could not be looked at.

    By their endings (edge/kinds.py), and DICOM and clips by content too: files of an archive have numbers for names. What
    systems leave in folders is left out.
    OSError, ValueError: no path.
    """
    if not named.is_dir():
        return [named], []
    files: list[Path] = []
    problems: list[Unscored] = []

    def closed(error: OSError) -> None:
        problems.append(Unscored(Path(error.filename), _told(Path(error.filename), error)))

    for folder, below, names in os.walk(named, onerror=closed):
        below[:] = [name for name in below if not is_litter(Path(name))]
        for path in (Path(folder, name) for name in names):
            try:
                if path.is_file() and path.name != INDEX and not is_litter(path) and _can_be_scored(path):
                    files.append(path)
            except OSError as error:
                problems.append(Unscored(path, _told(path, error)))
    return sorted(files), problems


def _can_be_scored(path: Path) -> bool:
    return path.suffix.lower() in KNOWN or kind_of(path) in ("clip", "dicom")


def _told(path: Path, error: Exception) -> str:
    if isinstance(error, HygromaError):
        return str(error)
    what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"{path}: cannot be scored ({what}); check its name, its permissions and that it is whole"


def score_file(path: Path, scorer: Scorer, every: int = 1) -> Iterator[Scored]:
    """Every `every`-th frame of one file. InputError when it cannot be read; frames before a fault have been given."""
    if not path.is_file():
        raise InputError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes; at most {MAX_BYTES} are read: cut the clip")
    spec = scorer.manifest.preprocessing
    params = DecisionParams.from_manifest(scorer.manifest)
    kind = kind_of(path)
    if kind == "clip":
        with FileSource(path, fast=True) as source:
            frames = iter(source.read, None)
            yield from _score_cine(path, frames, scorer, spec, params, every)
    elif kind == "dicom":
        cine = open_cine(path)
        if cine.count == 1:
            ((_, image),) = cine.square_pictures()
            yield _score(path, 0, image, read_still(image, spec), scorer, spec, params, time.perf_counter())
        else:
            frames = (Frame(i, round(cine.at_s(i) * 1e9), image) for i, image in cine.square_pictures())
            yield from _score_cine(path, frames, scorer, spec, params, every)
    else:
        started = time.perf_counter()
        image = read_picture(path)
        yield _score(path, 0, image, read_still(image, spec), scorer, spec, params, started)


def _score_cine(
    path: Path, frames: Iterator[Frame], scorer: Scorer, spec: Preprocessing, params: DecisionParams, every: int
) -> Iterator[Scored]:
    reader = ScreenReader(spec)
    for frame in frames:
        started = time.perf_counter()
        reading = reader.read(frame)
        if frame.id % every == 0:
            yield _score(path, frame.id, frame.image, reading, scorer, spec, params, started)


def _score(
    path: Path,
    frame: int,
    image: np.ndarray,
    reading: Reading,
    scorer: Scorer,
    spec: Preprocessing,
    params: DecisionParams,
    started: float,
) -> Scored:
    crop = reading.crop
    if crop is None:  # probabilities are given all the same; `assessable` says that they mean nothing
        crop = prepare(image, reading.fan or full_fan(image.shape), spec)
    scores = scorer.score(crop)
    assessable, reasons = assess(reading.signal, scores.plane, scores.ood, params)
    return Scored(path, frame, reading, assessable, reasons, scores, crop, (time.perf_counter() - started) * 1e3)
