"""Every pixel format that a camera may give, as ffmpeg makes it, becomes the picture that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, colours, ffmpeg, needs_ffmpeg

from edge.capture.pixels import decode
from edge.capture.v4l2 import Negotiated

PIX_FMT = {"YUYV": "yuyv422", "UYVY": "uyvy422", "NV12": "nv12", "GREY": "gray"}
TOLERANCE = 4.0  # grey levels, mean: chroma at half resolution, and JPEG
pytestmark = needs_ffmpeg


def made(fourcc: str) -> bytes:
    if fourcc == "MJPG":
        return ffmpeg([colours()], "-c:v", "mjpeg", "-q:v", "2", "-f", "image2pipe", "-")
    # Video levels, 16 to 235, as capture cards give; ffmpeg's grey is full range, as machine cameras give.
    return ffmpeg(
        [colours()], "-vf", "scale=out_color_matrix=bt601", "-pix_fmt", PIX_FMT[fourcc], "-f", "rawvideo", "-"
    )


def padded(data: bytes, fourcc: str, extra: int) -> tuple[bytes, int]:
    """The same picture in longer lines, as drivers align them."""
    stride = WIDTH * (2 if fourcc in ("YUYV", "UYVY") else 1)
    lines = np.frombuffer(data, np.uint8).reshape(-1, stride)
    return np.pad(lines, ((0, 0), (0, extra)), constant_values=255).tobytes(), stride + extra


def luma(bgr: np.ndarray) -> np.ndarray:
    return bgr @ np.array([0.114, 0.587, 0.299])


@pytest.mark.parametrize("fourcc", ["YUYV", "UYVY", "NV12", "MJPG"])
@pytest.mark.parametrize("extra", [0, 64])
def test_colour_formats(fourcc: str, extra: int) -> None:
    data, stride = made(fourcc), 0
    if fourcc != "MJPG":
        data, stride = padded(data, fourcc, extra)
    shape = Negotiated(fourcc, WIDTH, HEIGHT, stride)
    image = decode(memoryview(data), shape, grey=False)
    assert image is not None and image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - colours()).mean() < TOLERANCE
    grey = decode(memoryview(data), shape, grey=True)
    assert grey is not None and grey.shape == (HEIGHT, WIDTH)
    assert np.abs(grey - luma(colours())).mean() < TOLERANCE


@pytest.mark.parametrize("fourcc", ["YUYV", "UYVY", "NV12"])
@pytest.mark.parametrize(("less_wide", "less_high"), [(1, 0), (0, 1), (1, 1)])
def test_odd_sizes(fourcc: str, less_wide: int, less_high: int) -> None:
    """OpenCV refuses them, and that ended the daemon."""
    width, height = WIDTH - less_wide, HEIGHT - less_high
    lines = np.frombuffer(made(fourcc), np.uint8).reshape(-1, WIDTH * (1 if fourcc == "NV12" else 2))
    luma_lines, chroma_lines = lines[:height], lines[HEIGHT:]
    data = np.vstack([luma_lines, chroma_lines]).tobytes()
    image = decode(memoryview(data), Negotiated(fourcc, width, height, lines.shape[1]), grey=False)
    assert image is not None
    shown = height - (less_high if fourcc == "NV12" else 0)
    assert image.shape == (shown, width // 2 * 2, 3)
    assert np.abs(image.astype(int) - colours()[:shown, : width // 2 * 2]).mean() < TOLERANCE


def test_grey_stays_as_it_is_and_is_a_copy() -> None:
    data = bytearray(made("GREY"))
    image = decode(memoryview(data), Negotiated("GREY", WIDTH, HEIGHT, WIDTH), grey=False)
    assert image is not None and image.shape == (HEIGHT, WIDTH)
    assert image.tobytes() == bytes(data)
    data[:] = bytes(len(data))
    assert image.any(), "the driver's buffer is used again while the picture is looked at"


@pytest.mark.parametrize("fourcc", ["YUYV", "UYVY", "NV12", "GREY", "MJPG"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_a_picture_cut_off_is_damaged_and_not_half_a_picture(fourcc: str, part: float) -> None:
    data = made(fourcc)
    shape = Negotiated(fourcc, WIDTH, HEIGHT, 0)
    assert decode(memoryview(data[: int(part * len(data))]), shape, grey=False) is None


def test_noise_for_a_jpeg_is_damaged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    assert decode(memoryview(noise + b"\xff\xd9"), Negotiated("MJPG", WIDTH, HEIGHT, 0), grey=False) is None
