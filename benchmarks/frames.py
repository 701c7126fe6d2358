"""Pictures to measure with: the shipped phantom clip (simulated), at any size, and a camera that hands them out on time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from edge.capture.pixels import decode
from edge.capture.recorded import FileSource
from edge.capture.source import OpenClose
from edge.capture.v4l2 import Negotiated
from edge.demo import CLIP, read_session
from edge.errors import InputError
from edge.records import Frame

KEPT = 32  # pictures, 2.8 MB each at 720p: neighbours differ, as a live screen's do
SKIPPED = 50  # frames from the exam's start: two seconds, after which the fan is settled
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160)}


def clip_frames(count: int = KEPT, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """`count` neighbouring pictures of the clip's first exam with a collection, BGR uint8 [H,W,3]; `size` is (W, H) in pixels."""
    pictures = _decoded(count)
    if size is not None and pictures[0].shape[1::-1] != size:
        return [cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) for picture in pictures]
    return list(pictures)


@functools.lru_cache(1)  # a few hundred frames are decoded to get there
def _decoded(count: int) -> tuple[np.ndarray, ...]:
    _, _, exams = read_session()
    first = next(exam.first_frame for exam in exams if exam.truth == "hygroma") + SKIPPED
    pictures: list[np.ndarray] = []
    with FileSource(CLIP, fast=True) as source:
        for _ in range(first + count):
            frame = source.read()
            if frame is None:
                raise InputError(f"{CLIP}: ends before picture {first + count}; install the package again")
            if frame.id >= first:
                pictures.append(frame.image)
    return tuple(pictures)


def to_yuyv(picture: np.ndarray) -> memoryview:
    """BGR uint8 [H,W,3], even sides -> the bytes that a UVC grabber would give for it."""
    height, width = picture.shape[:2]
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    chroma = planes[height:].reshape(2, height // 2, width // 2).repeat(2, axis=1)
    packed = np.empty((height, width, 2), np.uint8)
    packed[..., 0], packed[:, 0::2, 1], packed[:, 1::2, 1] = planes[:height], chroma[0], chroma[1]
    return memoryview(packed.tobytes())


def yuyv_decoder(size: tuple[int, int]) -> Callable[[memoryview], np.ndarray]:
    """What V4l2Source does with each buffer."""
    form = Negotiated("YUYV", *size, stride=2 * size[0])

    def to_picture(data: memoryview) -> np.ndarray:
        picture = decode(data, form, grey=False)
        assert picture is not None  # the buffer is whole
        return picture

    return to_picture


class ScheduledCamera(OpenClose):
    """Hands out `frames` pictures at `fps`, in turn. A frame's stamp is when it was due, not when it was taken: a reader that
    comes late finds it that much older. `convert` is done to each in `read`, as a camera's decoding is."""

    live = False
    media_time = False
    missed = 0
    decode_errors = 0

    def __init__(
        self,
        buffers: Sequence,
        fps: float,
        frames: int,
        convert: Callable = lambda picture: picture,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.format = f"benchmark camera at {fps:g} fps", ""
        self._buffers, self._fps, self._frames, self._convert = buffers, fps, frames, convert
        self._clock_ns, self._sleep_s = clock_ns, sleep_s
        self._next = self._first_ns = 0

    def open(self) -> None:
        self._next, self._first_ns = 0, self._clock_ns()

    def close(self) -> None:
        pass

    def read(self) -> Frame | None:
        index = self._next
        if index == self._frames:
            return None
        self._next += 1
        due_ns = self._first_ns + round(index * 1e9 / self._fps)
        wait_ns = due_ns - self._clock_ns()
        if wait_ns > 0:
            self._sleep_s(wait_ns / 1e9)
        return Frame(index, due_ns, self._convert(self._buffers[index % len(self._buffers)]))
