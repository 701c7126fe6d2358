"""Clips as ffmpeg makes them, in each pixel format and container; truncated and corrupted ones; folders and DICOM cines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import BAR_PLACES, clip, greys, needs_ffmpeg, place
from dicoms import FORMS, cine, cine_of
from pydicom import dcmread
from pydicom.uid import UID

from edge.capture import EveryFrame, FileSource, FramesSource, open_source
from edge.capture.feed import SHAPES_LOGGED
from edge.capture.pacer import FALLBACK_FPS
from edge.config import CaptureConfig
from edge.errors import ConfigError, InputError
from edge.records import Frame

COUNT = 40  # pictures in a clip
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10"]


def frames_of(uri: str) -> tuple[list[Frame], int]:
    """(frames, decode errors)"""
    with open_source(uri, CaptureConfig(), fast=True) as source:
        frames = []
        while (frame := source.read()) is not None:
            frames.append(frame)
        return frames, source.decode_errors


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yuv420p.mp4", [*H264, "-pix_fmt", "yuv420p"]),
        ("yuv422p.mp4", [*H264, "-pix_fmt", "yuv422p"]),
        ("yuv444p.mp4", [*H264, "-pix_fmt", "yuv444p"]),
        ("full-range.mp4", [*H264, "-pix_fmt", "yuvj420p"]),
        ("gray.mp4", [*H264, "-pix_fmt", "gray"]),
        ("ten-bit.mkv", [*H264, "-pix_fmt", "yuv420p10le"]),
        ("lossless.mkv", ["-c:v", "ffv1", "-pix_fmt", "bgr0"]),
        ("yuyv.avi", ["-c:v", "rawvideo", "-pix_fmt", "yuyv422"]),
        ("nv12.mkv", ["-c:v", "rawvideo", "-pix_fmt", "nv12"]),
        ("mjpeg.avi", ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj422p"]),
        ("mpeg2.mpg", ["-c:v", "mpeg2video", "-q:v", "3"]),
        ("b-frames.mp4", ["-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p"]),
        ("vp8.webm", ["-c:v", "libvpx", "-deadline", "realtime"]),
    ],
)  # fmt: skip
def test_every_picture_once_and_in_order(tmp_path: Path, name: str, options: list[str]) -> None:
    path = clip(tmp_path / name, greys(COUNT), *options)
    frames, errors = frames_of(f"file:{path}")
    assert [place(frame.image) for frame in frames] == [index % BAR_PLACES for index in range(COUNT)]
    assert errors == 0 and all(frame.image.dtype == np.uint8 for frame in frames)
    bright = frames[5].image.reshape(120, 160, -1)[60, 8 * 5 + 4].astype(int)
    dark = frames[5].image.reshape(120, 160, -1)[60, 4].astype(int)
    assert np.abs(bright - 220).max() <= 8 and np.abs(dark - 60).max() <= 8  # levels survive: 16-235 and 0-255 alike


@needs_ffmpeg
@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("name", ["x.ts", "x.avi", "x.mkv"])
def test_a_truncated_clip_plays_to_its_cut_and_says_so(tmp_path: Path, name: str, part: float) -> None:
    whole = clip(tmp_path / name, greys(COUNT), *H264, "-pix_fmt", "yuv420p")
    whole.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    try:
        frames, errors = frames_of(f"file:{whole}")
    except InputError as error:
        assert str(whole) in str(error)
        return
    places = [place(frame.image) for frame in frames]
    assert len(frames) < COUNT and places[0] == 0
    assert errors > 0 or name == "x.ts"  # a transport stream states no length: it cannot be told from a short one


@needs_ffmpeg
def test_an_mp4_without_its_index_is_named(tmp_path: Path) -> None:
    path = clip(tmp_path / "x.mp4", greys(COUNT), *H264, "-pix_fmt", "yuv420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="x.mp4.*damaged, cut off before its index"):
        frames_of(f"file:{path}")


@needs_ffmpeg
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.avi", ["-c:v", "mjpeg", "-q:v", "3"]),
        ("x.ts", [*H264, "-pix_fmt", "yuv420p"]),
        ("x.mkv", [*H264, "-pix_fmt", "yuv420p"]),
        ("x.webm", ["-c:v", "libvpx", "-deadline", "realtime"]),
    ],
)
def test_corruption_never_ends_the_process_and_is_counted(
    tmp_path: Path, name: str, options: list[str], seed: int
) -> None:
    """Bytes overwritten anywhere behind the header: pictures may be missing or smeared, never an exception of another kind."""
    path = clip(tmp_path / name, greys(COUNT), *options)
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    length = len(data) // 60
    for start in rng.integers(len(data) // 10, len(data) - length, 6):
        data[start : start + length] = rng.integers(0, 256, length).astype(np.uint8).tobytes()
    path.write_bytes(data)
    try:
        frames, errors = frames_of(f"file:{path}")
    except InputError as error:
        assert str(path) in str(error)
        return
    assert 0 < len(frames) <= COUNT
    assert len(frames) == COUNT or errors >= 1


@needs_ffmpeg
@pytest.mark.parametrize("sizes", [((160, 120), (320, 240)), ((320, 240), (160, 120))])
def test_a_clip_that_changes_its_size_under_way_goes_on_in_its_first(
    tmp_path: Path, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """OpenCV scales the rest, whole: nothing is cut off, and nothing is read beyond a picture's end."""
    parts = [clip(tmp_path / f"{w}.ts", greys(20, w, h), *H264, "-pix_fmt", "yuv420p") for w, h in sizes]
    (tmp_path / "x.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, errors = frames_of(f"file:{tmp_path}/x.ts")
    assert (len(frames), errors) == (40, 0)
    assert {frame.image.shape[1::-1] for frame in frames} == {sizes[0]}
    assert frames[39].image.max() > 180


def test_a_change_of_size_is_counted_by_the_feed() -> None:
    images = [*greys(3), *greys(2, 200, 120)]
    with EveryFrame(FramesSource("x", images, 25, fast=True)) as feed:
        while feed.next(0) is not None:
            pass
        assert feed.stats().format_changes == 1 and feed.stats().read == 5


def test_a_size_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    images = [image for image in greys(100) for image in (image, image[:100])]
    with EveryFrame(FramesSource("x", images, 25, fast=True)) as feed:
        while feed.next(0) is not None:
            pass
        assert feed.stats().format_changes == 199
    assert len(caplog.records) == SHAPES_LOGGED and "only counted" in caplog.messages[-1]


def test_a_folder_in_natural_order_with_its_damaged_pictures_left_out(tmp_path: Path) -> None:
    for number, image in enumerate(greys(12)):
        cv2.imwrite(str(tmp_path / f"frame{number}.{'png' if number % 2 else 'bmp'}"), image)
    (tmp_path / "frame3.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not a picture")
    frames, errors = frames_of(f"images:{tmp_path}?fps=10")
    assert [place(frame.image) for frame in frames] == [0, 1, 2, *range(4, 12)]
    assert errors == 1
    assert {b.t_mono_ns - a.t_mono_ns for a, b in zip(frames, frames[1:], strict=False)} == {100_000_000}


def test_folders_that_cannot_be_played_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        frames_of(f"images:{tmp_path}/none")
    with pytest.raises(InputError, match="no picture in it"):
        frames_of(f"images:{tmp_path}")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of its 1 pictures can be decoded"):
        frames_of(f"images:{tmp_path}")
    with pytest.raises(ConfigError, match="fps=1000, must be from 1 to 240"):
        frames_of(f"images:{tmp_path}?fps=1000")


def test_a_dicom_cine_plays_at_its_own_rate_and_its_text_goes_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    path = cine(tmp_path / "cine.dcm", [image[..., 0] for image in greys(6)], frame_time_ms=50)
    with open_source(f"dicom:{path}", CaptureConfig(), fast=True) as source:
        frames = [frame for frame in (source.read() for _ in range(7)) if frame]
        assert source.format == "DICOM, 6 frames at 20 fps"
    assert [place(frame.image) for frame in frames] == list(range(6))
    assert frames[1].t_mono_ns - frames[0].t_mono_ns == 50_000_000
    assert "Canary" not in caplog.text
    path.write_bytes(path.read_bytes()[:-1000])
    left, errors = frames_of(f"dicom:{path}")
    assert [place(frame.image) for frame in left] == list(range(5)) and errors == 1
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="cut off before its first picture|none of its|its picture cannot") as caught:
        frames_of(f"dicom:{path}")
    assert "Canary" not in str(caught.value) + caplog.text
    with pytest.raises(InputError, match="no such file"):
        frames_of(f"dicom:{tmp_path}/none.dcm")


def pictures(count: int) -> list[np.ndarray]:
    """RGB, smooth, so that lossy forms keep them; each brighter than the one before."""
    y, x = np.mgrid[:48, :64]
    return [np.stack([2 * x + 20 * n, 4 * y, 100 - x + 0 * y], axis=-1).astype(np.uint8) for n in range(count)]


@pytest.mark.parametrize("form", list(FORMS))
def test_a_dicom_cine_plays_in_whatever_form(tmp_path: Path, form: str) -> None:
    wanted = cine_of(form, tmp_path / "cine.dcm", pictures(4))
    frames, errors = frames_of(f"dicom:{tmp_path}/cine.dcm")
    assert errors == 0 and [frame.image.shape for frame in frames] == [image.shape for image in wanted]
    for frame, image in zip(frames, wanted, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 3  # JPEG, and chroma at half the width
    assert frames[1].t_mono_ns - frames[0].t_mono_ns == round(1e9 / FALLBACK_FPS)  # no tag says how fast


def test_frames_at_varying_times_play_at_their_mean(tmp_path: Path) -> None:
    cine_of("grey", tmp_path / "cine.dcm", pictures(4), FrameTimeVector=[0, 40, 50, 60])
    frames, _ = frames_of(f"dicom:{tmp_path}/cine.dcm")
    assert frames[3].t_mono_ns - frames[0].t_mono_ns == 150_000_000


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize(
    ("syntax", "told"),
    [
        ("1.2.840.10008.1.2.4.70", r"compressed with JPEG Lossless.*pip install 'hygroma-edge\[dicom\]'"),
        ("1.2.840.10008.1.2.4.80", r"compressed with JPEG-LS Lossless.*pip install 'hygroma-edge\[dicom\]'"),
        ("1.2.840.10008.1.2.4.102", r"a clip in MPEG-4.*video file \(MP4\)"),
        ("1.2.840.10008.1.2.4.107", r"a clip in HEVC.*video file \(MP4\)"),
        ("1.2.840.10008.1.2.4.201", r"compressed with .*export it uncompressed"),
        ("1.2.3.4", r"compressed with a maker's own compression.*export it uncompressed"),
    ],
)
def test_a_cine_in_a_form_that_is_not_decoded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, told: str
) -> None:
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda self: False))
    path = tmp_path / "cine.dcm"
    cine_of("JPEG grey", path, pictures(4))
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.save_as(path)
    with pytest.raises(InputError, match=f"cine.dcm: {told}"):
        frames_of(f"dicom:{path}")


def test_a_rate_that_cannot_be_is_replaced(tmp_path: Path) -> None:
    path = cine(tmp_path / "cine.dcm", [image[..., 0] for image in greys(2)], frame_time_ms=0)
    with open_source(f"dicom:{path}", CaptureConfig(), fast=True) as source:
        assert f"at {FALLBACK_FPS:g} fps" in source.format
    assert isinstance(open_source("file:x.mp4", CaptureConfig()), FileSource)
