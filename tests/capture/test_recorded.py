"""Clips: each frame once, at its own rate or fast; damaged ones named."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import FileSource, FramesSource, Source
from edge.capture.pacer import FALLBACK_FPS, Pacer
from edge.errors import InputError

FRAMES = 20
FPS = 20.0


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """20 frames, each with its number as brightness."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), 10 * index, np.uint8))
    writer.release()
    return path


def frames_of(source: Source) -> list:
    source.open()
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def test_fast_gives_every_frame_with_the_clips_own_time(clip: Path) -> None:
    source = FileSource(clip, fast=True)
    frames = frames_of(source)
    assert [frame.id for frame in frames] == list(range(FRAMES))
    assert [round(frame.image.mean() / 10) for frame in frames] == list(range(FRAMES))
    assert {b.t_mono_ns - a.t_mono_ns for a, b in zip(frames, frames[1:], strict=False)} == {50_000_000}
    assert source.decode_errors == 0 and source.media_time and isinstance(source, Source)


def test_at_its_own_rate_takes_its_own_time(clip: Path) -> None:
    start = time.monotonic()
    assert len(frames_of(FileSource(clip))) == FRAMES
    took = time.monotonic() - start
    assert took >= (FRAMES - 1) / FPS


def test_opened_again_the_ids_go_on(clip: Path) -> None:
    source = FileSource(clip, fast=True)
    frames_of(source)
    assert frames_of(source)[0].id == FRAMES


def test_a_cut_off_clip_plays_to_the_cut_and_is_counted(clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[: 3 * clip.stat().st_size // 4])
    source = FileSource(clip, fast=True)
    assert 0 < len(frames_of(source)) < FRAMES
    assert source.decode_errors >= 1


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100, None])
def test_what_is_no_clip_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.mp4: "):
        FileSource(path).open()


def test_a_folder_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        FileSource(tmp_path).open()


def test_frames_from_anywhere() -> None:
    frames = frames_of(FramesSource("test", [np.zeros((4, 4), np.uint8)] * 3, fps=10, fast=True))
    assert [frame.id for frame in frames] == [0, 1, 2]
    assert frames[2].t_mono_ns - frames[0].t_mono_ns == 200_000_000


@pytest.mark.parametrize("stated", [0.0, float("nan"), 90_000.0, -5.0])
def test_an_absurd_rate_is_replaced(stated: float) -> None:
    assert Pacer(stated, fast=True).fps == FALLBACK_FPS


def test_pacer_waits_until_due_and_not_when_late() -> None:
    now = [0]
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += round(seconds * 1e9)

    pacer = Pacer(10, fast=False, clock_ns=lambda: now[0], sleep_s=sleep)
    pacer.stamp(1)
    now[0] += 500_000_000
    assert pacer.stamp(2) == 600_000_000  # late: stamped with the time at which it was handed out
    assert waits == [pytest.approx(0.1)]
