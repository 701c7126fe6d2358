"""Each stage of the daemon by itself, then the daemon's own loop: from memory, and at the camera's rate from a camera, a file
and the phantom, to the verdict and to the committed flag. Pictures are simulated, 1280x720, mostly the shipped clip's."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from benchmarks.case import Bench, Case, Record, record, timed
from benchmarks.daemon import open_daemon, open_scorer
from benchmarks.frames import KEPT, SKIPPED, ScheduledCamera, clip_frames, to_yuyv, yuyv_decoder
from benchmarks.loops import Work
from benchmarks.soak import ClipAgain
from calibration.phantom import FPS as PHANTOM_FPS
from calibration.phantom import render, sample_exam
from edge.capture.recorded import FileSource, FramesSource
from edge.capture.source import Source
from edge.decision.exam import Exam
from edge.decision.params import DecisionParams
from edge.demo import CLIP
from edge.errors import InputError
from edge.events.evidence import render_evidence
from edge.events.store import EventStore, NewEvent, Retention
from edge.records import Frame, Reading, Scores, Verdict
from edge.screen.preprocess import prepare
from edge.screen.reader import ScreenReader
from edge.screen.view import look
from edge.status.board import NewExamRequest

SUITE = "pipeline"
FLAG_EVERY_S = 1.0  # seconds between flags: far more often than a clinic's, yet a clip's encoding ends in between
PHANTOM_SEED = 7  # any
SETTLE = 75  # frames: 2.5 s at 30 fps, after which the fan's geometry is settled


@contextmanager
def decoding(bench: Bench) -> Iterator[Work]:
    source = FileSource(CLIP, fast=True)

    def work() -> None:
        if source.read() is None:
            source.open()

    with source:
        yield work


@contextmanager
def converting(bench: Bench) -> Iterator[Work]:
    picture = clip_frames(1)[0]
    convert, data = yuyv_decoder(picture.shape[1::-1]), to_yuyv(picture)  # type: ignore[arg-type]
    yield lambda: convert(data)


def settled_reader(
    bench: Bench, pictures: Sequence[np.ndarray] | None = None
) -> tuple[ScreenReader, Iterator[Frame], Reading]:
    """A reader that knows its fan, the frames that go on from there, and its last reading. pictures: instead of the clip's."""
    reader, shown = ScreenReader(bench.bundle.manifest.preprocessing), itertools.cycle(pictures or clip_frames())
    frames = (Frame(i, round(i * 1e9 / 30), picture) for i, picture in enumerate(shown))
    for frame in itertools.islice(frames, SETTLE):
        reading = reader.read(frame)
    if reading.crop is None or reading.fan is None:
        raise InputError(f"{CLIP}: its pictures read as {reading.signal.value}; install the package again")
    return reader, frames, reading


@contextmanager
def reading_screen(bench: Bench) -> Iterator[Work]:
    reader, frames, _ = settled_reader(bench)
    yield lambda: reader.read(next(frames))


@contextmanager
def preprocessing(bench: Bench) -> Iterator[Work]:
    reader, frames, reading = settled_reader(bench)
    picture, fan = next(frames).image, reading.fan
    assert fan is not None  # settled_reader raised otherwise
    yield lambda: prepare(picture, fan, reader.spec)


@contextmanager
def scoring(bench: Bench) -> Iterator[Work]:
    crop = settled_reader(bench)[2].crop
    assert crop is not None
    with open_scorer(bench) as scorer:
        yield lambda: scorer.score(crop)


def scored(bench: Bench) -> tuple[Reading, Scores, np.ndarray]:
    """One reading, its scores, and what people see of it."""
    _, frames, reading = settled_reader(bench)
    assert reading.crop is not None and reading.fan is not None
    with open_scorer(bench) as scorer:
        return reading, scorer.score(reading.crop), look(next(frames).image, reading.fan).image


@contextmanager
def deciding(bench: Bench) -> Iterator[Work]:
    reading, scores, _ = scored(bench)
    exam, stamps = Exam(DecisionParams.from_manifest(bench.bundle.manifest), 1), itertools.count(0, 33_000_000)
    yield lambda: exam.step(dataclasses.replace(reading, t_mono_ns=next(stamps)), scores)


@contextmanager
def rendering(bench: Bench) -> Iterator[Work]:
    _, scores, view = scored(bench)
    yield lambda: render_evidence(view, scores, "2026-01-01T00:00:00.000+00:00", 1, bench.bundle.label)


@contextmanager
def committing(bench: Bench) -> Iterator[Work]:
    _, scores, view = scored(bench)
    image = render_evidence(view, scores, "2026-01-01T00:00:00.000+00:00", 1, bench.bundle.label)
    with EventStore(bench.folder / "events", Retention(min_free_bytes=0)) as store:
        yield lambda: store.commit(new_event(image))


def new_event(image: bytes) -> NewEvent:
    """A flag as the loop makes it."""
    return NewEvent(
        1, "benchmark", 1, time.monotonic_ns(), "2026-01-01T00:00:00.000+00:00", 0.9, 6.0, "benchmark", image
    )


def from_memory(bench: Bench) -> list[Record]:
    """The whole loop, the next picture handed over as soon as the last one's verdict is there."""
    name = "loop, pictures from memory, one after another"
    pictures, ends = clip_frames(), []
    frames = bench.calls + SETTLE

    def note(verdict: Verdict) -> None:
        ends.append(time.perf_counter_ns())
        bench.note(f"{SUITE}: {name}", len(ends), frames)

    source = FramesSource("benchmark", (pictures[i % KEPT] for i in range(frames)), 30.0, fast=True)
    with open_daemon(bench, source, note) as daemon:
        daemon.run()
    taken = np.diff(np.array(ends, np.int64))[SETTLE:] / 1e6
    fps = 1000 / taken.mean() if len(taken) else 0.0
    return [record(SUITE, name, taken, {"fps": float(fps)}, {"fps": "higher"})]


def to_verdict(bench: Bench, name: str, feed: Callable[[Bench, int], Source], note: str) -> list[Record]:
    """The whole loop on a source at the camera's rate: from when a picture was due to its verdict."""
    frames = bench.calls_at(bench.rate_hz) + SETTLE
    ages: list[float] = []

    def see(verdict: Verdict) -> None:
        if verdict.frame_id >= SETTLE:
            ages.append((time.monotonic_ns() - verdict.t_mono_ns) / 1e6)
        bench.note(f"{SUITE}: {name}", verdict.frame_id, frames)

    with open_daemon(bench, feed(bench, frames), see) as daemon:
        summary = daemon.run()
    stats = summary.feed
    values = {
        "rate_fps": bench.rate_hz,
        "dropped": float(stats.dropped),
        "late": float(summary.errors.get("late", 0)),
        "unaccounted": float(stats.read - summary.frames - stats.dropped - stats.stale),
    }
    notes = (f"{note}; a dropped picture has no latency and is in `dropped`",)
    return [record(SUITE, name, np.array(ages), values, notes=notes)]


def to_flag(bench: Bench, name: str, feed: Callable[[Bench, int], Source], note: str) -> list[Record]:
    """From the capture stamp of the newest frame behind a flag to its commit, evidence image durable."""
    params = dataclasses.replace(
        DecisionParams.from_manifest(bench.bundle.manifest),
        flag_threshold=0.1,
        min_frames=1,
        plane_threshold=0.0,
        ood_threshold=1e6,
    )
    params = dataclasses.replace(params, logit_offset=-20.0)  # every picture speaks for a flag
    flags = max(3, min(bench.calls, round(bench.limit_s / FLAG_EVERY_S)))
    every = round(FLAG_EVERY_S * bench.rate_hz)
    frames = SKIPPED + flags * every

    def see(verdict: Verdict) -> None:
        if verdict.frame_id % every == 0:
            daemon.board.ask(NewExamRequest())
        bench.note(f"{SUITE}: {name}", verdict.frame_id, frames)

    with open_daemon(bench, feed(bench, frames), see, params) as daemon:
        summary = daemon.run()
    ages = np.array([event.latency_ms for event in summary.events])
    values = {
        "rate_fps": bench.rate_hz,
        "dropped": float(summary.feed.dropped),
        "lost_flags": float(summary.lost_events),
    }
    notes = (f"{note}; the decision is made to flag once a second: how often it flags does not change what a flag takes",)
    return [record(SUITE, name, ages, values, notes=notes)]


def camera(bench: Bench, frames: int) -> ScheduledCamera:
    pictures = clip_frames()
    return ScheduledCamera(
        [to_yuyv(picture) for picture in pictures],
        bench.rate_hz,
        frames,
        yuyv_decoder(pictures[0].shape[1::-1]),  # type: ignore[arg-type]
    )


def file(bench: Bench, frames: int) -> ClipAgain:
    return ClipAgain(CLIP, bench.rate_hz, frames)


def phantom(bench: Bench, frames: int) -> ScheduledCamera:
    """Rendering takes longer than a frame's time on some machines: what is handed out was rendered before."""
    exam = sample_exam(PHANTOM_SEED, "hygroma", seconds=KEPT / PHANTOM_FPS)
    return ScheduledCamera([shown.image for shown in render(exam)], bench.rate_hz, frames)


SOURCES: dict[str, tuple[Callable[[Bench, int], Source], str]] = {
    "camera": (camera, "YUYV, converted as a grabber's"),
    "file": (file, "the shipped clip, decoded from H.264 as it is played; due: by the clip's pace"),
    "phantom": (phantom, f"{KEPT} pictures of one rendered exam, again and again"),
}


def loops() -> list[Case]:
    """Each source to its verdicts, and to its committed flags."""
    found = []
    for source, (feed, note) in SOURCES.items():
        for measure, what in ((to_verdict, "verdict"), (to_flag, "committed flag")):
            name = f"loop, {source}, due to {what}"
            found.append(Case(SUITE, name, partial(measure, name=name, feed=feed, note=note)))
    return found


CASES = [
    timed(SUITE, "decode H.264, 720p", decoding),
    timed(SUITE, "convert YUYV, 720p", converting),
    timed(SUITE, "read the screen", reading_screen),
    timed(SUITE, "preprocess (part of reading)", preprocessing),
    timed(SUITE, "engine", scoring),
    timed(SUITE, "decide", deciding),
    timed(SUITE, "render the evidence image", rendering),
    timed(SUITE, "commit a flag", committing),
    Case(SUITE, "loop, pictures from memory, one after another", from_memory),
    *loops(),
]
