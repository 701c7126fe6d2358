"""V4L2 over a fake kernel: the cheapest format that reaches size and rate, found again by identity, every loss counted."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from v4l2_fake import FakeCamera, FakeKernel

from edge.capture import LatestFrame, V4l2Source
from edge.capture.modes import Mode, Trial, best, nearest_rate, nearest_size
from edge.config import CaptureConfig
from edge.errors import SourceError

SIZE = (320, 240)
CONFIG = CaptureConfig(width=320, height=240, fps=30, read_timeout_s=0.5)
PATIENCE_S = 10.0  # seconds; far more than any of these needs


def picture(fourcc: str, size: tuple[int, int], sequence: int) -> bytes:
    """A grey picture whose brightness is 50 plus its number."""
    level = 50 + sequence % 100
    width, height = size
    if fourcc == "MJPG":
        return cv2.imencode(".jpg", np.full((height, width), level, np.uint8))[1].tobytes()
    luma = round(16 + level * 219 / 255)
    if fourcc == "NV12":
        return bytes([luma]) * (width * height) + bytes([128]) * (width * height // 2)
    pair = [luma, 128] if fourcc == "YUYV" else [128, luma]
    return bytes(pair) * (width * height)


def grabber(**changes: object) -> FakeCamera:
    modes = {"MJPG": [SIZE], "YUYV": [SIZE], "H264": [SIZE]}
    return FakeCamera(**{"modes": modes, "picture": picture, **changes})  # type: ignore[arg-type]


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


def source(kernel: FakeKernel, target: str, config: CaptureConfig = CONFIG) -> V4l2Source:
    return V4l2Source(target, config, kernel, kernel.dev)


def test_pictures_ids_and_stamps(kernel: FakeKernel) -> None:
    link = kernel.plug(grabber(), "video0", "usb-Grabber-index0")
    with source(kernel, link, CaptureConfig(width=320, height=240, pixel_format="YUYV")) as camera:
        frames = [camera.read() for _ in range(3)]
        assert camera.format == "YUYV 320x240 at 30 fps"
    assert [frame.id for frame in frames if frame] == [0, 1, 2]
    for number, frame in enumerate(frames):
        assert frame is not None and frame.image.shape == (240, 320, 3)
        assert abs(frame.image.mean() - 50 - number) < 2
        assert 0 <= time.monotonic_ns() - frame.t_mono_ns < 10**9


@pytest.mark.parametrize("fourcc", ["YUYV", "UYVY", "NV12", "MJPG"])
@pytest.mark.parametrize("stride_extra", [0, 32])
def test_each_format_with_and_without_padding(kernel: FakeKernel, fourcc: str, stride_extra: int) -> None:
    def lines(fourcc: str, size: tuple[int, int], sequence: int) -> bytes:
        data = picture(fourcc, size, sequence)
        if fourcc == "MJPG" or not stride_extra:
            return data
        stride = size[0] * (1 if fourcc == "NV12" else 2)
        return np.pad(np.frombuffer(data, np.uint8).reshape(-1, stride), ((0, 0), (0, stride_extra))).tobytes()

    camera = grabber(modes={fourcc: [SIZE]}, picture=lines, stride_extra=stride_extra)
    with source(kernel, kernel.plug(camera, "video0", "x")) as opened:
        frame = opened.read()
    assert frame is not None and abs(frame.image.mean() - 50) < 3 and frame.image.std() < 2


def test_a_format_is_chosen_by_trial_and_kept(kernel: FakeKernel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    camera = grabber()
    opened = source(kernel, kernel.plug(camera, "video0", "x"))
    opened.open()
    assert {"MJPG", "YUYV"} <= {record.args[1] for record in caplog.records if "takes" in record.msg}
    chosen, asked = opened.format, camera.sequence
    opened.close()
    opened.open()
    assert opened.format == chosen and camera.sequence == asked  # no second trial: it must be watched again at once


def test_the_rank_of_trials() -> None:
    def trial(fourcc: str, cost: float, fps: float, size: tuple[int, int] = SIZE) -> Trial:
        return Trial(Mode(fourcc, size, 30), cost, fps)

    assert best([trial("MJPG", 2.0, 30), trial("YUYV", 0.4, 30)], CONFIG).mode.fourcc == "YUYV"
    assert best([trial("MJPG", 2.0, 30), trial("YUYV", 0.4, 10)], CONFIG).mode.fourcc == "MJPG"  # USB 2 is too slow
    assert best([trial("MJPG", 2.0, 15), trial("YUYV", 0.4, 10)], CONFIG).mode.fourcc == "MJPG"
    assert best([trial("MJPG", 2.0, 30), trial("YUYV", 0.4, 30, (160, 120))], CONFIG).mode.fourcc == "MJPG"
    assert nearest_size([(640, 480), (1920, 1080), (1600, 900)], (1280, 720)) == (1600, 900)
    assert nearest_size([(640, 480), (320, 240)], (1280, 720)) == (640, 480)
    assert nearest_rate([60, 29.97, 15], 30) == 29.97 and nearest_rate([10, 15], 30) == 15


def test_what_cannot_be_decoded_is_named_with_what_there_is(kernel: FakeKernel) -> None:
    link = kernel.plug(grabber(modes={"H264": [SIZE]}), "video0", "x")
    with pytest.raises(SourceError, match="offers H264, needed is .*gst:"):
        source(kernel, link).open()


def test_a_driver_that_gives_something_else_is_refused_or_taken(kernel: FakeKernel) -> None:
    small = kernel.plug(grabber(modes={"YUYV": [SIZE]}, forced=("YUYV", (160, 120))), "video0", "small")
    with source(kernel, small) as opened:
        frame = opened.read()
        assert frame is not None and frame.image.shape == (120, 160, 3) and "160x120" in opened.format
    odd = kernel.plug(grabber(modes={"YUYV": [SIZE]}, forced=("H264", SIZE)), "video1", "odd")
    with pytest.raises(SourceError, match="gives H264 when asked for YUYV"):
        source(kernel, odd).open()


def test_losses_are_counted_and_leave_gaps_in_the_ids(kernel: FakeKernel) -> None:
    camera = grabber(modes={"YUYV": [SIZE]}, lost={2, 3}, damaged={5})
    with source(kernel, kernel.plug(camera, "video0", "x")) as opened:
        ids = [frame.id for frame in (opened.read() for _ in range(5)) if frame]
    assert ids == [0, 1, 4, 6, 7]
    assert (opened.missed, opened.decode_errors) == (2, 1)


def test_only_damaged_pictures_and_none_at_all_are_told_apart(kernel: FakeKernel) -> None:
    link = kernel.plug(grabber(modes={"MJPG": [SIZE]}, picture=lambda *_: b"no jpeg"), "video0", "x")
    with source(kernel, link) as opened, pytest.raises(SourceError, match="only damaged pictures"):
        opened.read()
    link = kernel.plug(grabber(modes={"MJPG": [SIZE]}, silent=True), "video1", "y")
    with source(kernel, link) as opened, pytest.raises(SourceError, match="gave no picture for 0.5 s"):
        opened.read()


def test_a_stamp_of_another_clock_is_replaced(kernel: FakeKernel) -> None:
    link = kernel.plug(grabber(modes={"YUYV": [SIZE]}, stamps_monotonic=False), "video0", "x")
    with source(kernel, link) as opened:
        before = time.monotonic_ns()
        frame = opened.read()
        assert frame is not None and frame.t_mono_ns >= before


def test_a_number_is_replaced_by_its_link(kernel: FakeKernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.plug(grabber(), "video0", "usb-Grabber-index0")
    opened = source(kernel, str(kernel.dev / "video0"))
    assert opened._where.target.endswith("v4l/by-id/usb-Grabber-index0")
    assert "numbers change" in caplog.text


@pytest.mark.parametrize("link", ["usb-Grabber-index0", ""])
def test_it_is_found_again_by_identity_and_not_by_number(kernel: FakeKernel, link: str) -> None:
    """Unplugged and back under another number, while another camera takes the old one."""
    mine = grabber(modes={"YUYV": [SIZE]})
    opened = source(kernel, kernel.plug(mine, "video0", link))
    opened.open()
    kernel.unplug("video0")
    with pytest.raises(SourceError, match="lost.*plug it in again|lost.*check the cable"):
        for _ in range(3):
            opened.read()
    other = grabber(modes={"YUYV": [SIZE]}, card="Webcam", bus="usb-2")
    kernel.plug(other, "video0")
    with pytest.raises(SourceError, match="not there"):
        opened.open()
    kernel.plug(mine, "video3", link)
    opened.open()
    frame = opened.read()
    assert frame is not None and mine.opened >= 2
    assert other.sequence == 0, "the wrong camera was watched"


def test_a_metadata_node_a_busy_one_and_none_say_what_to_do(kernel: FakeKernel) -> None:
    with pytest.raises(SourceError, match="index0"):
        source(kernel, kernel.plug(grabber(video=False), "video1", "usb-Grabber-index1")).open()
    link = kernel.plug(grabber(), "video0", "usb-Grabber-index0")
    kernel.busy.add("video0")
    with pytest.raises(SourceError, match="fuser"):
        source(kernel, link).open()
    with pytest.raises(SourceError, match="ls /dev/v4l/by-id"):
        source(kernel, str(kernel.dev / "v4l" / "by-id" / "none")).open()


def test_the_feed_reconnects_and_counts(kernel: FakeKernel) -> None:
    """Through the thread that the daemon uses: unplugged, said so, back, counted."""

    def paced(*mode: object) -> bytes:
        time.sleep(0.005)
        return picture(*mode)  # type: ignore[arg-type]

    camera = grabber(modes={"YUYV": [SIZE]}, picture=paced)
    with LatestFrame(source(kernel, kernel.plug(camera, "video0", "x")), backoff_max_s=0.1) as feed:
        assert feed.next(PATIENCE_S) is not None
        kernel.unplug("video0")
        until = time.monotonic() + PATIENCE_S
        while feed.stats().connected:
            feed.next(0.01)
            assert time.monotonic() < until
        assert "check the cable" in feed.stats().problem
        kernel.plug(camera, "video7", "x")
        while feed.next(0.05) is None or feed.stats().reconnects == 0:
            assert time.monotonic() < until
        assert feed.stats().connected and feed.stats().format.startswith("YUYV")
