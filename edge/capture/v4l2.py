"""V4L2 as the kernel speaks it: the ioctls that a camera needs, over ctypes, and nothing more.

`Device` asks and answers in Python's terms; every call to the system goes through a `Kernel`, which tests replace.
Structures follow <linux/videodev2.h> on a 64-bit machine. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

CAPTURE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
MMAP = 1  # V4L2_MEMORY_MMAP
DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE and V4L2_FRMIVAL_TYPE_DISCRETE; other values are ranges
CAN_CAPTURE = 0x00000001  # V4L2_CAP_VIDEO_CAPTURE
CAN_STREAM = 0x04000000  # V4L2_CAP_STREAMING
HAS_DEVICE_CAPS = 0x80000000  # V4L2_CAP_DEVICE_CAPS: device_caps describes this node, not the whole device
CAN_SET_RATE = 0x1000  # V4L2_CAP_TIMEPERFRAME
BUFFER_DAMAGED = 0x0040  # V4L2_BUF_FLAG_ERROR
STAMP_KIND, STAMP_MONOTONIC = 0xE000, 0x2000  # V4L2_BUF_FLAG_TIMESTAMP_MASK and _MONOTONIC
LISTED_MAX = 256  # entries of one enumeration; a driver that never says EINVAL must not hold us for ever
# Common heights among which a driver that gives a range of sizes is asked for: PAL, 720p, 1080p and VGA.
RANGE_SIZES = ((640, 480), (720, 576), (1280, 720), (1920, 1080))


class Capability(ctypes.Structure):
    _fields_ = [
        ("driver", ctypes.c_char * 16), ("card", ctypes.c_char * 32), ("bus_info", ctypes.c_char * 32),
        ("version", ctypes.c_uint32), ("capabilities", ctypes.c_uint32), ("device_caps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]  # fmt: skip


class FmtDesc(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32), ("type", ctypes.c_uint32), ("flags", ctypes.c_uint32),
        ("description", ctypes.c_char * 32), ("pixelformat", ctypes.c_uint32), ("mbus_code", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]  # fmt: skip


class FrameSize(ctypes.Structure):
    """values: discrete width, height; or min, max, step of the width, then of the height."""

    _fields_ = [
        ("index", ctypes.c_uint32), ("pixel_format", ctypes.c_uint32), ("type", ctypes.c_uint32),
        ("values", ctypes.c_uint32 * 6), ("reserved", ctypes.c_uint32 * 2),
    ]  # fmt: skip


class FrameInterval(ctypes.Structure):
    """values: numerator, denominator of a discrete interval; or of the shortest, the longest and the step."""

    _fields_ = [
        ("index", ctypes.c_uint32), ("pixel_format", ctypes.c_uint32), ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32), ("type", ctypes.c_uint32), ("values", ctypes.c_uint32 * 6),
        ("reserved", ctypes.c_uint32 * 2),
    ]  # fmt: skip


class PixFormat(ctypes.Structure):
    _fields_ = [
        ("width", ctypes.c_uint32), ("height", ctypes.c_uint32), ("pixelformat", ctypes.c_uint32),
        ("field", ctypes.c_uint32), ("bytesperline", ctypes.c_uint32), ("sizeimage", ctypes.c_uint32),
        ("colorspace", ctypes.c_uint32), ("priv", ctypes.c_uint32), ("flags", ctypes.c_uint32),
        ("ycbcr_enc", ctypes.c_uint32), ("quantization", ctypes.c_uint32), ("xfer_func", ctypes.c_uint32),
    ]  # fmt: skip


class _FormatUnion(ctypes.Union):
    _fields_ = [("pix", PixFormat), ("raw", ctypes.c_uint8 * 200), ("align", ctypes.c_void_p)]


class Format(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint32), ("fmt", _FormatUnion)]


class StreamParm(ctypes.Structure):
    """The capture half; the rest of the kernel's union is padding to its 200 bytes."""

    _fields_ = [
        ("type", ctypes.c_uint32), ("capability", ctypes.c_uint32), ("capturemode", ctypes.c_uint32),
        ("numerator", ctypes.c_uint32), ("denominator", ctypes.c_uint32), ("padding", ctypes.c_uint8 * 184),
    ]  # fmt: skip


class RequestBuffers(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_uint32), ("type", ctypes.c_uint32), ("memory", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32), ("reserved", ctypes.c_uint32),
    ]  # fmt: skip


class Rect(ctypes.Structure):
    _fields_ = [("left", ctypes.c_int32), ("top", ctypes.c_int32), ("width", ctypes.c_uint32), ("height", ctypes.c_uint32)]


class CropCap(ctypes.Structure):
    """numerator/denominator: height over width of a pixel, before any scaling."""

    _fields_ = [
        ("type", ctypes.c_uint32), ("bounds", Rect), ("defrect", Rect), ("numerator", ctypes.c_uint32),
        ("denominator", ctypes.c_uint32),
    ]  # fmt: skip


class Crop(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint32), ("c", Rect)]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32), ("type", ctypes.c_uint32), ("bytesused", ctypes.c_uint32),
        ("flags", ctypes.c_uint32), ("field", ctypes.c_uint32), ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long), ("timecode", ctypes.c_uint32 * 4), ("sequence", ctypes.c_uint32),
        ("memory", ctypes.c_uint32), ("offset", ctypes.c_ulong), ("length", ctypes.c_uint32),
        ("reserved2", ctypes.c_uint32), ("request_fd", ctypes.c_int32),
    ]  # fmt: skip


def _ioc(direction: int, number: int, size: int) -> int:
    """_IOC of <asm-generic/ioctl.h> for V4L2's type 'V'; direction: 1 write, 2 read, 3 both."""
    return direction << 30 | size << 16 | ord("V") << 8 | number


QUERYCAP = _ioc(2, 0, ctypes.sizeof(Capability))
ENUM_FMT = _ioc(3, 2, ctypes.sizeof(FmtDesc))
G_FMT = _ioc(3, 4, ctypes.sizeof(Format))
S_FMT = _ioc(3, 5, ctypes.sizeof(Format))
REQBUFS = _ioc(3, 8, ctypes.sizeof(RequestBuffers))
QUERYBUF = _ioc(3, 9, ctypes.sizeof(Buffer))
QBUF = _ioc(3, 15, ctypes.sizeof(Buffer))
DQBUF = _ioc(3, 17, ctypes.sizeof(Buffer))
STREAMON = _ioc(1, 18, ctypes.sizeof(ctypes.c_int))
STREAMOFF = _ioc(1, 19, ctypes.sizeof(ctypes.c_int))
G_PARM = _ioc(3, 21, ctypes.sizeof(StreamParm))
S_PARM = _ioc(3, 22, ctypes.sizeof(StreamParm))
CROPCAP = _ioc(3, 58, ctypes.sizeof(CropCap))
G_CROP = _ioc(3, 59, ctypes.sizeof(Crop))
ENUM_FRAMESIZES = _ioc(3, 74, ctypes.sizeof(FrameSize))
ENUM_FRAMEINTERVALS = _ioc(3, 75, ctypes.sizeof(FrameInterval))


class Kernel(Protocol):
    """What is asked of the system. All raise OSError."""

    def open(self, path: str) -> int: ...

    def close(self, fd: int) -> None: ...

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        """Fills `argument`, a ctypes object, in place."""
        ...

    def mmap(self, fd: int, length: int, offset: int) -> Any:
        """A writable-as-read buffer with a `close`."""
        ...

    def wait(self, fd: int, timeout_s: float) -> bool:
        """Whether there is something to dequeue, an error included, within `timeout_s`."""
        ...


class LinuxKernel:
    """The real one."""

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        while True:
            try:
                fcntl.ioctl(fd, request, argument)
                return
            except InterruptedError:
                continue

    def mmap(self, fd: int, length: int, offset: int) -> mmap.mmap:
        return mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)

    def wait(self, fd: int, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(round(timeout_s * 1000)))


@dataclass(frozen=True)
class Identity:
    """What a device says of itself: `card` names the product, `bus` the socket that it is plugged into."""

    driver: str
    card: str
    bus: str


@dataclass(frozen=True)
class Negotiated:
    """What the driver settled on; it may differ from what was asked. `stride`: bytes per line, 0 for compressed."""

    fourcc: str
    width: int
    height: int
    stride: int


@dataclass(frozen=True)
class Filled:
    """One dequeued buffer. `data` is the driver's own memory: valid until it is queued again."""

    index: int
    data: memoryview
    sequence: int  # counts what the driver captured, lost ones too
    stamp_ns: int | None  # monotonic nanoseconds of capture; None when the driver stamps with another clock
    damaged: bool


class Device:
    """One open video node. Not thread-safe."""

    def __init__(self, path: str, kernel: Kernel) -> None:
        self._kernel = kernel
        self._fd = kernel.open(path)
        self._maps: list[Any] = []

    def close(self) -> None:
        """Safe to call more than once, and on a device that has gone."""
        if self._fd < 0:
            return
        self.stop()
        fd, self._fd = self._fd, -1
        self._kernel.close(fd)

    def identify(self) -> Identity | None:
        """None for a node that gives no video: a grabber's second node holds metadata only."""
        cap = Capability()
        self._kernel.ioctl(self._fd, QUERYCAP, cap)
        can = cap.device_caps if cap.capabilities & HAS_DEVICE_CAPS else cap.capabilities
        if not can & CAN_CAPTURE or not can & CAN_STREAM:
            return None
        return Identity(*(part.decode("utf-8", "replace") for part in (cap.driver, cap.card, cap.bus_info)))

    def fourccs(self) -> list[str]:
        """Pixel formats in the driver's order."""
        found = []
        for index in range(LISTED_MAX):
            item = FmtDesc(index=index, type=CAPTURE)
            if not self._enumerate(ENUM_FMT, item):
                break
            found.append(fourcc_text(item.pixelformat))
        return found

    def sizes(self, fourcc: str, wanted: tuple[int, int]) -> list[tuple[int, int]]:
        """(width, height) in pixels; of a driver that gives a range, `wanted` and common ones, as far as they fit."""
        found = []
        for index in range(LISTED_MAX):
            item = FrameSize(index=index, pixel_format=fourcc_code(fourcc))
            if not self._enumerate(ENUM_FRAMESIZES, item):
                break
            v = item.values
            if item.type == DISCRETE:
                found.append((v[0], v[1]))
            else:
                found += [
                    size
                    for size in dict.fromkeys((wanted, *RANGE_SIZES, (v[1], v[4])))
                    if _in_range(size[0], v[0], v[1], v[2]) and _in_range(size[1], v[3], v[4], v[5])
                ]
                break
        return found

    def rates(self, fourcc: str, size: tuple[int, int]) -> list[float]:
        """Frames per second; of a driver that gives a range, its two ends. Empty when it does not say."""
        found = []
        for index in range(LISTED_MAX):
            item = FrameInterval(index=index, pixel_format=fourcc_code(fourcc), width=size[0], height=size[1])
            if not self._enumerate(ENUM_FRAMEINTERVALS, item):
                break
            v = item.values
            found += [v[i + 1] / v[i] for i in ((0,) if item.type == DISCRETE else (0, 2)) if v[i] and v[i + 1]]
            if item.type != DISCRETE:
                break
        return found

    def set_format(self, fourcc: str, size: tuple[int, int]) -> Negotiated:
        item = Format(type=CAPTURE)
        self._kernel.ioctl(self._fd, G_FMT, item)
        pix = item.fmt.pix
        pix.pixelformat, pix.width, pix.height = fourcc_code(fourcc), *size
        pix.bytesperline = pix.sizeimage = pix.field = 0  # the driver's choice; 0 is V4L2_FIELD_ANY
        self._kernel.ioctl(self._fd, S_FMT, item)
        return Negotiated(fourcc_text(pix.pixelformat), pix.width, pix.height, pix.bytesperline)

    def set_rate(self, fps: float) -> float:
        """Asks for a rate, frames per second, and gives the one that was set; 0 when the driver does not say."""
        item = StreamParm(type=CAPTURE)
        try:
            self._kernel.ioctl(self._fd, G_PARM, item)
            if item.capability & CAN_SET_RATE:
                item.numerator, item.denominator = 1000, round(fps * 1000)
                self._kernel.ioctl(self._fd, S_PARM, item)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # a driver with one rate only
                return 0.0
            raise
        return item.denominator / item.numerator if item.numerator else 0.0

    def pixel_aspect(self, size: tuple[int, int]) -> float | None:
        """Width over height of a pixel of a picture of `size` (width, height); None when the driver does not say.

        Drivers of analogue video say 54/59 for PAL. 1/1 is what the kernel answers for every driver that does not say.
        """
        cap = CropCap(type=CAPTURE)
        try:
            self._kernel.ioctl(self._fd, CROPCAP, cap)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            return None
        if not cap.numerator or not cap.denominator or cap.numerator == cap.denominator:
            return None
        crop, seen = Crop(type=CAPTURE), cap.defrect
        with contextlib.suppress(OSError):  # a driver that cannot crop shows all
            self._kernel.ioctl(self._fd, G_CROP, crop)
            seen = crop.c if crop.c.width and crop.c.height else seen
        scaled = seen.width / size[0] / (seen.height / size[1]) if seen.width and seen.height else 1.0
        return cap.denominator / cap.numerator * scaled

    def start(self, buffers: int) -> None:
        """Maps `buffers` buffers (the driver may give another number), queues them and starts the stream."""
        request = RequestBuffers(count=buffers, type=CAPTURE, memory=MMAP)
        self._kernel.ioctl(self._fd, REQBUFS, request)
        for index in range(request.count):
            buffer = self._buffer(index)
            self._kernel.ioctl(self._fd, QUERYBUF, buffer)
            self._maps.append(self._kernel.mmap(self._fd, buffer.length, buffer.offset))
        for index in range(request.count):
            self.release(index)
        self._kernel.ioctl(self._fd, STREAMON, ctypes.c_int(CAPTURE))

    def stop(self) -> None:
        """Ends the stream and gives its memory back. On a device that has gone, what can be given back."""
        if not self._maps:
            return
        self._try(STREAMOFF, ctypes.c_int(CAPTURE))
        for mapped in self._maps:
            # A picture still looks into it (on an error's way out): it goes when that does.
            with contextlib.suppress(BufferError):
                mapped.close()
        self._maps = []
        self._try(REQBUFS, RequestBuffers(count=0, type=CAPTURE, memory=MMAP))

    def take(self, timeout_s: float) -> Filled | None:
        """The oldest filled buffer; None when there is none within `timeout_s`. Give it back with `release`."""
        if not self._kernel.wait(self._fd, timeout_s):
            return None
        buffer = self._buffer(0)
        try:
            self._kernel.ioctl(self._fd, DQBUF, buffer)
        except BlockingIOError:
            return None
        monotonic = buffer.flags & STAMP_KIND == STAMP_MONOTONIC
        stamp = buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000 if monotonic else None
        used = min(buffer.bytesused, len(self._maps[buffer.index]))
        data = memoryview(self._maps[buffer.index])[:used]
        return Filled(buffer.index, data, buffer.sequence, stamp, bool(buffer.flags & BUFFER_DAMAGED))

    def release(self, index: int) -> None:
        """Gives a buffer back to the driver."""
        self._kernel.ioctl(self._fd, QBUF, self._buffer(index))

    def _enumerate(self, request: int, item: Any) -> bool:
        try:
            self._kernel.ioctl(self._fd, request, item)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # the end of the list, or a driver without one
                return False
            raise
        return True

    def _try(self, request: int, argument: Any) -> None:
        with contextlib.suppress(OSError):  # unplugged: the kernel has taken everything back already
            self._kernel.ioctl(self._fd, request, argument)

    @staticmethod
    def _buffer(index: int) -> Buffer:
        return Buffer(index=index, type=CAPTURE, memory=MMAP)


def fourcc_code(text: str) -> int:
    return int.from_bytes(text.encode("ascii"), "little")


def fourcc_text(code: int) -> str:
    return (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace")


def video_nodes(dev: os.PathLike[str] | str = "/dev") -> Iterator[str]:
    """/dev/video0, /dev/video1, ... that are there now."""
    names = (name for name in os.listdir(dev) if name.startswith("video") and name[5:].isdigit())
    for name in sorted(names, key=lambda name: int(name[5:])):
        yield os.path.join(dev, name)


def _in_range(value: int, low: int, high: int, step: int) -> bool:
    return low <= value <= high and (value - low) % max(step, 1) == 0
