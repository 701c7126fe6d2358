"""A kernel with V4L2 cameras in it, down to the ioctls' structures: what can be enumerated, set, streamed and unplugged."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.capture import v4l2

Picture = Callable[[str, tuple[int, int], int], bytes]  # (fourcc, (width, height), sequence) -> the buffer's bytes


@dataclass
class FakeCamera:
    """One product in one socket. `modes`: sizes of each pixel format. `rates`: frames per second, any size."""

    modes: dict[str, list[tuple[int, int]]]
    picture: Picture
    card: str = "HDMI Grabber"
    bus: str = "usb-1"
    rates: list[int] = field(default_factory=lambda: [60, 30])
    video: bool = True  # False: the second node of a grabber, which holds metadata
    plugged: bool = True
    silent: bool = False  # there, and gives no picture
    lost: set[int] = field(default_factory=set)  # sequence numbers that the driver never hands out
    damaged: set[int] = field(default_factory=set)  # those that it marks as damaged
    stamps_monotonic: bool = True
    forced: tuple[str, tuple[int, int]] | None = None  # what S_FMT gives, whatever was asked
    stamp_of: Callable[[int], int] | None = None  # the moment of filling -> what the driver stamps, monotonic nanoseconds
    pixel_aspect: tuple[int, int] | None = None  # height over width; None: a driver without cropping
    seen: tuple[int, int] = (0, 0)  # width and height of what the driver crops from
    stride_extra: int = 0  # padding at the end of each line, bytes
    sequence: int = 0
    opened: int = 0


class Handle:
    def __init__(self, camera: FakeCamera) -> None:
        self.camera = camera
        self.format = ("", (0, 0))
        self.rate = 0
        self.buffers: list[bytearray] = []
        self.queued: list[int] = []
        self.streaming = False


class FakeKernel:
    """`dev`: a folder that stands for /dev; `plug` puts a node there, with its link under v4l/by-id."""

    def __init__(self, dev: Path) -> None:
        self.dev, self.cameras, self.handles = dev, {}, {}  # type: ignore[var-annotated]
        self.busy: set[str] = set()
        (dev / "v4l" / "by-id").mkdir(parents=True)

    def plug(self, camera: FakeCamera, node: str, link: str = "") -> str:
        camera.plugged = True
        self.cameras[node] = camera
        (self.dev / node).write_text("")
        if link:
            path = self.dev / "v4l" / "by-id" / link
            path.unlink(missing_ok=True)
            path.symlink_to(self.dev / node)
            return str(path)
        return str(self.dev / node)

    def unplug(self, node: str) -> None:
        self.cameras.pop(node).plugged = False
        (self.dev / node).unlink()
        for link in (self.dev / "v4l" / "by-id").iterdir():
            if not link.exists():
                link.unlink()

    # -- what edge.capture.v4l2.Kernel asks

    def open(self, path: str) -> int:
        name = os.path.basename(os.path.realpath(path))
        if name in self.busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if name not in self.cameras:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.cameras[name].opened += 1
        fd = 100 + len(self.handles)
        self.handles[fd] = Handle(self.cameras[name])
        return fd

    def close(self, fd: int) -> None:
        self.handles[fd] = None

    def mmap(self, fd: int, length: int, offset: int) -> Any:
        handle = self.handles[fd]
        handle.buffers[offset] = Mapped(length)
        return handle.buffers[offset]

    def wait(self, fd: int, timeout_s: float) -> bool:
        handle = self.handles[fd]
        if not handle.camera.plugged:
            return True
        if handle.camera.silent or not handle.queued:
            time.sleep(min(timeout_s, 0.01))
            return False
        return timeout_s > 0  # one picture at a time: nothing newer is ever there already

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        handle = self.handles[fd]
        if not handle.camera.plugged:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if request not in ANSWERS:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        ANSWERS[request](handle, argument)


class Mapped(bytearray):
    def close(self) -> None:
        pass


def _end_of_list() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _querycap(handle: Handle, cap: Any) -> None:
    cap.driver, cap.card, cap.bus_info = b"uvcvideo", handle.camera.card.encode(), handle.camera.bus.encode()
    cap.capabilities = v4l2.HAS_DEVICE_CAPS | v4l2.CAN_CAPTURE | v4l2.CAN_STREAM
    cap.device_caps = (v4l2.CAN_CAPTURE if handle.camera.video else 0) | v4l2.CAN_STREAM


def _enum_fmt(handle: Handle, item: Any) -> None:
    fourccs = list(handle.camera.modes)
    if item.index >= len(fourccs):
        raise _end_of_list()
    item.pixelformat = v4l2.fourcc_code(fourccs[item.index])


def _enum_framesizes(handle: Handle, item: Any) -> None:
    sizes = handle.camera.modes[v4l2.fourcc_text(item.pixel_format)]
    if item.index >= len(sizes):
        raise _end_of_list()
    item.type = v4l2.DISCRETE
    item.values[0], item.values[1] = sizes[item.index]


def _enum_frameintervals(handle: Handle, item: Any) -> None:
    if item.index >= len(handle.camera.rates):
        raise _end_of_list()
    item.type = v4l2.DISCRETE
    item.values[0], item.values[1] = 1, handle.camera.rates[item.index]


def _g_fmt(handle: Handle, item: Any) -> None:
    item.fmt.pix.width, item.fmt.pix.height = handle.format[1]


def _s_fmt(handle: Handle, item: Any) -> None:
    pix, camera = item.fmt.pix, handle.camera
    asked = (v4l2.fourcc_text(pix.pixelformat), (pix.width, pix.height))
    handle.format = camera.forced or asked
    fourcc, (pix.width, pix.height) = handle.format
    pix.pixelformat = v4l2.fourcc_code(fourcc)
    bytes_a_pixel = {"YUYV": 2, "UYVY": 2, "NV12": 1, "GREY": 1}.get(fourcc, 0)
    pix.bytesperline = bytes_a_pixel * pix.width + camera.stride_extra if bytes_a_pixel else 0


def _parm(handle: Handle, item: Any) -> None:
    item.capability = v4l2.CAN_SET_RATE
    if item.denominator:
        handle.rate = round(item.denominator / item.numerator)
    item.numerator, item.denominator = 1, handle.rate


def _reqbufs(handle: Handle, item: Any) -> None:
    handle.buffers, handle.queued = [bytearray() for _ in range(item.count)], []


def _querybuf(handle: Handle, item: Any) -> None:
    item.length, item.offset = 4 * 1920 * 1080, item.index


def _qbuf(handle: Handle, item: Any) -> None:
    handle.queued.append(item.index)


def _dqbuf(handle: Handle, item: Any) -> None:
    camera = handle.camera
    while camera.sequence in camera.lost:
        camera.sequence += 1
    item.index = handle.queued.pop(0)
    data = camera.picture(*handle.format, camera.sequence)
    handle.buffers[item.index][: len(data)] = data
    item.bytesused, item.sequence = len(data), camera.sequence
    item.flags = v4l2.STAMP_MONOTONIC if camera.stamps_monotonic else 0
    if camera.sequence in camera.damaged:
        item.flags |= v4l2.BUFFER_DAMAGED
    now_ns = time.monotonic_ns()
    if camera.stamp_of is not None:
        now_ns = camera.stamp_of(now_ns)
    item.seconds, item.microseconds = now_ns // 10**9, now_ns % 10**9 // 1000
    camera.sequence += 1


def _cropcap(handle: Handle, item: Any) -> None:
    if handle.camera.pixel_aspect is None:
        raise _end_of_list()
    item.numerator, item.denominator = handle.camera.pixel_aspect
    item.defrect.width, item.defrect.height = handle.camera.seen


ANSWERS: dict[int, Callable[[Handle, Any], None]] = {
    v4l2.QUERYCAP: _querycap, v4l2.ENUM_FMT: _enum_fmt, v4l2.ENUM_FRAMESIZES: _enum_framesizes,
    v4l2.ENUM_FRAMEINTERVALS: _enum_frameintervals, v4l2.G_FMT: _g_fmt, v4l2.S_FMT: _s_fmt, v4l2.G_PARM: _parm,
    v4l2.S_PARM: _parm, v4l2.CROPCAP: _cropcap, v4l2.REQBUFS: _reqbufs, v4l2.QUERYBUF: _querybuf, v4l2.QBUF: _qbuf,
    v4l2.DQBUF: _dqbuf,
    v4l2.STREAMON: lambda handle, item: setattr(handle, "streaming", True),
    v4l2.STREAMOFF: lambda handle, item: setattr(handle, "streaming", False),
}  # fmt: skip
