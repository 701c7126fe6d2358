"""The daemon for as long as one asks: does its latency, memory, or number of descriptors and threads drift?"""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.case import Bench, Case, Record, record
from benchmarks.daemon import descriptors, memory_mb, open_daemon
from benchmarks.pipeline import SETTLE, camera
from benchmarks.samples import slope
from edge.records import Verdict

SUITE = "soak"
NAME = "loop on a camera"
WINDOWS = 60  # points of the drift; a slope's interval needs some dozens
PER = 100_000  # frames: drift is told per as many, an hour at 28 fps
WARM_WINDOWS = 0.2  # share of the run left out of the slopes: caches fill and the heap finds its size


def drift(bench: Bench) -> list[Record]:
    frames = round(bench.soak_hours * 3600 * bench.rate_hz) if bench.soak_hours > 0 else bench.soak_frames
    window = max(1, frames // WINDOWS)
    # All of it touched now: what grew with each frame would be seen as the daemon's.
    ages, seen = np.full(frames, np.nan), 0
    points: list[tuple[int, float, float, float, float]] = []  # frames so far, p50 ms, MB, descriptors, threads
    recent: list[float] = []

    def note(verdict: Verdict) -> None:
        nonlocal seen
        age = (time.monotonic_ns() - verdict.t_mono_ns) / 1e6
        if verdict.frame_id >= SETTLE:
            ages[seen] = age
            seen += 1
        recent.append(age)
        if len(recent) == window:
            memory = memory_mb()["rss_mb"]
            points.append((verdict.frame_id, float(np.median(recent)), memory, descriptors(), threading.active_count()))
            recent.clear()
        bench.note(f"{SUITE}: {NAME}", verdict.frame_id, frames)

    with open_daemon(bench, camera(bench, frames + SETTLE), note) as daemon:
        summary = daemon.run()
    table: list[dict[str, float | str]] = []
    feed = summary.feed
    values = {
        "frames": float(summary.frames),
        "dropped": float(feed.dropped),
        "unaccounted": float(feed.read - summary.frames - feed.dropped - feed.stale),
        "late": float(summary.errors.get("late", 0)),
    }
    late = np.array(points[round(len(points) * WARM_WINDOWS) :], np.float64)
    names = ("p50 ms", "resident MB", "descriptors", "threads")
    series = {name: [(float(p[0]), float(p[i])) for p in points] for i, name in enumerate(names, 1)}
    for i, name in enumerate(names, 1):
        if len(late) < 3:
            break
        value, low, high = (PER * v for v in slope(late[:, 0], late[:, i]))
        table.append({"drift per 100,000 frames": name, "slope": value, "low": low, "high": high})
    notes = ("95 % bootstrap intervals over windows, which are not independent: read them as rough",)
    return [
        record(SUITE, NAME, ages[:seen], values),
        Record(SUITE, "drift", series=series, axes=("frames", "as named"), table=table, notes=notes),
    ]


CASES = [Case(SUITE, NAME, drift)]
