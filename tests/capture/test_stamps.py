"""A driver's stamps that cannot be right, and pictures that come and cannot be used: named within a second, by what is wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from v4l2_fake import FakeCamera, FakeKernel

from edge.capture import LatestFrame, V4l2Source
from edge.capture.feed import FeedStats
from edge.capture.lag import STALE_NS
from edge.capture.pixels import decode, why_damaged
from edge.capture.stamps import EARLY_NS, DriverStamps
from edge.capture.v4l2 import Negotiated
from edge.config import CaptureConfig
from edge.records import Frame

SIZE = (64, 48)
CONFIG = CaptureConfig(width=SIZE[0], height=SIZE[1], read_timeout_s=2.0)
LONG_AGO = time.monotonic_ns()


def slowly(*_: object) -> bytes:
    time.sleep(0.02)
    return bytes(SIZE[0] * SIZE[1])


def camera(**changes: object) -> FakeCamera:
    return FakeCamera(**{"modes": {"GREY": [SIZE]}, "picture": slowly, **changes})  # type: ignore[arg-type]


def watch(folder: Path, what: FakeCamera, until: Callable[[FeedStats], bool]) -> tuple[FeedStats, list[Frame], float]:
    """(stats, frames that the loop got, seconds from the first read of a picture or of damage)"""
    kernel = FakeKernel(folder)
    source = V4l2Source(kernel.plug(what, "video0", "x"), CONFIG, kernel, kernel.dev)
    frames = []
    with LatestFrame(source) as feed:
        while not (what.sequence or feed.stats().read):
            time.sleep(0.001)
        started = time.monotonic()
        while not until(feed.stats()) and time.monotonic() - started < 5:
            if (frame := feed.next(0.05)) is not None:
                frames.append(frame)
        return feed.stats(), frames, time.monotonic() - started


@pytest.mark.requirement("C-05")
@pytest.mark.parametrize(
    ("stamp_of", "monotonic", "words"),
    [
        (lambda now: now - 950_000_000, True, "0.9[5-9] s old, older than the buffer"),
        (lambda now: now - 60_000_000_000, True, "60.* s old, older than the buffer"),
        (lambda now: LONG_AGO, True, "do not change"),
        (lambda now: now + 5_000_000_000, True, "in the future"),
        (lambda now: time.time_ns(), True, "in the future"),  # the wall clock, said to be the monotonic one
        (lambda now: 2 * LONG_AGO - now, True, "run backwards"),
        (lambda now: now, False, "of another clock"),
    ],
)
def test_stamps_that_cannot_be_are_named_and_replaced(
    tmp_path: Path, stamp_of: Callable[[int], int], monotonic: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    import re

    what = camera(stamp_of=stamp_of, stamps_monotonic=monotonic)
    stats, frames, took_s = watch(tmp_path, what, lambda stats: bool(re.search(words, stats.trouble)) and stats.read > 20)
    assert re.search(words, stats.trouble) and stats.restamped >= 10 and frames and took_s < 3
    assert "the driver's stamps" in caplog.text and len(caplog.records) < 6, "one line for each picture fills the disk"
    assert stats.stale <= 2 and all(b.t_mono_ns > a.t_mono_ns for a, b in zip(frames, frames[1:], strict=False))


@pytest.mark.requirement("C-05")
def test_stamps_that_jump_to_and_fro_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stamps = DriverStamps("camera")
    for n in range(200):
        now_ns = LONG_AGO + n * 40_000_000
        stamps.captured_ns(now_ns + 700_000_000 * (n // 10 % 2), now_ns, now_ns, now_ns)
    assert stamps.restamped >= 100 and len(caplog.records) == 2


@pytest.mark.requirement("C-06")
def test_pictures_that_may_be_old_are_not_shown_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Slow pictures in four buffers: a stamp of .5 s ago is no older than its buffer, so it is believed."""

    def slow(*_: object) -> bytes:
        time.sleep(0.15)
        return bytes(SIZE[0] * SIZE[1])

    what = camera(picture=slow, stamp_of=lambda now: now - 500_000_000)
    stats, _, took_s = watch(tmp_path, what, lambda stats: "too old" in stats.trouble)
    assert "pictures come and none can be used" in stats.trouble and took_s < 3 and "none can be used" in caplog.text


@pytest.mark.requirement("C-06")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        (camera(damaged=set(range(10_000))), "the driver marks it as damaged"),
        (camera(picture=lambda *_: slowly()[:100]), "100 bytes are too few for GREY 64x48"),
        (camera(modes={"MJPG": [SIZE]}), "no JPEG"),
    ],
)
def test_pictures_that_are_all_damaged_are_named_within_a_second(
    tmp_path: Path, what: FakeCamera, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    what.sequence = 0
    stats, frames, took_s = watch(tmp_path, what, lambda stats: "damaged" in stats.trouble)
    assert words in stats.trouble and not frames and took_s < 1 and words in caplog.text


@dataclass
class Scripted:
    """A live source whose pictures are as old as it is told."""

    age_ns: int
    name: str = "fake:"
    live: bool = True
    media_time: bool = False
    decode_errors: int = 0
    missed: int = 0
    format: str = ""
    number: int = field(default=0)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> Frame:
        time.sleep(0.02)
        self.number += 1
        return Frame(self.number, time.monotonic_ns() - self.age_ns, np.zeros((2, 2), np.uint8))


@pytest.mark.requirement("C-06")
def test_any_source_whose_pictures_are_all_too_old_is_named_within_a_second_and_no_longer() -> None:
    source = Scripted(2 * STALE_NS)
    with LatestFrame(source) as feed:
        started = time.monotonic()
        while not feed.stats().trouble and time.monotonic() - started < 5:
            assert feed.next(0.05) is None
        assert "too old" in feed.stats().trouble and time.monotonic() - started < 1
        source.age_ns = 0
        while feed.next(1.0) is None:
            pass
        assert feed.stats().trouble == ""


TIMES = st.integers(0, 10**13)


@pytest.mark.requirement("C-05", "T-03")
@given(st.lists(st.tuples(st.one_of(st.none(), TIMES), TIMES, TIMES, TIMES), min_size=1, max_size=20))
def test_no_stamp_makes_a_picture_newer_than_it_can_be(pictures: list[tuple[int | None, int, int, int]]) -> None:
    stamps = DriverStamps("x")
    for stamp_ns, filled_after_ns, queued_ns, now_ns in pictures:
        found = stamps.captured_ns(stamp_ns, filled_after_ns, queued_ns, now_ns)
        assert found == filled_after_ns or (found <= now_ns and found in (stamp_ns, now_ns) and found >= queued_ns - EARLY_NS)


def jpeg(image: np.ndarray, sampling: int, restart: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90, *options])[1].tobytes()


def screen(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.requirement("C-07")
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("restart", [0, 1, 4, 80])
@pytest.mark.parametrize("sampling", [0x411111, 0x211111, 0x111111])
@pytest.mark.parametrize("image", [screen(363, 251), screen(320, 240), np.full((123, 211, 3), 128, np.uint8)])
def test_a_jpeg_without_its_end_marker_is_used_when_it_is_whole(
    image: np.ndarray, sampling: int, restart: int, grey: bool
) -> None:
    whole, format = jpeg(image, sampling, restart), Negotiated("MJPG", 0, 0, 0)
    wanted = decode(memoryview(whole), format, grey)
    assert wanted is not None
    for end in (b"", b"\xff"):
        assert np.array_equal(decode(memoryview(whole[:-2] + end), format, grey), wanted)
    head = whole.rfind(b"\xff\xda") + 14
    for part in (0.0, 0.1, 0.5, 0.9):
        cut = whole[: head + round(part * (len(whole) - 2 - head))]
        assert decode(memoryview(cut), format, grey) is None, f"{part} of it is no picture"


@pytest.mark.requirement("C-07")
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("restart", [0, 4])
def test_an_end_marker_makes_no_whole_picture_of_a_part(restart: int, grey: bool) -> None:
    """Cameras that lose data put the marker all the same, or the next picture; behind a whole one anything may lie."""
    whole, format = jpeg(screen(320, 240), 0x211111, restart), Negotiated("MJPG", 0, 0, 0)
    wanted = decode(memoryview(whole), format, grey)
    head, rubbish = whole.rfind(b"\xff\xda") + 14, np.random.default_rng(2).bytes(999)
    for behind in (b"\0" * 999, b"\xff" * 99, rubbish, b"\xff\xd9", whole, whole[: len(whole) // 2]):
        assert np.array_equal(decode(memoryview(whole + behind), format, grey), wanted)
    for part in (0.05, 0.5, 0.9):
        cut = whole[: head + round(part * (len(whole) - 2 - head))].rstrip(b"\xff")
        for behind in (b"\xff\xd9", b"\xff\xd9\xff\xd9", b"\xff\xd9" + bytes(500), whole):
            data = memoryview(cut + behind)
            assert decode(data, format, grey) is None and "cut off" in why_damaged(data, False, format), f"{part} of it"


@pytest.mark.requirement("C-07")
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_a_camera_without_end_markers_is_watched_or_named(tmp_path: Path, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    whole = jpeg(screen(*SIZE), 0x411111, 0)[:-2]

    def picture(*_: object) -> bytes:
        time.sleep(0.02)
        return whole[: round(part * len(whole))]

    what = camera(modes={"MJPG": [SIZE]}, picture=picture)
    stats, frames, took_s = watch(tmp_path, what, lambda stats: bool(stats.trouble) or stats.read > 10)
    assert took_s < 1.5
    if part == 1.0:
        assert frames and stats.trouble == "" and stats.decode_errors == 0 and capfd.readouterr().err == ""
    else:
        assert not frames and "a JPEG that is cut off" in stats.trouble
