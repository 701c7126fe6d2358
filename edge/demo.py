"""The demonstration: the daemon watches the phantom clinic session that ships with the package, and is held against its truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.capture.recorded import FileSource
from edge.config import Config
from edge.errors import InputError
from edge.loop import Summary
from edge.metrics import LatencySummary
from edge.records import Event, Verdict
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
    """One exam's truth and what the daemon said. `seconds_to_flag` counts from the exam's first frame, in the clip's time."""

    name: str
    truth: str
    flagged: bool
    seconds_to_flag: float | None
    assessable_frames: int
    frames: int
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


def run_demo(
    config: Config,
    realtime: bool = False,
    on_frame: Callable[[int, int, Verdict], None] = lambda done, total, verdict: None,
    on_url: Callable[[str], None] = lambda url: None,
    on_end: Callable[[DemoResult], None] = lambda result: None,
) -> DemoResult:
    """Play the shipped session through the whole daemon. `on_frame(done, total, verdict)` is called for every frame, and
    `on_end(result)` while the page is still up. KeyboardInterrupt: a signal ended it before the clip did."""
    fps, total, exams = read_session()
    verdicts: list[Verdict] = []

    def note(verdict: Verdict) -> None:
        verdicts.append(verdict)
        on_frame(len(verdicts), total, verdict)

    source = FileSource(CLIP, fast=not realtime)
    source.name = "phantom clinic session"
    with open_watching(config, source, note) as watching:
        if watching.url:
            on_url(watching.url)
        summary = watching.watch.run()
        if summary.stopped:
            raise KeyboardInterrupt
        result = DemoResult(
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
        on_end(result)
    return result


def _judge(exam: TrueExam, verdicts: list[Verdict], fps: float) -> DemoExam:
    own = [v for v in verdicts if exam.first_frame <= v.frame_id <= exam.last_frame]
    flag = next((v for v in own if v.newly_flagged), None)
    scores = [v.hygroma for v in own if v.assessable and v.hygroma is not None]
    reasons = ["; ".join(v.reasons) or "assessing" for v in own]
    return DemoExam(
        name=exam.name,
        truth=exam.truth,
        flagged=flag is not None,
        seconds_to_flag=round((flag.frame_id - exam.first_frame) / fps, 2) if flag else None,
        assessable_frames=len(scores),
        frames=len(own),
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
