"""The demonstration: the daemon watches the phantom clinic session that ships with the package, and is held against its truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.capture.recorded import FileSource
from edge.capture.source import OpenClose
from edge.config import Config
from edge.errors import InputError
from edge.loop import Summary
from edge.metrics import LatencySummary
from edge.records import Event, Frame, Signal, Verdict
from edge.status.board import NewExamRequest
from edge.watching import SHIPPED, open_watching

CLIP = SHIPPED / "clinic.mp4"
SESSION = SHIPPED / "session.json"


@dataclass(frozen=True)
class TrueExam:
    """What the phantom put into the clip: frames first to last, both included. truth: normal, hygroma, borderline, other,
    frozen or lost."""

    name: str
    truth: str
    first_frame: int
    last_frame: int


@dataclass(frozen=True)
class DemoExam:
    """One exam's truth and what the daemon said of it, the first time it was played. `seconds_to_flag` counts from the exam's
    first frame, in the clip's time."""

    name: str
    truth: str
    exam_id: int | None  # the daemon's number, as on the page and in the store; None when its screen showed no picture
    flagged: bool
    seconds_to_flag: float | None
    assessable_frames: int
    frames: int
    dropped: int  # pictures of it that came while the loop was busy
    best_hygroma: float | None
    said: str  # the commonest reason for not assessing, or "assessing"


@dataclass(frozen=True)
class DemoResult:
    exams: tuple[DemoExam, ...]
    latency_ms: LatencySummary  # frame in memory to verdict
    flag_latency_ms: LatencySummary  # frame received to flag committed
    fps: float
    dropped: int
    bundle: str
    engine: str
    events: tuple[Event, ...]
    summary: Summary


def read_session(path: Path = SESSION) -> tuple[float, int, list[TrueExam]]:
    """(frames per second, frames, exams) of a session's sidecar. InputError when it is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        exams = [TrueExam(e["name"], e["truth"], int(e["first_frame"]), int(e["last_frame"])) for e in data["exams"]]
        return float(data["fps"]), int(data["frames"]), exams
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a session's truth ({error!r}); make one with `python -m calibration.phantom`"
        ) from None


class ClipForEver(OpenClose):
    """A clip that is played again whenever it ends, for a page that is looked at for longer. `on_again` is called each time."""

    live = False
    media_time = False
    missed = decode_errors = 0

    def __init__(self, clip: FileSource, on_again: Callable[[], object]) -> None:
        self.name, self.format = clip.name, ""
        self._clip, self._on_again = clip, on_again

    def open(self) -> None:
        self._clip.open()
        self.format = self._clip.format

    def close(self) -> None:
        self._clip.close()

    def read(self) -> Frame | None:
        if (frame := self._clip.read()) is None:
            self._clip.open()  # its frames' ids go on
            self._on_again()
            frame = self._clip.read()
        self.decode_errors = self._clip.decode_errors
        return frame


def run_demo(
    config: Config,
    realtime: bool = False,
    again: bool = False,
    on_frame: Callable[[int, int, Verdict], None] = lambda done, total, verdict: None,
    on_url: Callable[[str], None] = lambda url: None,
    on_end: Callable[[DemoResult], None] = lambda result: None,
) -> DemoResult:
    """Play the shipped session through the whole daemon. `on_frame(done, total, verdict)` is called for every frame, and
    `on_end(result)` once the clip has ended. again: in real time, and from its beginning again until a signal ends it; the page
    is up all the while. KeyboardInterrupt: a signal ended it before the clip did."""
    fps, total, exams = read_session()
    verdicts: list[Verdict] = []
    result: DemoResult | None = None

    def note(verdict: Verdict) -> None:
        nonlocal result
        if result is None and verdict.frame_id < total:
            verdicts.append(verdict)
            on_frame(verdict.frame_id + 1, total, verdict)
        elif result is None:
            result = told(watching.watch.summary())
            on_end(result)

    def told(summary: Summary) -> DemoResult:
        return DemoResult(
            exams=tuple(_judge(exam, verdicts, fps) for exam in exams),
            latency_ms=summary.latencies["verdict"],
            flag_latency_ms=summary.latencies["flag"],
            fps=summary.frames / summary.seconds if summary.seconds else 0.0,
            dropped=summary.feed.dropped,
            bundle=watching.scorer.label,
            engine=watching.scorer.runner_name,
            events=summary.events,
            summary=summary,
        )

    clip = FileSource(CLIP, fast=not (realtime or again))
    clip.name = "phantom clinic session"
    # The first patient is not the last one: each round begins an exam.
    source = ClipForEver(clip, lambda: watching.board.ask(NewExamRequest())) if again else clip
    with open_watching(config, source, note) as watching:
        if watching.url:
            on_url(watching.url)
        summary = watching.watch.run()
        if result is None:
            if summary.stopped:
                raise KeyboardInterrupt
            result = told(summary)
            on_end(result)
    return result


def _judge(exam: TrueExam, verdicts: list[Verdict], fps: float) -> DemoExam:
    own = [v for v in verdicts if exam.first_frame <= v.frame_id <= exam.last_frame]
    flag = next((v for v in own if v.newly_flagged), None)
    numbers = [v.exam_id for v in own if v.signal in (Signal.OK, Signal.FROZEN)]
    scores = [v.hygroma for v in own if v.assessable and v.hygroma is not None]
    reasons = ["; ".join(v.reasons) or "assessing" for v in own]
    return DemoExam(
        name=exam.name,
        truth=exam.truth,
        exam_id=max(sorted(set(numbers)), key=numbers.count) if numbers else None,
        flagged=flag is not None,
        seconds_to_flag=round((flag.frame_id - exam.first_frame) / fps, 2) if flag else None,
        assessable_frames=len(scores),
        frames=len(own),
        dropped=exam.last_frame - exam.first_frame + 1 - len({v.frame_id for v in own}),
        best_hygroma=round(max(scores), 4) if scores else None,
        said=max(sorted(set(reasons)), key=reasons.count) if reasons else "no frame seen",
    )


def to_json(result: DemoResult) -> dict[str, object]:
    """What `hygroma demo --json` prints."""
    latency = result.latency_ms
    return {
        "exams": [dataclasses.asdict(exam) for exam in result.exams],
        "latency_ms": {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99, "max": latency.max},
        "flag_latency_ms": {"p50": result.flag_latency_ms.p50, "max": result.flag_latency_ms.max},
        "fps": round(result.fps, 2),
        "dropped": result.dropped,
        "bundle": result.bundle,
        "engine": result.engine,
        "data": "simulated (phantom)",
        "events": [dataclasses.asdict(event) for event in result.events],
        "lost_events": result.summary.lost_events,
    }
