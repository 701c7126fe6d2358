"""From a camera's buffers to pictures.

Milliseconds a picture on one core of an AVX-512 server, 1280x720 (1920x1080), cv2 with one thread, medians of 60:
to BGR YUYV .37 (.83), NV12 .32 (.72), MJPG 1.8 (4.3); to grey YUYV .31 (.68), NV12 .14 (.31), MJPG 1.1 (2.5), and the
screen reader then saves its .15 for the fan's own grey. So the Y plane alone buys at most .8 ms of a frame's 33 on a 720p
source, and costs what only colour tells: DOPPLER, colour bars. It is taken when `capture.grey` says so, and where a
source has no colour to lose.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.capture.v4l2 import Negotiated

# Pixel formats that can be decoded; bytes a pixel of the uncompressed ones. UYVY is what HDMI-to-CSI bridges give.
BYTES_PER_PIXEL = {"GREY": 1.0, "YUYV": 2.0, "UYVY": 2.0, "NV12": 1.5, "MJPG": 0.0}
_TO_BGR = {"YUYV": cv2.COLOR_YUV2BGR_YUYV, "UYVY": cv2.COLOR_YUV2BGR_UYVY, "NV12": cv2.COLOR_YUV2BGR_NV12}
LUMA_BLACK, LUMA_GAIN = 16, 255 / 219  # video luma is 16 to 235: the expansion that cv2's own conversions make


def decode(data: memoryview, format: Negotiated, grey: bool) -> np.ndarray | None:
    """One buffer -> uint8 BGR [H,W,3], or grey [H,W] of a grey format or when asked for; None when it is damaged.

    The picture is a copy: the buffer may be given back. Colour that two pixels share is left out where one has no other: the
    last column of an odd width, and NV12's last line of an odd height.
    """
    if format.fourcc == "MJPG":
        return _decode_jpeg(data, grey)
    return _decode_raw(data, format, grey)


def _decode_jpeg(data: memoryview, grey: bool) -> np.ndarray | None:
    jpeg = bytes(data)
    if jpeg.rfind(b"\xff\xd9") < 0:  # no end-of-image marker: cut off, and libjpeg would fill up with grey
        return None
    try:
        flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag)
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
