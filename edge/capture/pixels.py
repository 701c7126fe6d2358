"""From a camera's buffers to pictures.

Milliseconds a picture on one core of an AVX-512 server, 1280x720 (1920x1080), cv2 with one thread, medians of 60:
to BGR YUYV .37 (.83), NV12 .32 (.72), MJPG 1.8 (4.3); to grey YUYV .31 (.68), NV12 .14 (.31), MJPG 1.1 (2.5), and the
screen reader then saves its .15 for the fan's own grey. So the Y plane alone buys at most .8 ms of a frame's 33 on a 720p
source, and costs what only colour tells: DOPPLER, colour bars. It is taken when `capture.grey` says so, and where a
source has no colour to lose.
"""

from __future__ import annotations

import re

import cv2
import numpy as np

from edge.capture.v4l2 import Negotiated

# Pixel formats that can be decoded; bytes a pixel of the uncompressed ones. UYVY is what HDMI-to-CSI bridges give.
BYTES_PER_PIXEL = {"GREY": 1.0, "YUYV": 2.0, "UYVY": 2.0, "NV12": 1.5, "MJPG": 0.0}
_TO_BGR = {"YUYV": cv2.COLOR_YUV2BGR_YUYV, "UYVY": cv2.COLOR_YUV2BGR_UYVY, "NV12": cv2.COLOR_YUV2BGR_NV12}
LUMA_BLACK, LUMA_GAIN = 16, 255 / 219  # video luma is 16 to 235: the expansion that cv2's own conversions make


def decode(data: memoryview, format: Negotiated, grey: bool) -> np.ndarray | None:
    """One buffer -> uint8 BGR [H,W,3], or grey [H,W] of a grey format or when asked for; None when it is damaged (`why_damaged`).

    The picture is a copy: the buffer may be given back. Colour that two pixels share is left out where one has no other: the
    last column of an odd width, and NV12's last line of an odd height.
    """
    if format.fourcc == "MJPG":
        return _decode_jpeg(data, grey)
    return _decode_raw(data, format, grey)


def why_damaged(data: memoryview, marked: bool, format: Negotiated) -> str:
    """In words, what is wrong with a buffer that `decode` gives None for. `marked`: the driver says so."""
    if marked:
        return "the driver marks it as damaged"
    if format.fourcc == "MJPG":
        jpeg = bytes(data)
        if not jpeg.startswith(_START):
            return f"{len(jpeg)} bytes that are no JPEG"
        cut = not _has_end(jpeg) or _imdecode(jpeg, grey=True) is not None
        return "a JPEG that is cut off" if cut else "a JPEG that cannot be decoded"
    return f"{len(data)} bytes are too few for {format.fourcc} {format.width}x{format.height}"


_START, _END, _SCAN, _PROGRESSIVE = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc2"
_FILL, _CORNER = 128, 4  # what libjpeg fills missing blocks with, and the pixels of the last block that are looked at for it
_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # any but those of a restart
_SCAN_HEADER = 14  # bytes of the scan's header, of three colours; a grey picture's has 10
# Entropy-coded bytes that no encoder writes behind a whole picture: a decoder which still wants some takes them for picture.
# With all restart markers among them, so that one which waits for such a marker goes on too.
_NONSENSE = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()  # 0 to 254: no marker
_TAIL = _NONSENSE + b"".join(bytes([0xFF, 0xD0 + number]) + _NONSENSE for number in range(8))


def _decode_jpeg(data: memoryview, grey: bool) -> np.ndarray | None:
    """Many UVC cameras leave the end marker out, and some put one behind half a picture. libjpeg fills what is missing with mid
    grey, up to the last block: a picture whose last block is something else is whole, but for a few pixels in that block. Where
    it is grey, nonsense is put behind the data: a decoder that has the whole picture does not look at it. (Not always, since
    libjpeg complains of it on stderr.)"""
    jpeg = bytes(data)
    if not _has_end(jpeg):
        jpeg = jpeg.rstrip(b"\xff")  # half a marker
        scan = jpeg.rfind(_SCAN)
        # One cut in its header is none, and OpenCV before 5 makes a picture of what lay in memory.
        if not jpeg.startswith(_START) or _PROGRESSIVE in jpeg or scan < 0 or len(jpeg) < scan + _SCAN_HEADER:
            return None
        jpeg += _END
    image = _imdecode(jpeg, grey)
    return None if image is None or lacks_data(jpeg, image, grey) else image


def lacks_data(jpeg: bytes, image: np.ndarray, grey: bool) -> bool:
    """Whether a JPEG that has its end marker ends before its picture does. image: what it was decoded to, grey or not. Of a
    progressive one nothing can be told: it has its whole shape after its first pass."""
    if _PROGRESSIVE in jpeg:
        return False
    bottom, right = (max(length - _CORNER, (length - 1) // 8 * 8) for length in image.shape[:2])
    if (image[bottom:, right:] != _FILL).any():
        return False
    other = _imdecode(jpeg[: _data_end(jpeg)] + _TAIL + _END, grey)
    if other is None or other.shape[:2] != image.shape[:2]:
        return True
    return not np.array_equal(image, other if other.ndim == image.ndim else other[..., 0])


def _data_end(jpeg: bytes) -> int:
    """Where the picture's own data end: at the first marker in them that is none of a restart."""
    at = 2
    while jpeg[at : at + 2] != _SCAN and len(jpeg) >= at + 4 and jpeg[at] == 0xFF:  # the header, a thumbnail in it included
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    marker = _MARKER.search(jpeg, at + 2)
    return marker.start() if marker else len(jpeg)


def _has_end(jpeg: bytes) -> bool:
    """Whether an end marker stands behind the picture's data; a thumbnail in the header has one of its own."""
    return jpeg.rfind(_END) > jpeg.rfind(_SCAN)


def _imdecode(jpeg: bytes, grey: bool) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def _decode_raw(data: memoryview, format: Negotiated, grey: bool) -> np.ndarray | None:
    width, height, fourcc = format.width, format.height, format.fourcc
    in_line = 2 if fourcc in ("YUYV", "UYVY") else 1  # bytes a pixel in a line of the first plane
    stride = max(format.stride, in_line * width)
    lines = height * 3 // 2 if fourcc == "NV12" else height
    if len(data) < stride * lines:
        return None
    plane = np.frombuffer(data, np.uint8, stride * lines).reshape(lines, stride)[:, : in_line * width]
    if fourcc == "GREY":
        return plane.copy()
    if in_line == 2:
        plane = plane.reshape(height, width, 2)
    if not grey:
        if fourcc == "NV12" and height % 2:
            plane = np.vstack([plane[: height - 1], plane[height : height + height // 2]])
        return cv2.cvtColor(plane[:, : width // 2 * 2], _TO_BGR[fourcc])
    luma = plane[:height] if fourcc == "NV12" else cv2.extractChannel(plane, 0 if fourcc == "YUYV" else 1)
    return cv2.addWeighted(luma, LUMA_GAIN, luma, 0, -LUMA_BLACK * LUMA_GAIN)
