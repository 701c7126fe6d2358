"""Live sources through OpenCV: V4L2/UVC grabbers and RTSP streams."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from edge.capture.opencv import cv2
from edge.capture.source import OpenClose
from edge.capture.uri import redact
from edge.config import CaptureConfig
from edge.errors import SourceError
from edge.records import Frame

log = logging.getLogger(__name__)

# Failed reads after which a source counts as lost. One or two are a damaged frame; a lost device fails at every read,
# at once.
FAILED_IN_A_ROW_MAX = 5


class _LiveSource(OpenClose):
    """What the two have in common: BGR uint8 [H,W,3], stamped when read."""

    live = True
    media_time = False

    def __init__(self, name: str, config: CaptureConfig) -> None:
        self.name = name
        self.decode_errors = 0
        self._config = config
        self._capture: cv2.VideoCapture | None = None
        self._next_id = 0

    def open(self) -> None:
        self.close()
        capture = self._connect()
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self.name}: cannot be opened; {self._advice()}")
        self._capture = capture
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        log.info("%s: open, %dx%d at %g fps", self.name, width, height, capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> Frame | None:
        if self._capture is None:
            raise SourceError(f"{self.name}: read before open; use the source as a context manager")
        for _ in range(FAILED_IN_A_ROW_MAX):
            try:
                good, image = self._capture.read()
            except cv2.error:
                good, image = False, None
            if good and image is not None:
                frame = Frame(self._next_id, time.monotonic_ns(), image)
                self._next_id += 1
                return frame
            self.decode_errors += 1
        raise SourceError(f"{self.name}: lost, {FAILED_IN_A_ROW_MAX} reads in a row gave no picture; {self._advice()}")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _connect(self) -> cv2.VideoCapture:
        raise NotImplementedError

    def _advice(self) -> str:
        raise NotImplementedError


class V4l2Source(_LiveSource):
    """A V4L2 device by path, best one under /dev/v4l/by-id: numbers change when a camera is plugged in again."""

    def __init__(self, device: str, config: CaptureConfig) -> None:
        super().__init__(f"v4l2:{device}", config)
        self._device = device

    def _connect(self) -> cv2.VideoCapture:
        # OpenCV takes only /dev/videoN by name: an identity is resolved anew at every opening.
        capture = cv2.VideoCapture(str(Path(self._device).resolve()), cv2.CAP_V4L2)
        if self._config.pixel_format != "auto":
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._config.pixel_format))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._config.height)
        capture.set(cv2.CAP_PROP_FPS, self._config.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # frames; a longer queue only makes the picture older
        return capture

    def _advice(self) -> str:
        if not Path(self._device).exists():
            return "the device is not there: check the cable, and the name with `ls /dev/v4l/by-id`"
        return "check that no other program has it and that this user is in the group video"


class RtspSource(_LiveSource):
    """An RTSP stream over TCP."""

    def __init__(self, uri: str, config: CaptureConfig) -> None:
        super().__init__(redact(uri), config)
        self._uri = uri

    def _connect(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(
            self._uri,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                round(self._config.open_timeout_s * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                round(self._config.read_timeout_s * 1000),
            ],
        )

    def _advice(self) -> str:
        return "check the address, the path, the credentials and the network"
