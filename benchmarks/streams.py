"""How many sources one machine holds: as many daemons as sources, one process each, as systemd runs them.

A number of streams is held when, after its first seconds, no daemon lost a picture or found one too old. Pictures come as YUYV
from memory and are converted as a grabber's are; the kernel's and the bus's part of a camera is not in it.
"""

from __future__ import annotations

import json
import math
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Bench, Case, Record
from benchmarks.daemon import open_daemon
from benchmarks.environment import CHECKOUT
from benchmarks.frames import SIZES, ScheduledCamera, clip_frames, to_yuyv, yuyv_decoder
from edge.bundle import ANYONE, load_bundle
from edge.errors import EngineError
from edge.hardware import usable_cores

SUITE = "streams"
SETUPS = [(size, fps) for size in ("720p", "1080p") for fps in (15, 30, 60)]
STREAMS_PER_CORE = 4  # beyond it nothing is tried: a core that holds four 60 fps streams needs no finer figure
SETTLE_S = 3.0  # seconds at the start that do not count: the fan is being found
PICTURES = 16  # a process: 66 MB at 1080p
START_S = 120.0  # seconds for all processes to be ready
SHORT_CALLS = 10  # a bench of no more calls only shows that it works: one stream


def hold(size: str, fps: int) -> Any:
    def run(bench: Bench) -> list[Record]:
        seconds = max(1.0, min(10.0, bench.limit_s / 3))
        most = usable_cores() * STREAMS_PER_CORE if bench.calls > SHORT_CALLS else 1
        held, rows = 0, []
        table: list[dict[str, float | str]] = []
        for streams in range(1, most + 1):
            bench.note(f"{SUITE}: {size} at {fps} fps", streams, most)
            found = together(bench, streams, size, fps, seconds)
            if unaccounted := sum(f["unaccounted"] for f in found):
                raise EngineError(f"{size} at {fps} fps: {unaccounted} pictures are in no count: a bug in the feed")
            rows.append(found)
            table.append(_row(streams, found, seconds))
            if any(f["missing"] or f["late"] for f in found):
                break
            held = streams
        series = {
            **{f"{p} ms, worst stream": _worst(rows, p) for p in ("p50", "p99")},
            "lost or late, %": [(n + 1.0, _share(row, "missing") + _share(row, "late")) for n, row in enumerate(rows)],
        }
        values = {"streams_held": float(held), "seconds_each": seconds}
        notes = (f"the search ends at {most}",) if held == most else ()
        return [
            Record(SUITE, f"{size} at {fps} fps", values=values, better={"streams_held": "higher"},
                   series=series, axes=("streams", "ms, or %"), table=table, notes=notes)
        ]  # fmt: skip

    return run


def together(bench: Bench, streams: int, size: str, fps: float, seconds: float) -> list[dict[str, float]]:
    """What each of `streams` processes saw in the same `seconds`. EngineError when one fails."""
    asked = json.dumps(
        {"bundle": str(bench.bundle.path), "size": size, "fps": fps, "seconds": seconds, "threads": bench.threads}
    )
    command = [sys.executable, "-m", "benchmarks.streams", asked]
    with tempfile.TemporaryFile("w+") as errors:
        workers = [
            subprocess.Popen(command, cwd=CHECKOUT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            for _ in range(streams)
        ]
        try:
            deadline = time.monotonic() + START_S
            for worker in workers:  # all ready, then all at once
                assert worker.stdout is not None
                told, _, _ = select.select([worker.stdout], [], [], max(0.0, deadline - time.monotonic()))
                if not told or worker.stdout.readline().strip() != "ready":
                    errors.seek(0)
                    raise EngineError(
                        f"a stream's process failed, or was not ready after {START_S:g} s: {errors.read()[-500:].strip()}"
                    )
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
            answers = [worker.communicate(timeout=START_S + SETTLE_S + seconds)[0] for worker in workers]
            return [json.loads(answer) for answer in answers]
        except (ValueError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{streams} streams of {size} at {fps:g} fps: {error}") from None
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def _row(streams: int, found: list[dict[str, float]], seconds: float) -> dict[str, float | str]:
    """One line of the table; a percentile that no picture came to is left out."""
    figures = {f"{p} ms, worst stream": max(f[p] for f in found) for p in ("p50", "p99")}
    return {
        "streams": float(streams),
        "scored a second and stream": sum(f["due"] - f["missing"] for f in found) / seconds / streams,
        "lost, %": _share(found, "missing"),
        "late, %": _share(found, "late"),
        **{name: value for name, value in figures.items() if math.isfinite(value)},
    }


def _share(row: list[dict[str, float]], figure: str) -> float:
    """Per cent of the pictures that were due."""
    return 100 * sum(f[figure] for f in row) / max(1.0, sum(f["due"] for f in row))


def _worst(rows: list[list[dict[str, float]]], figure: str) -> list[tuple[float, float]]:
    """(streams, the worst stream's figure); no point where a stream has none."""
    points = [(n + 1.0, max(f[figure] for f in row)) for n, row in enumerate(rows)]
    return [point for point in points if math.isfinite(point[1])]


class _Gate(ScheduledCamera):
    """Opens when it is told to: everything else in the process is ready then."""

    def open(self) -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        super().open()


def watch_one(asked: dict[str, Any]) -> dict[str, float]:
    """One process's part: its daemon on its camera."""
    size, settle = SIZES[asked["size"]], round(SETTLE_S * asked["fps"])
    frames = settle + round(asked["seconds"] * asked["fps"])
    buffers = [to_yuyv(picture) for picture in clip_frames(PICTURES, size)]
    seen: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="hygroma-bench-") as folder:
        bench = Bench(load_bundle(asked["bundle"], ANYONE), Path(folder), asked["threads"])
        source = _Gate(buffers, asked["fps"], frames, yuyv_decoder(size))
        with open_daemon(
            bench, source, lambda v: seen.append((v.frame_id, (time.monotonic_ns() - v.t_mono_ns) / 1e6))
        ) as daemon:
            summary = daemon.run()
    ages = [ms for frame, ms in seen if frame >= settle]
    feed, due, late = summary.feed, frames - settle, summary.errors.get("late", 0)
    return {
        "due": float(due),
        "missing": float(due - len(ages)),
        "late": float(late),
        "unaccounted": float(feed.read - summary.frames - feed.dropped - feed.stale),
        "p50": float(np.percentile(ages, 50)) if ages else math.inf,  # no picture ever came to a verdict
        "p99": float(np.percentile(ages, 99)) if ages else math.inf,
    }


CASES = [Case(SUITE, f"{size} at {fps} fps", hold(size, fps)) for size, fps in SETUPS]

if __name__ == "__main__":
    print(json.dumps(watch_one(json.loads(sys.argv[1]))))
