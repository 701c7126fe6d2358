"""A daemon to be ill-treated: the real loop, decision, evidence, store and page in a process of its own, before a camera that is
another process. Screen reading and the model are fakes that make every exam flag within a few frames.

    python daemon.py '{"events": DIR, "camera": SOCKET, ...}'

Prints one JSON object a line: the page's address, and each event after its commit returned (the acknowledgement).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import numpy as np

from edge.bundle import load_bundle
from edge.capture.feed import EveryFrame, LatestFrame
from edge.capture.recorded import FileSource, FramesSource
from edge.capture.source import OpenClose
from edge.clock import WallClock
from edge.decision import DecisionParams, Exam
from edge.demo import CLIP
from edge.errors import SourceError
from edge.events import EventStore, NewEvent
from edge.events.disk import Disk
from edge.loop import Identity, Watch
from edge.records import Event, Frame, Reading, Scores, Signal, Verdict
from edge.screen.geometry import full_fan
from edge.screen.reader import ScreenReader
from edge.sd_notify import Notifier
from edge.status.board import Board, NewExamRequest
from edge.status.server import StatusServer
from edge.watching import SHIPPED_BUNDLE

H, W = 48, 64  # pixels of the camera's picture
HEADER = struct.Struct("<q")  # the capture stamp: monotonic nanoseconds, one clock for all processes of a machine
PICTURE_BYTES = HEADER.size + H * W
MAP = np.full((4, 4), 0.5, np.float32)
FLAGS_FAST = DecisionParams(min_interval_ms=0.0, min_frames=3, flag_threshold=2.5)  # three frames an exam


class SocketCamera(OpenClose):
    """Pictures from another process (camera.py), which may be killed or stopped."""

    live, media_time, decode_errors, missed, format = True, False, 0, 0, ""

    def __init__(self, path: str) -> None:
        self.name, self._path, self._next_id = "camera", path, 0
        self._socket: socket.socket | None = None

    def open(self) -> None:
        self.close()
        try:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(2.0)  # capture.read_timeout_s
            self._socket.connect(self._path)
        except OSError as error:
            raise SourceError(f"camera: {error}") from error

    def read(self) -> Frame:
        assert self._socket is not None
        data = b""
        while len(data) < PICTURE_BYTES:
            try:
                part = self._socket.recv(PICTURE_BYTES - len(data))
            except OSError as error:
                raise SourceError(f"camera: {error}") from error
            if not part:
                raise SourceError("camera: gone")
            data += part
        (stamp,) = HEADER.unpack_from(data)
        image = np.frombuffer(data, np.uint8, offset=HEADER.size).reshape(H, W)
        self._next_id += 1
        return Frame(self._next_id - 1, stamp, image)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Reader:
    """`needs_mb`: what reading a frame takes for a moment, as a large screen's does."""

    def __init__(self, needs_mb: int = 0) -> None:
        self.needs_mb = needs_mb

    def read(self, frame: Frame) -> Reading:
        np.ones(self.needs_mb * 2**20, np.uint8)
        return Reading(frame.id, frame.t_mono_ns, Signal.OK, full_fan(frame.image.shape), frame.image)


class Scorer:
    """`hang_after`: the engine that never comes back from its n-th inference."""

    def __init__(self, hang_after: int = 0) -> None:
        self.calls, self.hang_after = 0, hang_after

    def score(self, crop: np.ndarray) -> Scores:
        self.calls += 1
        if self.calls == self.hang_after:
            hang()
        return Scores(0.99, 0.99, 0.1, MAP)


class HangingDisk(Disk):
    """Writing an image never returns, from the n-th on."""

    def __init__(self, hang_after: int) -> None:
        self.writes, self.hang_after = 0, hang_after

    def write(self, path: Path, data: bytes) -> None:
        self.writes += 1
        if self.writes == self.hang_after:
            hang()
        super().write(path, data)


class JumpingClock:
    """The wall clock; it jumps to and fro by a year with every reading."""

    def __init__(self, days: int) -> None:
        self.days = days

    def __call__(self) -> datetime:
        self.days = -self.days
        return datetime.now(timezone.utc) + timedelta(days=self.days)


class TellingStore(EventStore):
    """Acknowledges on standard output, after the commit returned and not before."""

    def commit(self, new: NewEvent) -> Event:
        event = super().commit(new)
        tell({"event": event.id, "sha256": event.image_sha256, "latency_ms": event.latency_ms})
        return event


def hang() -> None:
    tell({"hangs": True})
    time.sleep(1e6)


def tell(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")  # one call, so that a kill cannot cut it


def pictures() -> Iterator[np.ndarray]:
    """For ever, no two alike."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (16, H, W), np.uint8)
    while True:
        yield from noise


def make_watch(
    feed: Any,
    events: str,
    *,
    hang_engine: int = 0,
    hang_disk: int = 0,
    jump_days: int = 0,
    needs_mb: int = 0,
    notifier: Notifier | None = None,
) -> tuple[Watch, Board]:
    board = Board()
    wall = JumpingClock(jump_days) if jump_days else lambda: datetime.now(timezone.utc)
    disk = HangingDisk(hang_disk) if hang_disk else Disk()
    store = TellingStore(events, disk=disk, wall=wall)

    def next_patient(verdict: Verdict) -> None:
        if verdict.newly_flagged:
            board.ask(NewExamRequest())

    watch = Watch(
        feed=feed, reader=Reader(needs_mb), scorer=Scorer(hang_engine), exam=Exam(FLAGS_FAST), store=store, board=board,
        identity=Identity("camera", "fake 1.0.0", "fake"), wall=WallClock(wall=wall), notifier=notifier, on_verdict=next_patient,
    )  # fmt: skip
    return watch, board


def flag_for_ever(events: str) -> None:
    """Flags as fast as it can."""
    cv2.setNumThreads(0)
    with EveryFrame(FramesSource("pictures", pictures(), 30, fast=True)) as feed:
        make_watch(feed, events)[0].run()


def clip(pictures_max: int = 100) -> Iterator[np.ndarray]:
    """The shipped clip's first pictures, for ever."""
    with FileSource(CLIP, fast=True) as source:
        images = [frame.image for frame in (source.read() for _ in range(pictures_max)) if frame is not None]
    while True:
        yield from images


class CropScorer:
    """A model that is none, but whose answer depends on every pixel."""

    def score(self, crop: np.ndarray) -> Scores:
        return Scores(0.9, 0.5 + (zlib.crc32(crop.tobytes()) % 1000) / 2500, 0.1, MAP)


def make_soak(feed: Any, events: str, note: Callable[[Verdict], None], screen: bool) -> Watch:
    cv2.setNumThreads(0)
    board = Board()

    def on_verdict(verdict: Verdict) -> None:
        if verdict.frame_id % 500 == 499:
            board.ask(NewExamRequest())
        note(verdict)

    reader = ScreenReader(load_bundle(SHIPPED_BUNDLE).manifest.preprocessing) if screen else Reader()
    return Watch(
        feed=feed, reader=reader, scorer=CropScorer(),
        exam=Exam(FLAGS_FAST), store=EventStore(events), board=board, identity=Identity("clip", "fake 1.0.0", "fake"),
        on_verdict=on_verdict,
    )  # fmt: skip


def main(options: dict[str, Any]) -> None:
    cv2.setNumThreads(0)
    camera, events = options.pop("camera"), options.pop("events")
    with LatestFrame(SocketCamera(camera)) as feed:
        watch, board = make_watch(feed, events, notifier=Notifier(), **options)
        with StatusServer(board, port=0) as server:
            tell({"url": server.url})
            watch.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
