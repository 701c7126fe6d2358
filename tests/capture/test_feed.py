"""The newest frame wins, every drop is counted, a lost source is reopened, what breaks is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from edge.capture import EveryFrame, FramesSource, LatestFrame, RtspSource, V4l2Source, feed_for
from edge.config import CaptureConfig
from edge.errors import InputError, SourceError
from edge.records import Frame

IMAGE = np.zeros((4, 4), np.uint8)
PATIENCE_S = 5.0  # seconds; far more than any of these needs, so that a busy machine fails no test


class LiveSource:
    """A live source whose reads are scripted: an id gives a frame, an exception is raised, at the end it waits to be
    closed."""

    name, live, media_time, decode_errors, missed, format = "fake:", True, False, 0, 0, ""

    def __init__(self, script: list[object]) -> None:
        self.script = list(script)
        self.opened = 0
        self.done = threading.Event()

    def open(self) -> None:
        self.opened += 1

    def read(self) -> Frame | None:
        if not self.script:
            self.done.set()
            time.sleep(0.01)
            raise SourceError("fake: over")
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return Frame(int(step), time.monotonic_ns(), IMAGE)  # type: ignore[call-overload]

    def close(self) -> None:
        pass


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def test_newest_wins_and_the_overtaken_are_counted() -> None:
    source = LiveSource([0, 1, 2, 3])
    with LatestFrame(source) as feed:
        assert source.done.wait(PATIENCE_S)
        frame = feed.next(PATIENCE_S)
        assert frame is not None and frame.id == 3
        assert (feed.stats().read, feed.stats().dropped) == (4, 3)
        assert feed.next(0.01) is None and not feed.ended


def test_a_lost_source_is_reopened_and_says_so() -> None:
    source = LiveSource([0, SourceError("fake: unplugged"), SourceError("fake: still away"), 1])
    with LatestFrame(source, backoff_max_s=0.1) as feed:
        wait_for(lambda: feed.stats().read == 2)
        wait_for(lambda: not feed.stats().connected)  # the script is over: lost again
        assert feed.stats().reconnects == 1
        assert feed.stats().problem == "fake: over"
        assert source.opened >= 3


def test_a_recording_at_its_own_rate_loses_none_unseen_and_ends() -> None:
    source = FramesSource("test", [IMAGE] * 10, fps=100)
    seen = []
    with LatestFrame(source) as feed:
        while not feed.ended:
            if (frame := feed.next(0.5)) is not None:
                seen.append(frame.id)
    assert seen[-1] == 9
    assert len(seen) + feed.stats().dropped == 10


def test_fast_drops_nothing_however_slow_the_loop() -> None:
    source = FramesSource("test", [IMAGE] * 5, fps=1000, fast=True)
    with feed_for(source, CaptureConfig()) as feed:
        assert isinstance(feed, EveryFrame)
        seen = []
        while (frame := feed.next(0)) is not None:
            seen.append(frame.id)
            time.sleep(0.005)
    assert seen == [0, 1, 2, 3, 4] and feed.ended and feed.stats().dropped == 0


def test_what_breaks_a_recording_reaches_the_loop() -> None:
    def images():
        yield IMAGE
        raise InputError("clip.mp4: damaged")

    with LatestFrame(FramesSource("test", images(), fps=100)) as feed, pytest.raises(InputError, match="damaged"):
        while True:
            feed.next(PATIENCE_S)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (V4l2Source("/dev/video-none", CaptureConfig()), "v4l2:/dev/video-none: cannot be opened.*by-id"),
        (
            RtspSource("rtsp://u:hunter2@127.0.0.1:9/s", CaptureConfig()),
            r"rtsp://\*\*\*@127.0.0.1:9/s: cannot be opened",
        ),
    ],
)
def test_what_is_not_there_is_named_without_secrets(
    source: V4l2Source | RtspSource, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match=words):
        source.open()
    printed = capfd.readouterr()
    assert "hunter2" not in printed.out + printed.err


def test_a_picture_that_is_too_old_is_counted_and_not_shown() -> None:
    class Late(LiveSource):
        def read(self) -> Frame | None:
            frame = super().read()
            return frame and Frame(frame.id, frame.t_mono_ns - (10**9 if frame.id == 0 else 0), IMAGE)

    with LatestFrame(Late([0, 1])) as feed:
        frame = feed.next(PATIENCE_S)
        assert frame is not None and frame.id == 1
        assert (feed.stats().read, feed.stats().stale, feed.stats().dropped) == (2, 1, 0)


def test_a_picture_that_waited_for_a_busy_loop_is_not_shown_either() -> None:
    now = [time.monotonic_ns()]
    source = LiveSource([0])
    with LatestFrame(source, clock_ns=lambda: now[0]) as feed:
        assert source.done.wait(PATIENCE_S)
        now[0] += 10**9
        assert feed.next(0.01) is None and feed.stats().stale == 1


def test_reopening_waits_longer_each_time_and_never_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Away(LiveSource):
        def open(self) -> None:
            raise SourceError("fake: away")

    feed = LatestFrame(Away([]), backoff_max_s=0.4)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 50:
            Event.set(feed._stop)
        return False

    Event = threading.Event
    monkeypatch.setattr(feed._stop, "wait", wait)
    with feed:
        wait_for(lambda: len(waits) == 50)
        assert waits[:4] == [0.1, 0.2, 0.4, 0.4] and set(waits[3:]) == {0.4}
        assert not feed.stats().connected and feed.stats().problem == "fake: away"
