"""A V4L2 camera or grabber: its newest picture, stamped by the driver, with every one that was lost counted."""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path

from edge.capture.aspect import Squarer
from edge.capture.identity import Whereabouts
from edge.capture.modes import BUFFERS, Mode, apply, choose
from edge.capture.pixels import decode, why_damaged
from edge.capture.source import OpenClose
from edge.capture.stamps import DriverStamps
from edge.capture.v4l2 import Device, Filled, Kernel, LinuxKernel, Negotiated
from edge.config import CaptureConfig
from edge.errors import SourceError
from edge.records import Frame

log = logging.getLogger(__name__)

WAIT_S = 0.5  # seconds of one wait: a source that is closed meanwhile is noticed

# What opening a device may answer, and what to do about it.
ADVICE = {
    errno.EACCES: "this user may not read it: add it to the group `video` and log in again",
    errno.EPERM: "this process may not read it: look at DeviceAllow= of the service",
    errno.EBUSY: "another program has it: find it with `fuser -v` on the device and end it",
    errno.ENODEV: "it was unplugged: check the cable",
}


class V4l2Source(OpenClose):
    """A video device, best named under /dev/v4l/by-id. Frames are BGR uint8 [H,W,3], or grey (see `pixels`).

    The format is chosen by trial at the first opening and kept for later ones, so that a device that comes back is
    watched again at once.
    """

    live = True
    media_time = False

    def __init__(
        self, device: str, config: CaptureConfig, kernel: Kernel | None = None, dev: str | Path = "/dev"
    ) -> None:
        self._kernel = kernel or LinuxKernel()
        self._where = Whereabouts(device, self._kernel, dev)
        self.name = f"v4l2:{self._where.target}"
        self.decode_errors = self.missed = 0
        self._config = config
        self._gives = ""  # what was negotiated, in words
        self._squarer: Squarer | None = None
        self._stamps = DriverStamps(self.name)
        self._queued_ns: dict[int, int] = {}  # when each buffer was given to the driver
        self._started_ns = 0  # when the stream was
        self._empty_ns = 0  # when nothing lay ready last: what comes after was filled later
        self._fresh = False  # the newest picture was waited for
        self._damage = ""  # what was wrong with the last picture, "" when nothing was
        self._device: Device | None = None
        self._mode: Mode | None = None
        self._negotiated: Negotiated | None = None
        self._next_id = 0
        self._sequence: int | None = None  # of the picture before, in this opening

    def open(self) -> None:
        self.close()
        node = self._where.find()
        try:
            device = Device(node, self._kernel)
        except OSError as error:
            raise SourceError(f"{self.name}: cannot be opened ({error.strerror}); {_advice(error)}") from error
        try:
            self._start(device)
        except OSError as error:
            device.close()
            raise SourceError(f"{self.name}: cannot be set up ({error.strerror}); {_advice(error)}") from error
        except SourceError as error:
            device.close()
            raise SourceError(f"{self.name}: {error}") from error
        self._device = device

    def _start(self, device: Device) -> None:
        identity = device.identify()
        if identity is None:
            raise SourceError("this node gives no video; take the other one under /dev/v4l/by-id (index0)")
        mode = self._mode or choose(device, self._config, self.name)
        try:
            self._negotiated, fps = apply(device, mode, self._config)
            told = device.pixel_aspect((self._negotiated.width, self._negotiated.height))
            self._started_ns = self._empty_ns = time.monotonic_ns()
            device.start(BUFFERS)
        except (OSError, SourceError):
            self._mode = None  # whatever came back is not what it was: try all formats again
            raise
        self._where.remember(identity)
        self._mode, self._sequence = mode, None
        self._stamps.begin()
        self._queued_ns = {}
        self._damage = ""
        if self._squarer is None or self._squarer.told != told:
            self._squarer = Squarer(self.name, told, self._config.pixel_aspect)
        n = self._negotiated
        self._gives = f"{n.fourcc} {n.width}x{n.height}" + (f" at {fps:g} fps" if fps else "")
        log.info("%s: %s on %s gives %s", self.name, identity.card, identity.bus, self.format)

    @property
    def format(self) -> str:
        return ", ".join(part for part in (self._gives, self._squarer.words if self._squarer else "") if part)

    @property
    def trouble(self) -> str:
        """What is wrong with the driver's stamps, in words; "" when nothing is."""
        return self._stamps.trouble(time.monotonic_ns())

    @property
    def damage(self) -> str:
        """What was wrong with the newest picture, in words; "" when nothing was."""
        return self._damage

    @property
    def restamped(self) -> int:
        """Pictures whose stamp could not be right, since the start."""
        return self._stamps.restamped

    def read(self) -> Frame | None:
        if self._device is None or self._negotiated is None or self._squarer is None:
            raise SourceError(f"{self.name}: read before open; use the source as a context manager")
        until = time.monotonic() + self._config.read_timeout_s
        damaged = 0
        while (left_s := until - time.monotonic()) > 0:
            try:
                filled = self._newest(self._device, min(left_s, WAIT_S))
                if filled is None:
                    continue
                captured_ns = self._captured_ns(filled)
                image = None if filled.damaged else decode(filled.data, self._negotiated, self._config.grey)
                self._damage = "" if image is not None else why_damaged(filled.data, filled.damaged, self._negotiated)
                sequence = filled.sequence
                self._release(self._device, filled)
            except OSError as error:
                raise SourceError(f"{self.name}: lost ({error.strerror}); {_advice(error)}") from error
            self._count(sequence)
            if image is not None:
                return Frame(self._next_id - 1, captured_ns, self._squarer.square(image))
            damaged += 1
            self.decode_errors += 1
        what = f"only damaged pictures ({damaged}; {self._damage})" if damaged else "no picture"
        fix = "another capture.pixel_format, and the cable" if damaged else "the scanner's output and the cable"
        raise SourceError(f"{self.name}: gave {what} for {self._config.read_timeout_s:g} s; check {fix}")

    def _newest(self, device: Device, timeout_s: float) -> Filled | None:
        """The newest of the filled buffers; older ones go back unread, and `_count` finds them missing."""
        filled = device.take(0)
        if filled is None:
            self._empty_ns = time.monotonic_ns()
            filled = device.take(timeout_s)
            self._fresh = True
        else:
            self._fresh = False
        while filled is not None and (newer := device.take(0)) is not None:
            self._release(device, filled)
            filled = newer
        return filled

    def _release(self, device: Device, filled: Filled) -> None:
        self._queued_ns[filled.index] = time.monotonic_ns()
        device.release(filled.index)

    def _captured_ns(self, filled: Filled) -> int:
        """The driver's stamp where it can be right; else now for a picture that was waited for, and for one that lay ready the
        last moment at which it did not."""
        now_ns = time.monotonic_ns()
        queued_ns = self._queued_ns.get(filled.index, self._started_ns)
        came_ns = now_ns if self._fresh else self._empty_ns
        captured_ns = self._stamps.captured_ns(filled.stamp_ns, came_ns, queued_ns, now_ns)
        self._empty_ns = now_ns  # `_newest` left nothing that was ready
        return captured_ns

    def _count(self, sequence: int) -> None:
        """The ids go on by what the driver captured, so that a picture lost before it reached us leaves a gap too."""
        lost = 0 if self._sequence is None else max(0, sequence - self._sequence - 1)
        self.missed += lost
        self._next_id += lost + 1
        self._sequence = sequence

    def close(self) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None


def _advice(error: OSError) -> str:
    return ADVICE.get(error.errno or 0, "plug it in again, and look at `dmesg`")
