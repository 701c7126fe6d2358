"""RTSP against a server on loopback: pictures, stalls, a server that goes and comes back, credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import BAR_PLACES, clip, greys, needs_ffmpeg, place
from rtsp_server import RtspServer

from edge.capture import LatestFrame, RtspSource
from edge.capture.lag import WINDOW_NS, StreamClock
from edge.config import CaptureConfig
from edge.errors import SourceError
from edge.records import Frame

CONFIG = CaptureConfig(open_timeout_s=5, read_timeout_s=1)
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "10", "-pix_fmt", "yuv420p"]
PATIENCE_S = 30.0  # seconds; far more than any of these needs, so that a busy machine fails no test


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds of H.264 at 20 fps, a key frame every half second: longer than any of these plays."""
    return clip(tmp_path_factory.mktemp("film") / "film.mp4", greys(800), *H264, fps=20)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in another size."""
    return clip(tmp_path_factory.mktemp("film") / "larger.mp4", greys(800, 320, 240), *H264, fps=20)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@needs_ffmpeg
def test_pictures_come_in_order_over_tcp(film: Path) -> None:
    with RtspServer(film) as server, RtspSource(server.url, CONFIG) as source:
        frames = [frame for frame in (source.read() for _ in range(15)) if frame]
        assert source.format.startswith("h264 160x120")
    assert [frame.id for frame in frames] == list(range(15))
    places = [place(frame.image) for frame in frames]
    assert all((b - a) % BAR_PLACES == 1 for a, b in zip(places, places[1:], strict=False)), places
    assert all(a.t_mono_ns < b.t_mono_ns for a, b in zip(frames, frames[1:], strict=False))
    assert server.requests[-1] == "PLAY" and source.decode_errors == 0


@needs_ffmpeg
def test_a_server_that_stalls_goes_and_comes_back_in_another_size(film: Path, larger: Path) -> None:
    with RtspServer(film) as server:
        port = server.port
        with LatestFrame(RtspSource(server.url, CONFIG), backoff_max_s=0.2, stall_s=0.3) as feed:
            until(lambda: feed.next(0.05) is not None)
            server.stalled = True
            until(lambda: feed.next(0.05) is None and feed.stats().stalls == 1)
            until(lambda: not feed.stats().connected)  # read_timeout_s has passed
            assert "check the address" in feed.stats().problem
            server.stop()
            with RtspServer(larger, port):
                until(lambda: feed.next(0.05) is not None and feed.stats().reconnects == 1)
                assert feed.stats().connected and feed.stats().problem == ""
                assert feed.stats().format_changes == 1 and feed.stats().format.startswith("h264 320x240")


@needs_ffmpeg
def test_credentials_are_sent_and_never_shown(
    film: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with RtspServer(film) as server:
        server.password = "hunter2"
        with RtspSource(server.url.replace("://", "://nurse:hunter2@"), CONFIG) as source:
            assert source.read() is not None
        with pytest.raises(SourceError, match="credentials"):
            RtspSource(server.url, CONFIG).open()
    shown = capfd.readouterr()
    assert "hunter2" not in caplog.text + shown.out + shown.err + source.name
    assert "***@127.0.0.1" in source.name


def test_nothing_listening_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(SourceError, match="cannot be opened; check the address"):
        RtspSource("rtsp://127.0.0.1:9/x", CONFIG).open()
    assert time.monotonic() - started < 2 * CONFIG.open_timeout_s


@needs_ffmpeg
@pytest.mark.requirement("C-04")
@pytest.mark.parametrize("factor", [0.84, 1.2])
def test_a_camera_whose_clock_runs_wrong_is_watched_without_a_break(
    film: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    with RtspServer(film) as server:
        server.clock = factor
        with LatestFrame(RtspSource(server.url, CONFIG)) as feed:
            until(lambda: feed.next(0.05) is not None)
            until(lambda: feed.next(0.05) is not None and "its clock at" in feed.stats().format)
            before, end = feed.stats().stale, time.monotonic() + 4
            while time.monotonic() < end:  # at .84 it was lost after 3.9 s
                feed.next(0.05)
            stats = feed.stats()
    assert stats.reconnects == 0 and stats.connected and stats.trouble == ""
    assert stats.stale - before <= 0.1 * stats.read
    assert caplog.text.count("it is followed") <= 3


@needs_ffmpeg
@pytest.mark.requirement("C-04", "C-06")
def test_a_reader_that_is_too_slow_is_told_from_a_clock(film: Path) -> None:
    class Slow(RtspSource):
        def read(self) -> Frame | None:
            time.sleep(0.1)  # twice what a picture may take
            return super().read()

    with RtspServer(film) as server, LatestFrame(Slow(server.url, CONFIG)) as feed:
        until(lambda: feed.next(0.05) is not None)
        until(lambda: feed.next(0.05) is None and "too old" in feed.stats().trouble)
        until(lambda: feed.next(0.05) is None and "too slow" in feed.stats().problem)
        assert "its clock" not in feed.stats().format


def test_a_picture_that_waited_is_stamped_when_it_was_taken() -> None:
    clock, now = StreamClock(), 10**12
    assert clock.captured_ns(0.0, now) == now
    assert clock.captured_ns(40.0, now + 40_000_000) == now + 40_000_000
    assert clock.captured_ns(80.0, now + 580_000_000) == now + 80_000_000  # it waited .5 s
    assert clock.captured_ns(120.0, now + 110_000_000) == now + 110_000_000  # quicker than all before: the new measure
    assert clock.captured_ns(0.0, now + 10**9) == now + 10**9  # the stream began anew
    assert clock.captured_ns(float("nan"), now) == now


def test_a_clock_that_drifts_is_followed() -> None:
    clock, now = StreamClock(), 0
    for second in range(1000):  # the camera's clock runs .1 % fast: after 1000 s it is a second ahead
        now = 10**12 + second * 10**9
        late_ns = now - clock.captured_ns(second * 1001.0, now)
        assert late_ns <= 2 * WINDOW_NS * 0.0011
