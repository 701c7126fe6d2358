"""Live sources through OpenCV: RTSP streams (its FFmpeg) and GStreamer pipelines."""

from __future__ import annotations

import logging
import re
import time

from edge.capture.aspect import Squarer, told_by_opencv
from edge.capture.gst import Pipeline
from edge.capture.identity import stable_link
from edge.capture.idle import Idle
from edge.capture.lag import SAID, STALE_NS, StreamClock
from edge.capture.opencv import cv2, ffmpeg_options
from edge.capture.source import OpenClose
from edge.config import CaptureConfig
from edge.errors import ConfigError, SourceError
from edge.records import Frame
from edge.redaction import redact

log = logging.getLogger(__name__)

# Failed reads after which a source counts as lost. One or two are a damaged frame; a lost one fails at every read, at
# once.
FAILED_IN_A_ROW_MAX = 5
LATE_MAX_NS = 2_000_000_000  # nanoseconds of stale pictures only, after which a stream is opened anew: its queue goes
# TCP: a lost UDP packet smears a frame, and a smeared frame would still be scored. Without fpsprobesize FFmpeg reads 1.2 s
# of a 25 fps stream before it gives a picture, with it .6 s (measured against GStreamer's server).
RTSP_OPTIONS = "rtsp_transport;tcp|fpsprobesize;0"


class _OpenCvSource(OpenClose):
    """What the two have in common: BGR uint8 [H,W,3] (grey [H,W] of a grey pipeline)."""

    live = True
    media_time = False
    missed = 0

    def __init__(self, name: str, config: CaptureConfig) -> None:
        self.name = name
        self.decode_errors = 0
        self._config = config
        self._negotiated = ""
        self._squarer: Squarer | None = None
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
        self._negotiated = f"{self._codec(capture)} {width:.0f}x{height:.0f} at {capture.get(cv2.CAP_PROP_FPS):g} fps"
        told = self._pixel_aspect(capture)
        if self._squarer is None or self._squarer.told != told:  # opened again for ever, it is said once
            self._squarer = Squarer(self.name, told, self._config.pixel_aspect)
        log.info("%s: open, %s", self.name, self.format)

    @property
    def format(self) -> str:
        squarer = self._squarer.words if self._squarer else ""
        return ", ".join(part for part in (self._negotiated, squarer, self._of_clock()) if part)

    def read(self) -> Frame | None:
        if self._capture is None or self._squarer is None:
            raise SourceError(f"{self.name}: read before open; use the source as a context manager")
        started_ns = time.monotonic_ns()
        for failed in range(1, FAILED_IN_A_ROW_MAX + 1):
            try:
                good, image = self._capture.read()
            except cv2.error:
                good, image = False, None
            if good and image is not None:
                frame = Frame(self._next_id, self._captured_ns(self._capture), self._squarer.square(image))
                self._next_id += 1
                self.decode_errors += failed - 1
                return frame
            if time.monotonic_ns() - started_ns > 1e9 * self._config.read_timeout_s:
                raise SourceError(f"{self.name}: no picture for {self._config.read_timeout_s:g} s; {self._advice()}")
        raise SourceError(f"{self.name}: lost, {FAILED_IN_A_ROW_MAX} reads in a row gave no picture; {self._advice()}")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _timeouts(self) -> list[int]:
        opening, reading = self._config.open_timeout_s, self._config.read_timeout_s
        return [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(opening * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(reading * 1000)
        ]  # fmt: skip

    def _captured_ns(self, capture: cv2.VideoCapture) -> int:
        return time.monotonic_ns()

    def _of_clock(self) -> str:
        """What is to be said of the stream's clock, in words."""
        return ""

    def _pixel_aspect(self, capture: cv2.VideoCapture) -> float | None:
        """Width over height of a pixel, where the source tells it."""
        return None

    def _codec(self, capture: cv2.VideoCapture) -> str:
        raise NotImplementedError

    def _connect(self) -> cv2.VideoCapture:
        raise NotImplementedError

    def _advice(self) -> str:
        raise NotImplementedError


class RtspSource(_OpenCvSource):
    """An RTSP stream over TCP. Stamps follow the stream's own clock, so that a picture which waited somewhere is known."""

    def __init__(self, uri: str, config: CaptureConfig) -> None:
        super().__init__(redact(uri), config)
        self._uri = uri
        self._clock = StreamClock()
        self._idle = Idle()
        self._rate_said = 1.0
        self._late_since_ns: int | None = None

    def read(self) -> Frame | None:
        self._idle.begin()
        frame = super().read()
        if frame is None:
            return None
        self._say_rate()
        if self._clock.shed:
            raise SourceError(f"{self.name}: pictures came ever later, then some were left out; the network is too slow for it")
        now_ns = time.monotonic_ns()
        if now_ns - frame.t_mono_ns <= STALE_NS:
            self._late_since_ns = None
        elif self._late_since_ns is None:
            self._late_since_ns = now_ns
        elif now_ns - self._late_since_ns > LATE_MAX_NS:
            late_s = (now_ns - frame.t_mono_ns) / 1e9
            raise SourceError(
                f"{self.name}: pictures come {late_s:.1f} s late; this machine or the network is too slow, or the camera's clock"
                " was set back"
            )
        return frame

    def _say_rate(self) -> None:
        if abs(self._clock.rate - self._rate_said) > SAID:
            self._rate_said = self._clock.rate
            log.warning("%s: the camera's clock runs at %.3f of this one's; it is followed", self.name, self._rate_said)

    def _of_clock(self) -> str:
        return f"its clock at {self._rate_said:.3f} of this one's" if abs(self._rate_said - 1.0) > SAID else ""

    def _connect(self) -> cv2.VideoCapture:
        self._clock, self._late_since_ns, self._rate_said = StreamClock(), None, 1.0
        parameters = self._timeouts()
        # FFmpeg keeps as many frames back as it has threads: 8 cores at 25 fps made pictures .3 s older (measured).
        if (threads := getattr(cv2, "CAP_PROP_N_THREADS", None)) is not None:
            parameters += [threads, 1]
        with ffmpeg_options(RTSP_OPTIONS):
            return cv2.VideoCapture(self._uri, cv2.CAP_FFMPEG, parameters)

    def _captured_ns(self, capture: cv2.VideoCapture) -> int:
        return self._clock.captured_ns(capture.get(cv2.CAP_PROP_POS_MSEC), time.monotonic_ns(), self._idle.ns())

    def _pixel_aspect(self, capture: cv2.VideoCapture) -> float | None:
        return told_by_opencv(capture)

    def _codec(self, capture: cv2.VideoCapture) -> str:
        code = int(capture.get(cv2.CAP_PROP_FOURCC))
        return (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").strip("\0")

    def _advice(self) -> str:
        return "check the address, the path, the credentials and the network"


class GstSource(_OpenCvSource):
    """A checked GStreamer pipeline, for a Jetson's hardware decoders and CSI cameras. At its end it is started again."""

    def __init__(self, pipeline: Pipeline, config: CaptureConfig) -> None:
        """ConfigError when this OpenCV has no GStreamer."""
        text = _by_identity(pipeline.text)
        super().__init__(f"gst:{redact(text)}", config)
        require_gstreamer()
        for change in pipeline.changed:
            log.warning("source.uri: %s: the loop takes the newest picture only", change)
        self._text = text

    def _connect(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER, self._timeouts())
        if not capture.isOpened() and _version() < (4, 8):  # does not know the time-outs and refuses them
            capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER)
            log.warning("OpenCV %s cannot time a pipeline out: one that hangs stays lost; 4.8 can", cv2.__version__)
        return capture

    def _codec(self, capture: cv2.VideoCapture) -> str:
        return "GStreamer"

    def _advice(self) -> str:
        return "try the pipeline with gst-launch-1.0, with fakesink in the place of appsink"


def require_gstreamer() -> None:
    """ConfigError, saying where to get it, when OpenCV was built without GStreamer, as all its wheels are."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise ConfigError(
            f"source.uri: gst: needs OpenCV with GStreamer, and OpenCV {cv2.__version__} at {cv2.__file__} has none. Use the"
            " system's (on a Jetson JetPack's, elsewhere `apt install python3-opencv`) in a venv made with"
            " --system-site-packages, after `pip uninstall opencv-python-headless`"
        )


def _by_identity(text: str) -> str:
    """Video devices given by number become their links under /dev/v4l, where they have one now."""

    def link(match: re.Match[str]) -> str:
        found = stable_link(match[2])
        if found is None:
            log.warning("source.uri: %s is only a number, which may be another camera tomorrow", match[2])
        return match[1] + str(found or match[2])

    return re.sub(r"""(\bdevice=["']?)(/dev/video\d+)""", link, text)


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", cv2.__version__)[:2])
