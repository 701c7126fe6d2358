"""The promise of a long run, on a process of its own: `hygroma bench soak --budgets` says whether it is kept.

The process is what `hygroma run` puts together, page included, on the shipped clip (simulated, 1280x720, H.264), decoded again
and again at the camera's rate. Its memory is looked at from outside, once a second. A picture that was lost is explained when the
loop was committing a flag, when the clip's decoder gave it late and its successor at once (a camera keeps its pace), or when the
scheduler kept this process' threads waiting for at least as long as it was late (Linux' schedstat); anything else is the daemon's
own fault.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Bench, Case, Record, record
from benchmarks.daemon import descriptors, memory_mb
from benchmarks.environment import CHECKOUT
from benchmarks.samples import slope
from edge.capture.recorded import FileSource
from edge.capture.source import OpenClose
from edge.config import BundleConfig, Config, EngineConfig, EventsConfig, StatusConfig
from edge.demo import CLIP
from edge.errors import EngineError
from edge.records import Frame, Verdict
from edge.watching import open_watching

SUITE = "soak"
NAME = "`hygroma run` at the camera's rate"
PROMISED_S = 600.0  # seconds that the promise is about (docs/requirements.md, T-05)
SETTLE_S = 3.0  # seconds at the start that do not count: the fan is being found
WARM_S = 120.0  # seconds before memory is judged: two rounds of the clip, flags, clips and every state included
WARM_SHARE = 0.2  # of a shorter run
SAMPLE_S = 1.0  # seconds between looks at the process
WINDOW_S = 10.0  # seconds a point of the drift
WINDOWS_MIN = 6  # of the latencies' windows, where the whole is too short for such points
PER_S = 3600.0  # drift is told per hour
GIVEN_KEPT = 64  # pictures whose handing out is remembered: two seconds, longer than any gap
GRACE_S = 180.0  # seconds beyond its pictures that the process may take to start and to end


class ClipAgain(OpenClose):
    """A clip played over and over, `frames` pictures in all, at `fps`. A frame's stamp is when it was due: one that comes late
    from the decoder is that much older."""

    live = False
    media_time = False
    missed = decode_errors = 0

    def __init__(self, clip: Path, fps: float, frames: int) -> None:
        self._clip = FileSource(clip, fast=True)
        self.name, self.format = f"{clip.name} again and again at {fps:g} fps", ""
        self._fps, self._frames = fps, frames
        self._next = self._first_ns = 0
        self.given_ns: deque[tuple[int, int]] = deque(
            maxlen=GIVEN_KEPT
        )  # the last pictures: id, when it was handed out

    def open(self) -> None:
        self._clip.open()
        self.format, self._next, self._first_ns = self._clip.format, 0, time.monotonic_ns()

    def close(self) -> None:
        self._clip.close()

    def read(self) -> Frame | None:
        if self._next == self._frames:
            return None
        frame = self._clip.read()
        self.decode_errors = self._clip.decode_errors
        due_ns = self._first_ns + round(self._next * 1e9 / self._fps)
        if frame is None:
            self._clip.open()
            frame = self._clip.read()
            assert frame is not None  # it had pictures the first time
            late_ns = max(
                0, time.monotonic_ns() - due_ns
            )  # a camera need not be rewound: its clock stood still meanwhile
            self._first_ns += late_ns
            due_ns += late_ns
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        self._next += 1
        self.given_ns.append((self._next - 1, time.monotonic_ns()))
        return Frame(self._next - 1, due_ns, frame.image)


class RunDelays:
    """How long this process' threads have waited for a core, ns, by Linux' schedstat; always 0 where the kernel does not tell."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def total(self) -> int:
        out = 0
        try:
            tasks = os.listdir("/proc/self/task")
        except OSError:
            return 0
        for task in tasks:
            try:
                if task not in self._files:
                    self._files[task] = os.open(f"/proc/self/task/{task}/schedstat", os.O_RDONLY)
                out += int(os.pread(self._files[task], 100, 0).split()[1])
            except (OSError, IndexError):  # it has ended since it was listed
                continue
        for task in self._files.keys() - set(tasks):  # ended; what it waited is forgotten
            os.close(self._files.pop(task))
        return out


@dataclass
class Losses:
    """Explains each gap in the verdicts' frame numbers. `period_ns`: between two pictures."""

    period_ns: int
    last_id: int = -1
    last_ns: int = 0
    last_delay_ns: int = 0
    flagging: bool = False

    def explain(
        self,
        frame_id: int,
        now_ns: int,
        delay_ns: int,
        flagging: bool = False,
        given_ns: Mapping[int, int] | None = None,
    ) -> tuple[int, str]:
        """A verdict on `frame_id` at `now_ns`, which the loop will commit a flag for if `flagging` -> (pictures lost since the
        one before, why); "" when nothing explains it. What came before the first verdict is the start's. `given_ns`: when the
        clip handed out its latest pictures, by id."""
        lost = frame_id - self.last_id - 1 if self.last_id >= 0 else 0
        late_ns = now_ns - self.last_ns - self.period_ns
        why = "flag" if self.flagging else "scheduler" if delay_ns - self.last_delay_ns >= max(1, late_ns) else ""
        if not why and lost > 0 and self._in_a_burst(frame_id, given_ns or {}):
            why = "decoder"
        self.last_id, self.last_ns, self.last_delay_ns, self.flagging = frame_id, now_ns, delay_ns, flagging
        return max(0, lost), why

    def _in_a_burst(self, frame_id: int, given_ns: Mapping[int, int]) -> bool:
        """Whether each lost picture came late: its successor followed within half a period, as no camera's does."""
        pairs = [(given_ns.get(i), given_ns.get(i + 1)) for i in range(self.last_id + 1, frame_id)]
        return all(a is not None and b is not None and b - a < self.period_ns / 2 for a, b in pairs)


def watch(asked: dict[str, Any]) -> dict[str, Any]:
    """The process' part. Ages of the verdicts, ms, go into the file `asked["ages"]`, float64 [frames]; NaN for a picture without,
    or of the first seconds."""
    frames, fps = int(asked["frames"]), float(asked["fps"])
    config = Config(
        engine=dataclasses.replace(EngineConfig(), bundle=asked["bundle"], threads=asked["threads"]),
        bundle=dataclasses.replace(BundleConfig(), allow_unsigned=True),
        events=dataclasses.replace(EventsConfig(), dir=asked["events"], min_free_mb=0),
        status=dataclasses.replace(StatusConfig(), port=0),
    )
    settle = round(SETTLE_S * fps) if frames > 10 * SETTLE_S * fps else 0
    ages = np.full(frames, np.nan)  # all touched now: what grew with each frame would look like the daemon's
    losses, delays = Losses(round(1e9 / fps)), RunDelays()
    lost: Counter[str] = Counter()
    source = ClipAgain(CLIP, fps, frames)

    def note(verdict: Verdict) -> None:
        now_ns = time.monotonic_ns()
        gap, why = losses.explain(
            verdict.frame_id, now_ns, delays.total(), verdict.newly_flagged, dict(source.given_ns)
        )
        if verdict.frame_id >= settle:
            ages[verdict.frame_id] = (now_ns - verdict.t_mono_ns) / 1e6
            lost[why] += gap

    with open_watching(config, source, note) as watching:
        print("ready", flush=True)
        summary = watching.watch.run()
    if summary.frames and losses.last_id < frames - 1:  # the end had no verdict to tell of it
        gap, why = losses.explain(frames, time.monotonic_ns(), delays.total())
        lost[why] += gap
    np.save(asked["ages"], ages)
    feed = summary.feed
    return {
        "stopped": summary.stopped,
        "errors": {what: n for what, n in summary.errors.items() if what != "late"},
        "values": {
            "frames": float(summary.frames),
            "minutes": summary.seconds / 60,
            "flags": float(len(summary.events)),
            "lost_to_a_flag": float(lost["flag"]),
            "lost_to_the_decoder": float(lost["decoder"]),
            "lost_to_the_scheduler": float(lost["scheduler"]),
            "lost_unexplained": float(lost[""]),
            "unaccounted": float(feed.read - summary.frames - feed.dropped - feed.stale),
            "late": float(summary.errors.get("late", 0)),
            "overhead_p50_ms": summary.latencies["overhead"].p50,
            "overhead_p99_ms": summary.latencies["overhead"].p99,
        },
    }


def soak(bench: Bench) -> list[Record]:
    frames = round(bench.soak_hours * 3600 * bench.rate_hz) if bench.soak_hours > 0 else bench.soak_frames
    asked = {"bundle": str(bench.bundle.path), "threads": bench.threads, "frames": frames, "fps": bench.rate_hz,
             "events": str(bench.folder / "events"), "ages": str(bench.folder / "ages.npy")}  # fmt: skip
    answer, points = _run(bench, asked, frames / bench.rate_hz)
    if broken := answer["errors"]:
        raise EngineError(f"the loop counted errors ({broken}): its figures are no measurement; see `hygroma -v bench`")
    if answer["stopped"]:
        raise KeyboardInterrupt
    seconds = frames / bench.rate_hz
    warm = points[points[:, 0] >= min(WARM_S, WARM_SHARE * seconds)]
    values = {**answer["values"], "short_of_promise_s": max(0.0, PROMISED_S - seconds)}
    if not len(warm):
        raise EngineError(f"{seconds:g} s are too short to look at the process' memory")
    for i, name in enumerate(COLUMNS[1:], 1):
        values[name] = float(warm[:, i].max())
    table = _drifts(warm[:, 0], dict(zip(COLUMNS[1:], warm[:, 1:].T, strict=True)))
    for row in table:
        if row["drift an hour"] == "rss_mb":
            values["rss_growth_mb"] = float(row["slope"]) / PER_S * float(np.ptp(warm[:, 0]))
    every = max(1, round(WINDOW_S / SAMPLE_S))
    series = {name: [(float(p[0]), float(p[i])) for p in points[::every]] for i, name in enumerate(COLUMNS[1:], 1)}
    notes = (
        "the shipped phantom clip (simulated), decoded from H.264 in the process; page on, nobody looking",
        f"memory, descriptors and threads: the highest after a warm-up of {min(WARM_S, WARM_SHARE * seconds):.0f} s, in which "
        "caches fill. rss_mb counts shared libraries whole, as the promise does; pss_mb shares them out; anonymous_mb cannot be "
        "given back by the kernel",
        "95 % bootstrap intervals over seconds, which are not independent: read them as rough",
    )
    ages = np.load(str(asked["ages"]))
    better = {"rss_mb": "lower", "overhead_p50_ms": "lower"}
    return [
        record(SUITE, NAME, ages[np.isfinite(ages)], values, better, notes),
        latency_drift(ages, bench.rate_hz),
        Record(SUITE, "drift", series=series, axes=("seconds", "as named"), table=table),
    ]


def latency_drift(ages: np.ndarray, fps: float) -> Record:
    """Does a verdict come later the longer it runs? ages: ms [frames], NaN where there is none; taken in windows."""
    window_s = min(WINDOW_S, len(ages) / fps / WINDOWS_MIN)
    size = max(1, round(window_s * fps))
    rows = []
    for start in range(0, len(ages) - size + 1, size):
        own = ages[start : start + size]
        if np.isfinite(own).any():
            rows.append((start / fps, *np.nanpercentile(own, (50, 99))))
    at, p50, p99 = np.array(rows).reshape(-1, 3).T
    figures = {"p50 ms": p50, "p99 ms": p99}
    series = {name: [(float(a), float(b)) for a, b in zip(at, values, strict=True)] for name, values in figures.items()}
    notes = (f"from a picture's due time to its verdict, in windows of {window_s:.3g} s",)
    return Record(SUITE, "latency drift", series=series, axes=("seconds", "ms"), table=_drifts(at, figures), notes=notes)


def _drifts(seconds: np.ndarray, figures: dict[str, np.ndarray]) -> list[dict[str, float | str]]:
    """A row a figure with its slope an hour; none of fewer than three points."""
    rows: list[dict[str, float | str]] = []
    for name, values in figures.items() if len(seconds) >= 3 else ():
        value, low, high = (PER_S * v for v in slope(seconds, values))
        rows.append({"drift an hour": name, "slope": value, "low": low, "high": high})
    return rows


COLUMNS = ("seconds", "rss_mb", "pss_mb", "anonymous_mb", "descriptors", "threads")


def _run(bench: Bench, asked: dict[str, Any], seconds: float) -> tuple[dict[str, Any], np.ndarray]:
    """The process' answer, and what was seen of it: float64 [n, len(COLUMNS)]. EngineError when it fails."""
    errors, points = bench.folder / "stderr", []
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", json.dumps(asked)],
            cwd=CHECKOUT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            process.stdout.readline()  # "ready", or the end
            start = time.monotonic()
            while process.poll() is None and time.monotonic() - start < seconds + GRACE_S:
                since = time.monotonic() - start
                try:
                    memory = memory_mb(process.pid)
                    threads = len(os.listdir(f"/proc/{process.pid}/task"))
                    seen = (memory["rss_mb"], memory["pss_mb"], memory["anonymous_mb"])
                    if since < seconds:  # then it puts itself away
                        points.append((since, *seen, float(descriptors(process.pid)), float(threads)))
                except (OSError, KeyError):
                    break  # it has just ended
                bench.note(f"{SUITE}: {NAME}", min(round(since), round(seconds)), round(seconds))
                time.sleep(min(SAMPLE_S, seconds / 20))
            answer = process.communicate(timeout=GRACE_S)[0]
            return json.loads(answer), np.array(points, np.float64).reshape(-1, len(COLUMNS))
        except (ValueError, subprocess.TimeoutExpired):
            raise EngineError(f"the process failed: {errors.read_text()[-500:].strip()}") from None
        finally:
            process.kill()
            process.communicate()


CASES = [Case(SUITE, NAME, soak)]

if __name__ == "__main__":
    print(json.dumps(watch(json.loads(sys.argv[1]))))
