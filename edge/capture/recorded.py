"""Recorded sources: a video file, and any iterator of pictures (the phantom, a test)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from edge.capture.aspect import Squarer, told_by_opencv
from edge.capture.container import broken_inside, cut_off, is_trimmed
from edge.capture.opencv import cv2, open_file
from edge.capture.pacer import ClipTimes, Pacer
from edge.capture.source import OpenClose
from edge.errors import InputError
from edge.records import Frame

log = logging.getLogger(__name__)

# Reads tried after one that gives nothing: OpenCV does not tell a damaged packet from the end. A second of 30 fps
# video.
DAMAGED_IN_A_ROW_MAX = 30
GREY = int.from_bytes(b"Y800", "little")  # what OpenCV calls a clip whose pictures have no colour planes


class FileSource(OpenClose):
    """A video file through OpenCV's FFmpeg. Each picture that can be decoded is delivered, none dropped here.

    Frames are BGR uint8 [H,W,3]; of a clip stored as grey, where OpenCV can (5.0 does, 4.6 does not), grey [H,W] as they
    are: no conversion there (.1 ms of CPU at 640x360) and none back in the screen reader. What FFmpeg patched up itself
    cannot be told from a whole picture; what it gave up is missing and counted. Each picture has the time that the container
    gives it (see ClipTimes), and square pixels (see Squarer; `pixel_aspect` overrides what the clip says).
    """

    live = False
    missed = 0

    def __init__(self, path: str | Path, fast: bool = False, pixel_aspect: float | None = None) -> None:
        self.name = f"file:{path}"
        self.media_time = fast
        self.decode_errors = 0
        self._path, self._fast, self._pixel_aspect = Path(path), fast, pixel_aspect
        self._stored = ""  # size and rate, in words
        self._capture: cv2.VideoCapture | None = None
        self._next_id = 0
        self._in_clip = self._failed = 0
        self._squarer: Squarer | None = None
        self._times: ClipTimes | None = None

    def open(self) -> None:
        self.close()
        if not self._path.is_file():
            what = "is not a file" if self._path.exists() else "no such file"
            raise InputError(f"{self._path}: {what}; give the path of a video clip, as in file:clip.mp4")
        if self._path.stat().st_size == 0:
            raise InputError(f"{self._path}: the file is empty; copy the clip again")
        capture = open_file(self._path)
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
        self._stored = f"{width:.0f}x{height:.0f} at {self.fps:g} fps"
        self._squarer = Squarer(str(self._path), told_by_opencv(capture), self._pixel_aspect)
        self._times = ClipTimes(str(self._path), self.fps)

    @property
    def format(self) -> str:
        """What the clip is, and what was made of it: pixels that were not square, times that it does not tell."""
        made = [part.words for part in (self._squarer, self._times) if part is not None and part.words]
        return ", ".join([self._stored, *made])

    @property
    def pictures(self) -> int:
        """As many as the container states, for a progress bar alone: some state too many. 0: it does not say."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) if self._capture is not None else 0

    @property
    def fps(self) -> float:
        """The rate at which the clip was recorded, frames per second. After `open`."""
        return self._pacer.fps

    def read(self) -> Frame | None:
        if self._capture is None or self._squarer is None or self._times is None:
            raise InputError(f"{self._path}: read before open; use the source as a context manager")
        image = self._decode(self._capture)
        if image is None:
            self._check_end(self._capture, self._times)
            return None
        due_s = self._times.at(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        frame = Frame(self._next_id, self._pacer.stamp_at(due_s), self._squarer.square(image))
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

    def _check_end(self, capture: cv2.VideoCapture, times: ClipTimes) -> None:
        """Counts what should have come, and an end before the one that the container states.

        The number of pictures that OpenCV gives is for many containers their length times their rate: too many for a clip with
        pauses, or with a longer sound track. It is a reason to look closer and nothing more.
        """
        if self._in_clip == 0:
            raise InputError(
                f"{self._path}: opens as video but no picture in it can be decoded; it is damaged or cut off"
            )
        here = self._in_clip + self._failed
        if times.left_out or capture.get(cv2.CAP_PROP_FRAME_COUNT) > here:
            lost = self._lost(here, times.left_out)
            if lost:
                self.decode_errors += lost
                log.warning("%s: %d of %d pictures could not be decoded", self._path, lost + self._failed, here + lost)
            elif times.left_out:
                log.info("%s: pauses up to %.1f s long, as its own times say", self._path, times.longest_s)
        if cut := cut_off(self._path):
            self.decode_errors += 1
            log.warning("%s: ended at picture %d; %s", self._path, here, cut)

    def _lost(self, here: int, left_out: int) -> int:
        """Pictures that are in the file, or were, and did not come. `left_out`: as many as would fill the times between."""
        if is_trimmed(self._path):  # what an edit leaves out is not lost, and cannot be told from it
            return 0
        lost = self._packets() - here
        return max(left_out, 1) if lost <= 0 and broken_inside(self._path) else max(0, lost)

    def _packets(self) -> int:
        """Coded pictures in the file, counted without decoding any; 0 when this OpenCV cannot."""
        capture = open_file(self._path)
        try:
            if not capture.isOpened() or not capture.set(cv2.CAP_PROP_FORMAT, -1):  # -1: as they are coded
                return 0
            count = 0
            while capture.grab():
                count += 1
            return count
        except cv2.error:
            return 0
        finally:
            capture.release()

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
        self._holds = ""  # what it is, in words
        self._squarer: Squarer | None = None
        self._times_s: list[float] | None = None  # of each picture, seconds from the first; None: at `fps`
        self._images, self._fps, self._fast = images, fps, fast
        self._iterator: Iterator[np.ndarray] = iter(())
        self._next_id = 0

    def open(self) -> None:
        self._iterator = iter(self._images)
        self._pacer = Pacer(self._fps, self._fast)
        self._first_id = self._next_id

    @property
    def format(self) -> str:
        return ", ".join(part for part in (self._holds, self._squarer.words if self._squarer else "") if part)

    def read(self) -> Frame | None:
        image = next(self._iterator, None)
        if image is None:
            return None
        index = self._next_id - self._first_id
        t_ns = self._pacer.stamp(index) if self._times_s is None else self._pacer.stamp_at(self._times_s[index])
        frame = Frame(self._next_id, t_ns, self._squarer.square(image) if self._squarer else image)
        self._next_id += 1
        return frame

    def close(self) -> None:
        self._iterator = iter(())
