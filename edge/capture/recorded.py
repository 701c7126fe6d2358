"""Recorded sources: a video file, and any iterator of pictures (the phantom, a test)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from edge.capture.opencv import cv2
from edge.capture.pacer import Pacer
from edge.capture.source import Opened
from edge.errors import InputError
from edge.records import Frame

log = logging.getLogger(__name__)

# Reads tried after one that gives nothing: OpenCV does not tell a damaged packet from the end. A second of 30 fps
# video.
DAMAGED_IN_A_ROW_MAX = 30
# Frames. Containers without an index only estimate how many they hold; fewer missing than this is no truncation.
COUNT_TOLERANCE = 3


class FileSource(Opened):
    """A video file through OpenCV's FFmpeg. Frames are BGR uint8 [H,W,3]; each one is delivered, none dropped here."""

    live = False

    def __init__(self, path: str | Path, fast: bool = False) -> None:
        self.name = f"file:{path}"
        self.media_time = fast
        self.decode_errors = 0
        self._path, self._fast = Path(path), fast
        self._capture: cv2.VideoCapture | None = None
        self._next_id = 0
        self._in_clip = 0

    def open(self) -> None:
        self.close()
        if not self._path.is_file():
            what = "is not a file" if self._path.exists() else "no such file"
            raise InputError(f"{self._path}: {what}; give the path of a video clip, as in file:clip.mp4")
        if self._path.stat().st_size == 0:
            raise InputError(f"{self._path}: the file is empty; copy the clip again")
        # The absolute path, so that FFmpeg cannot take a name such as "concat:a|b" for one of its protocols.
        capture = cv2.VideoCapture(str(self._path.resolve()), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise InputError(
                f"{self._path}: cannot be read as video ({self._path.stat().st_size} bytes); it is damaged, cut off"
                " before its index, or not video. Play it with ffplay to see; for stills use `hygroma score`"
            )
        self._capture, self._in_clip = capture, 0
        self._pacer = Pacer(capture.get(cv2.CAP_PROP_FPS), self._fast)

    @property
    def fps(self) -> float:
        """The rate at which the clip was recorded, frames per second. After `open`."""
        return self._pacer.fps

    def read(self) -> Frame | None:
        if self._capture is None:
            raise InputError(f"{self._path}: read before open; use the source as a context manager")
        image = self._decode(self._capture)
        if image is None:
            self._check_end(self._capture)
            return None
        frame = Frame(self._next_id, self._pacer.stamp(self._in_clip), image)
        self._next_id += 1
        self._in_clip += 1
        return frame

    def _decode(self, capture: cv2.VideoCapture) -> np.ndarray | None:
        """The next picture, over damaged ones, which are counted once a good one shows that it was not the end."""
        for damaged in range(DAMAGED_IN_A_ROW_MAX + 1):
            try:
                good, image = capture.read()
            except cv2.error:
                good, image = False, None
            if good and image is not None:
                self.decode_errors += damaged
                return image
        return None

    def _check_end(self, capture: cv2.VideoCapture) -> None:
        """Says so when a clip ended before the end that its container states."""
        if self._in_clip == 0:
            raise InputError(
                f"{self._path}: opens as video but no picture in it can be decoded; it is damaged or cut off"
            )
        stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if self._in_clip + self.decode_errors + COUNT_TOLERANCE < stated:
            self.decode_errors += 1
            log.warning("%s: ended at picture %d of %d; it is cut off", self._path, self._in_clip, stated)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class FramesSource(Opened):
    """Pictures from anywhere, for example the phantom: uint8, grey [H,W] or BGR [H,W,3], at `fps` frames per second."""

    live = False

    def __init__(self, name: str, images: Iterable[np.ndarray], fps: float, fast: bool = False) -> None:
        self.name = name
        self.media_time = fast
        self.decode_errors = 0
        self._images, self._fps, self._fast = images, fps, fast
        self._iterator: Iterator[np.ndarray] = iter(())
        self._next_id = 0

    def open(self) -> None:
        self._iterator = iter(self._images)
        self._pacer = Pacer(self._fps, self._fast)
        self._first_id = self._next_id

    def read(self) -> Frame | None:
        image = next(self._iterator, None)
        if image is None:
            return None
        frame = Frame(self._next_id, self._pacer.stamp(self._next_id - self._first_id), image)
        self._next_id += 1
        return frame

    def close(self) -> None:
        self._iterator = iter(())
