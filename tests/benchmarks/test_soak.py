from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import Bench
from benchmarks.soak import CASES, NAME, SUITE, ClipAgain, Losses, RunDelays, latency_drift, soak
from benchmarks.suites import run_case
from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.capture.recorded import FileSource
from edge.demo import CLIP

PERIOD = 33_000_000  # ns


def test_each_lost_picture_is_explained_or_not() -> None:
    losses = Losses(PERIOD)
    assert losses.explain(7, 0, 0) == (0, "")  # what came before the first verdict
    assert losses.explain(8, PERIOD, 0)[0] == 0
    assert losses.explain(10, 3 * PERIOD, 0) == (1, "")  # the loop took two periods, and nobody kept it from running
    assert losses.explain(13, 6 * PERIOD, 2 * PERIOD, flagging=True) == (2, "scheduler")
    assert losses.explain(15, 8 * PERIOD, 2 * PERIOD) == (1, "flag")
    assert losses.explain(17, 10 * PERIOD, 2 * PERIOD + 1000) == (1, "")  # a wait of a microsecond explains nothing
    late = {18: 100, 19: 100 + PERIOD // 4}
    assert losses.explain(19, 12 * PERIOD, 2 * PERIOD + 1000, given_ns=late) == (1, "decoder")
    on_time = {20: 0, 21: PERIOD}
    assert losses.explain(21, 14 * PERIOD, 2 * PERIOD + 1000, given_ns=on_time) == (1, "")


def test_a_clip_is_played_again_with_stamps_of_when_each_picture_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileSource(CLIP, fast=True) as clip:
        first = clip.read()
    source = ClipAgain(CLIP, 1000.0, 4)
    monkeypatch.setattr(source._clip, "read", _Ends(source._clip.read))
    with source:
        frames = [source.read() for _ in range(4)]
        assert source.read() is None
    assert [frame.id for frame in frames] == [0, 1, 2, 3]
    apart = [b.t_mono_ns - a.t_mono_ns for a, b in zip(frames, frames[1:], strict=False)]
    assert apart[0] == apart[2] == 1_000_000 <= apart[1]  # rewound in the middle
    assert first is not None and (frames[2].image == first.image).all()


class _Ends:
    """A read that finds the clip's end after every second picture."""

    def __init__(self, read) -> None:
        self._read, self._calls = read, 0

    def __call__(self):
        self._calls += 1
        return None if self._calls % 3 == 0 else self._read()


def test_run_delays_only_grow() -> None:
    delays = RunDelays()
    assert 0 <= delays.total() <= delays.total()


def test_a_short_soak_has_every_figure_of_the_promise_and_does_not_keep_it(tmp_path: Path) -> None:
    from benchmarks.results import read_budgets

    bench = Bench(load_bundle(SHIPPED_BUNDLE), tmp_path, soak_frames=60)
    whole, latencies, drift = soak(bench)
    promised = [figure for key, figure, *_ in read_budgets() if key == f"{SUITE}: {NAME}"]
    assert len(promised) == 7 and set(promised) <= set(whole.values)
    assert whole.values["short_of_promise_s"] == 598 and whole.values["unaccounted"] == 0
    assert whole.distribution is not None and 50 < whole.values["rss_mb"] < 1000
    assert whole.values["anonymous_mb"] < whole.values["rss_mb"] and drift.series
    assert len(latencies.series["p50 ms"]) == 6 and [row["drift an hour"] for row in latencies.table] == [
        "p50 ms",
        "p99 ms",
    ]


def test_latencies_that_grow_are_a_drift_and_lost_pictures_are_not() -> None:
    seconds = np.arange(18_000) / 30
    ages = 15 + 3.6 * seconds / 3600 + np.random.default_rng(0).normal(0, 0.1, 18_000)  # 3.6 ms an hour
    ages[::7] = np.nan
    ages[600:1200] = np.nan  # 20 s without any
    found = latency_drift(ages, 30.0)
    p50, _ = found.table
    assert float(p50["low"]) <= 3.6 <= float(p50["high"]) and float(p50["high"]) - float(p50["low"]) < 1
    assert len(found.series["p50 ms"]) == len(found.series["p99 ms"]) == 58
    steady = latency_drift(np.full(18_000, 15.0), 30.0)
    assert steady.table[0]["slope"] == 0


def test_a_soak_without_a_verdict_has_no_drift() -> None:
    assert latency_drift(np.full(60, np.nan), 30.0).series == {"p50 ms": [], "p99 ms": []}


def test_a_process_that_fails_is_told(tmp_path: Path) -> None:
    gone = dataclasses.replace(load_bundle(SHIPPED_BUNDLE), path=tmp_path / "gone")
    (told,) = run_case(CASES[0], Bench(gone, tmp_path, soak_frames=60))
    assert "the process failed" in told.failed and "gone" in told.failed


def test_threads_that_have_ended_hold_no_descriptors() -> None:
    delays = RunDelays()
    delays.total()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        delays.total()
        stop.set()
        thread.join()
    until = time.monotonic() + 20
    while len(os.listdir("/proc/self/fd")) > before:  # the kernel's thread outlives `join` for a moment
        assert time.monotonic() < until, "descriptors of threads that ended are kept"
        delays.total()


def test_rewinding_the_clip_makes_no_picture_late(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ClipAgain(CLIP, 1000.0, 4)
    monkeypatch.setattr(source._clip, "read", _Ends(source._clip.read))
    real = source._clip.open
    with source:
        monkeypatch.setattr(source._clip, "open", lambda: (time.sleep(0.2), real())[1])
        stamps = [frame.t_mono_ns for frame in (source.read() for _ in range(4)) if frame]
    assert stamps[2] - stamps[1] >= 200_000_000 and stamps[3] - stamps[2] == 1_000_000
