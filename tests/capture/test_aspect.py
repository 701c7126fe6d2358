"""Pixels that are not square: a circle on the scanner is a circle in every picture, whatever carried it here."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import clip, ffmpeg, needs_ffmpeg
from dicoms import cine, cine_of
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from rtsp_server import RtspServer

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from v4l2_fake import FakeCamera, FakeKernel

from edge.capture import RtspSource, V4l2Source, open_source
from edge.capture.aspect import NEVER_SQUARE, RANGE, Squarer
from edge.capture.dicom import read_dicom
from edge.config import CaptureConfig

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def circle(width: int, height: int, aspect: float, grey: bool = False) -> np.ndarray:
    """What a screen with a circle on it becomes in pixels `aspect` times as wide as high."""
    square = np.full((height * 2, round(width * 2 * aspect), 3), 30, np.uint8)
    cv2.circle(square, (square.shape[1] // 2, height), height // 2, (220, 220, 220), -1)
    stored = cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(stored[..., 0]) if grey else stored


def roundness(image: np.ndarray) -> float:
    """Width over height of the circle."""
    bright = (image if image.ndim == 2 else image[..., 1]) > 120
    return float(np.ptp(np.flatnonzero(bright.any(axis=0))) / np.ptp(np.flatnonzero(bright.any(axis=1))))


def one_of(uri: str, config: CaptureConfig | None = None) -> tuple[np.ndarray, str]:
    """The first picture, and what the source says of itself then."""
    with open_source(uri, config or CaptureConfig(), fast=True) as source:
        frame = source.read()
        assert frame is not None
        return frame.image, source.format


@needs_ffmpeg
@pytest.mark.requirement("C-01")
@pytest.mark.parametrize(
    ("width", "height", "across", "down"), [(144, 116, 64, 45), (96, 108, 2, 1), (144, 96, 8, 9), (180, 120, 4, 3)]
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.mp4", H264),
        ("x.mov", H264),
        ("x.mkv", H264),
        ("x.ts", H264),
        ("x.264", [*H264, "-f", "h264"]),
        ("x.webm", ["-c:v", "libvpx", "-deadline", "realtime"]),
        ("x.mpg", ["-c:v", "mpeg2video", "-q:v", "3"]),
        ("x.vob", ["-c:v", "mpeg2video", "-q:v", "3"]),
        ("x.avi", ["-c:v", "mpeg4", "-q:v", "3"]),
        ("x.wmv", ["-c:v", "wmv2", "-q:v", "3"]),
    ],
)
def test_a_clip_comes_square(
    tmp_path: Path, name: str, options: list[str], width: int, height: int, across: int, down: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if "mpeg2video" in options:  # states the screen's aspect, one of three, and not the pixel's
        across, down = round(16 / 9 * height), width
    stored = circle(width, height, across / down)
    path = clip(tmp_path / name, [stored] * 3, "-vf", f"setsar={across}/{down}", *options)
    image, said = one_of(f"file:{path}")
    assert roundness(stored) == pytest.approx(down / across, rel=0.08)
    assert roundness(image) == pytest.approx(1, abs=0.06)
    assert image.shape[0] >= height and image.shape[1] >= width, "what was sampled is lost"
    assert "made square" in said and caplog.text.count("made square") == 1


@needs_ffmpeg
@pytest.mark.requirement("C-01")
def test_a_clip_that_is_turned_comes_square(tmp_path: Path) -> None:
    """OpenCV turns the picture upright, and leaves the aspect as it was stored."""
    plain = clip(tmp_path / "plain.mp4", [circle(144, 116, 64 / 45)] * 3, "-vf", "setsar=64/45", *H264)
    ffmpeg([np.zeros((2, 2, 3), np.uint8)], "-i", str(plain), "-map", "1:v", "-c", "copy", "-metadata:s:v", "rotate=90",
           str(tmp_path / "x.mp4"))  # fmt: skip
    image, _ = one_of(f"file:{tmp_path}/x.mp4")
    assert roundness(image) == pytest.approx(1, abs=0.06)


@needs_ffmpeg
@pytest.mark.requirement("C-01")
def test_the_configuration_goes_before_what_a_clip_says(tmp_path: Path) -> None:
    path = clip(tmp_path / "x.mp4", [circle(96, 108, 2)] * 3, "-vf", "setsar=1", *H264)
    image, said = one_of(f"file:{path}", CaptureConfig(pixel_aspect=2.0))
    assert roundness(image) == pytest.approx(1, abs=0.06) and "capture.pixel_aspect says so" in said
    assert one_of(f"file:{path}")[0].shape == (108, 96, 3)


@needs_ffmpeg
@pytest.mark.requirement("C-01")
def test_a_stream_comes_square(tmp_path: Path) -> None:
    options = [*H264, "-tune", "zerolatency", "-g", "5"]
    path = clip(tmp_path / "x.mp4", [circle(144, 116, 64 / 45)] * 50, "-vf", "setsar=64/45", *options)
    with RtspServer(path) as server, RtspSource(server.url, CaptureConfig()) as source:
        frame = source.read()
        assert frame is not None and roundness(frame.image) == pytest.approx(1, abs=0.06)
        assert "made square" in source.format


@pytest.mark.requirement("C-01")
@pytest.mark.parametrize(
    ("size", "seen", "ratio", "aspect"),
    [
        ((144, 116), (0, 0), (54, 59), 59 / 54),
        ((144, 96), (0, 0), (11, 10), 10 / 11),
        ((160, 120), (180, 144), (54, 59), 59 / 54 * (180 / 160) / (144 / 120)),  # the driver scales
        ((160, 120), (320, 120), (1, 1), 1.0),  # a sensor that crops
        ((160, 120), (0, 0), (0, 0), 1.0),  # rubbish
    ],
)
def test_a_camera_comes_square(
    tmp_path: Path, size: tuple[int, int], seen: tuple[int, int], ratio: tuple[int, int], aspect: float
) -> None:
    stored = circle(*size, aspect, grey=True)
    camera = FakeCamera({"GREY": [size]}, lambda *_: stored.tobytes(), pixel_aspect=ratio, seen=seen)
    kernel = FakeKernel(tmp_path)
    link = kernel.plug(camera, "video0", "x")
    with V4l2Source(link, CaptureConfig(width=size[0], height=size[1]), kernel, kernel.dev) as source:
        frame = source.read()
        assert frame is not None and roundness(frame.image) == pytest.approx(1, abs=0.06)
        assert ("made square" in source.format) == (aspect != 1.0)


@pytest.mark.requirement("C-01")
@pytest.mark.parametrize("tag", ["PixelAspectRatio", "PixelSpacing"])
def test_dicom_comes_square(tmp_path: Path, tag: str) -> None:
    path = cine(tmp_path / "x.dcm", [circle(144, 116, 1.5, grey=True)] * 2, 40)
    data = dcmread(path)
    setattr(data, tag, [2, 3] if tag == "PixelAspectRatio" else [0.2, 0.3])  # height first
    data.save_as(path)
    image, said = one_of(f"dicom:{path}")
    assert roundness(image) == pytest.approx(1, abs=0.06) and "made square" in said
    assert roundness(read_dicom(path)[0][0]) == pytest.approx(1, abs=0.06)
    cine_of("grey", tmp_path / "y.dcm", [circle(144, 116, 1)] * 2)
    assert one_of(f"dicom:{tmp_path}/y.dcm")[0].shape[:2] == (116, 144)


@pytest.mark.requirement("C-01")
@pytest.mark.parametrize("size", sorted(NEVER_SQUARE))
def test_a_size_of_broadcast_that_nothing_tells_of_is_said(size: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    image = np.zeros(size[::-1], np.uint8)
    squarer = Squarer("x", None)
    assert squarer.square(image) is image and "taken for square" in squarer.words and "taken for square" in caplog.text
    for told, asked in ((1.0, None), (None, 1.0)):
        squarer = Squarer("x", told, asked)
        assert squarer.square(image) is image and squarer.words == ""


@pytest.mark.requirement("C-01")
@pytest.mark.parametrize("told", [0.1, 9.0, 1e9])
def test_an_aspect_that_cannot_be_is_said_and_not_used(told: float) -> None:
    image = np.zeros((100, 120), np.uint8)
    squarer = Squarer("x", told)
    assert squarer.square(image).shape == image.shape and "cannot be" in squarer.words


@pytest.mark.parametrize("told", [None, 0.0, -1.0, float("nan"), float("inf"), 1.0, 1.004])
def test_square_pixels_stay_as_they_are(told: float | None) -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    squarer = Squarer("x", told)
    assert squarer.square(image) is image and squarer.words == ""


@given(aspect=st.floats(*RANGE), width=st.integers(16, 300), height=st.integers(16, 300))
def test_any_aspect_makes_the_picture_wider_or_higher_and_never_smaller(aspect: float, width: int, height: int) -> None:
    high, wide = Squarer("x", aspect).square(np.zeros((height, width), np.uint8)).shape
    assert wide >= width and high >= height
    if abs(aspect - 1) > 0.02:
        assert wide / high == pytest.approx(width / height * aspect, rel=1 / 16)
