"""What happens to the cost as the work grows: larger pictures, larger batches, more exams kept, a longer event store.

Cost against the number of streams is in `streams`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import numpy as np

from benchmarks.case import Bench, Case, Record
from benchmarks.frames import SIZES, clip_frames
from benchmarks.loops import closed_loop
from benchmarks.pipeline import new_event, scored, settled_reader
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.events.evidence import render_evidence
from edge.events.keeper import EVENTS_SHOWN
from edge.events.store import EventStore, Retention

SUITE = "growth"
BATCHES = (1, 2, 4, 8, 16, 32)  # crops
POINT_CALLS = 30  # timed calls a point: a median
EXAMS = (1, 10, 100, 1000)  # flagged exams with evidence image: a busy clinic's decade
CHUNK = 10_000  # rows inserted at once


def median_ms(work: Callable[[], object], bench: Bench, calls: int = POINT_CALLS) -> float:
    return float(np.median(closed_loop(work, max(2, min(calls, bench.calls)), bench.limit_s, warm_up=1)))


def picture_size(bench: Bench) -> list[Record]:
    points = []
    for done, size in enumerate(SIZES.values()):
        bench.note(f"{SUITE}: picture size", done, len(SIZES))
        reader, frames, _ = settled_reader(bench, clip_frames(8, size))
        points.append((size[0] * size[1] / 1e6, median_ms(lambda r=reader, f=frames: r.read(next(f)), bench)))  # type: ignore[misc]
    return [_curve("screen reading against picture size", {"p50 ms": points}, "megapixels", ", ".join(SIZES))]


def batch(bench: Bench) -> list[Record]:
    crops, points = bench.bundle.golden().inputs, []
    with OnnxRuntimeRunner(bench.bundle.model, bench.threads) as runner:
        for done, n in enumerate(BATCHES):
            bench.note(f"{SUITE}: batch", done, len(BATCHES))
            points.append((float(n), median_ms(lambda n=n: runner.infer(crops[:n]), bench) / n))  # type: ignore[misc]
    return [_curve("engine against batch", {"p50 ms a crop": points}, "crops a call", "ONNX Runtime")]


def exams_kept(bench: Bench) -> list[Record]:
    """Exams with their evidence on disk, through the store's own commit."""
    _, scores, view = scored(bench)
    image = render_evidence(view, scores, "2026-01-01T00:00:00.000+00:00", 1, bench.bundle.label)
    series: dict[str, list[tuple[float, float]]] = {"commit": [], f"list {EVENTS_SHOWN}": [], "clean up": []}
    sizes, kept = [n for n in EXAMS if n <= bench.events_max], 0
    with EventStore(bench.folder / "events", Retention(min_free_bytes=0)) as store:
        for n in sizes:
            while kept < n:
                store.commit(new_event(image))
                kept += 1
            bench.note(f"{SUITE}: exams kept", n, sizes[-1])
            series[f"list {EVENTS_SHOWN}"].append((n, median_ms(lambda: store.events(limit=EVENTS_SHOWN), bench)))
            series["clean up"].append((n, median_ms(store.retain, bench)))
            series["commit"].append((n, median_ms(lambda: store.commit(new_event(image)), bench, 10)))
    return [_curve("event store against flagged exams with evidence", series, "exams", "ms, medians")]


def event_rows(bench: Bench) -> list[Record]:
    """Rows only, up to a million: what the database itself costs."""
    image = b"\x89PNG not a picture: the rows are what grows here"
    series: dict[str, list[tuple[float, float]]] = {
        "commit": [], f"list {EVENTS_SHOWN}": [], "next exam": [], "clean up": []
    }  # fmt: skip
    sizes = sorted({10**k for k in range(2, 7) if 10**k < bench.events_max} | {bench.events_max})
    folder, rows = bench.folder / "events", 0
    for n in sizes:
        with EventStore(folder, Retention(min_free_bytes=0)) as store:
            store.open()
        rows = fill(folder / "events.db", rows, n)
        bench.note(f"{SUITE}: event store", n, sizes[-1])
        with EventStore(folder, Retention(min_free_bytes=0)) as store:
            series[f"list {EVENTS_SHOWN}"].append((n, median_ms(lambda: store.events(limit=EVENTS_SHOWN), bench)))
            series["next exam"].append((n, median_ms(store.next_exam_id, bench)))
            series["clean up"].append((n, median_ms(store.retain, bench)))
            series["commit"].append((n, median_ms(lambda: store.commit(new_event(image)), bench, 10)))
    megabytes = (folder / "events.db").stat().st_size / 2**20
    curve = _curve("event store against its rows", series, "events", "ms, medians")
    return [curve, Record(SUITE, "event store's file", values={"events": float(rows), "mb": megabytes})]


def fill(database: object, rows: int, wanted: int) -> int:
    """Adds rows until there are `wanted`, past the store's own commit, whose fsync would take an hour. -> wanted"""
    start = datetime.now(timezone.utc) - timedelta(days=30)
    with sqlite3.connect(str(database)) as connection:
        while rows < wanted:
            some = range(rows, min(wanted, rows + CHUNK))
            connection.executemany(
                "INSERT INTO events (exam_id, source, frame_id, t_wall, latency_ms, hygroma, evidence, bundle, image_path,"
                " image_sha256, image_bytes) VALUES (?, 'benchmark', ?, ?, 50, .9, 6, 'benchmark', ?, ?, 100)",
                ((i, i, (start + timedelta(seconds=i)).isoformat(timespec="milliseconds"), f"evidence/x/{i}.png", "0" * 64)
                 for i in some),
            )
            rows = some.stop
    connection.close()
    return wanted


def _curve(name: str, series: dict[str, list[tuple[float, float]]], x: str, note: str) -> Record:
    return Record(SUITE, name, series=series, axes=(x, "ms"), notes=(note,))


CASES = [
    Case(SUITE, "picture size", picture_size),
    Case(SUITE, "batch", batch),
    Case(SUITE, "exams kept", exams_kept),
    Case(SUITE, "event store", event_rows),
]
