"""Recorded sources: a video file, and any iterator of pictures (the phantom, a test)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from edge.capture.opencv import cv2
from edge.capture.pacer import Pacer
from edge.capture.source import OpenClose
from edge.errors import InputError
from edge.records import Frame

log = logging.getLogger(__name__)

# Reads tried after one that gives nothing: OpenCV does not tell a damaged packet from the end. A second of 30 fps
# video.
DAMAGED_IN_A_ROW_MAX = 30
# Frames. Containers without an index only estimate how many they hold; fewer missing than this is no truncation.
COUNT_TOLERANCE = 3
GREY = int.from_bytes(b"Y800", "little")  # what OpenCV calls a clip whose pictures have no colour planes


class FileSource(OpenClose):
    """A video file through OpenCV's FFmpeg. Each picture that can be decoded is delivered, none dropped here.

    Frames are BGR uint8 [H,W,3]; of a clip stored as grey, where OpenCV can (5.0 does, 4.6 does not), grey [H,W] as they
    are: no conversion there (.1 ms of CPU at 640x360) and none back in the screen reader. What FFmpeg patched up itself
    cannot be told from a whole picture; what it gave up is missing and counted.
    """

    live = False
    missed = 0

    def __init__(self, path: str | Path, fast: bool = False) -> None:
        self.name = f"file:{path}"
        self.media_time = fast
        self.decode_errors = 0
        self.format = ""
        self._path, self._fast = Path(path), fast
        self._capture: cv2.VideoCapture | None = None
        self._next_id = 0
        self._in_clip = self._failed = 0
        self._first_ms = self._last_ms = 0.0

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
        if int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) == GREY:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._capture, self._in_clip, self._failed = capture, 0, 0
        self._pacer = Pacer(capture.get(cv2.CAP_PROP_FPS), self._fast)
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        self.format = f"{width:.0f}x{height:.0f} at {self.fps:g} fps"

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
        self._last_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._in_clip == 0:
            self._first_ms = self._last_ms
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
                self._failed += damaged
                self.decode_errors += damaged
                return image
        return None

    def _check_end(self, capture: cv2.VideoCapture) -> None:
        """Counts the pictures that should have come in the time played, and an end before the one that the file states."""
        if self._in_clip == 0:
            raise InputError(
                f"{self._path}: opens as video but no picture in it can be decoded; it is damaged or cut off"
            )
        stated = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        due = round((self._last_ms - self._first_ms) * self._pacer.fps / 1000) + 1
        # The smaller: a clip of varying rate has fewer pictures than its rate says, and not all files state a number.
        missing = min(due, stated) - self._in_clip - self._failed
        if missing > 0:
            self.decode_errors += missing
            log.warning("%s: %d of %d pictures could not be decoded", self._path, missing + self._failed, due)
        if max(due, self._in_clip + self._failed) + COUNT_TOLERANCE < stated:
            self.decode_errors += 1
            log.warning("%s: ended at picture %d of %d; it is cut off", self._path, due, stated)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class FramesSource(OpenClose):
    """Pictures from anywhere, for example the phantom: uint8, grey [H,W] or BGR [H,W,3], at `fps` frames per second."""

    live = False
    missed = 0

    def __init__(self, name: str, images: Iterable[np.ndarray], fps: float, fast: bool = False) -> None:
        self.name = name
        self.media_time = fast
        self.decode_errors = 0
        self.format = ""
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
