"""A snapshot as JSON, as Prometheus text, as health, and as a picture. Functions of the snapshot and the time; the text also
reads the machine's sensors."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from edge.events.evidence import heat_overlay
from edge.hardware import ROOT, power_mode, temperatures
from edge.status.board import Snapshot

STALE_S = 2.0  # seconds; a loop that has published nothing for so long has stopped (it publishes ten times a second)
_NOT_PLAIN = re.compile(r"[^\w .-]")  # what a label's value would have to escape
STATES = ("stopped", "waiting", "no-signal", "not-assessing", "assessing", "flagged")
JPEG_QUALITY = 80  # speckle shows no blocks from here on, at about 30 kB a picture


def frame_age_s(snapshot: Snapshot, now_ns: int) -> float | None:
    """Seconds since the newest frame; None before the first."""
    return None if snapshot.frame_t_mono_ns is None else max(0.0, (now_ns - snapshot.frame_t_mono_ns) / 1e9)


def to_health(snapshot: Snapshot | None, now_ns: int) -> dict[str, Any]:
    """live: the loop turns. ready: it watches. degraded: something is wrong and says what. `frame_age_s`: see above."""
    if snapshot is None:
        return {"live": False, "ready": False, "degraded": True, "problems": ["starting"], "frame_age_s": None}
    live = (now_ns - snapshot.t_mono_ns) / 1e9 < STALE_S
    problems = list(snapshot.degraded) + ([] if live else ["the loop has stopped"])
    return {
        "live": live,
        "ready": live and snapshot.ready,
        "degraded": bool(problems),
        "problems": problems,
        "frame_age_s": frame_age_s(snapshot, now_ns),
    }


def to_state(snapshot: Snapshot | None, now_ns: int) -> tuple[str, str]:
    """(state, words) as the page shows them; state is one of STATES."""
    if snapshot is None or not to_health(snapshot, now_ns)["live"]:
        return "stopped", "NOT WATCHING"
    verdict = snapshot.verdict
    if verdict is None:
        return "waiting", "WAITING FOR THE FIRST PICTURE"
    if verdict.flagged:
        return "flagged", "SUSPECTED NUCHAL COLLECTION: REFER"
    if verdict.signal.value == "NO_SIGNAL":
        return "no-signal", "NO SIGNAL"
    return ("assessing", "ASSESSING") if verdict.assessable else ("not-assessing", "NOT ASSESSING")


def to_json(snapshot: Snapshot | None, now_ns: int) -> dict[str, Any]:
    """All but the pictures."""
    state, words = to_state(snapshot, now_ns)
    top = {"state": state, "words": words, "health": to_health(snapshot, now_ns)}
    if snapshot is None:
        return top
    verdict = asdict(snapshot.verdict) if snapshot.verdict else None
    if verdict:
        verdict["signal"] = verdict["signal"].value
        del verdict["t_mono_ns"]  # means nothing outside this process
    return top | {
        "source": snapshot.source,
        "bundle": snapshot.bundle,
        "engine": snapshot.engine,
        "bundle_state": asdict(snapshot.bundle_state) if snapshot.bundle_state else None,
        "verdict": verdict,
        "frames_by_signal": snapshot.frames_by_signal,
        "duplicates": snapshot.duplicates,
        "errors": snapshot.errors,
        "feed": asdict(snapshot.feed),
        "latency_ms": {stage: asdict(summary) for stage, summary in snapshot.latencies.items()},
        "exams": [asdict(row) for row in snapshot.exams],
        "events": [asdict(event) for event in snapshot.events],
        "history": [list(point) for point in snapshot.history],
        "noise": snapshot.noise,
        "outline": snapshot.view.outline if snapshot.view else None,
    }


def to_jpeg(snapshot: Snapshot | None) -> bytes | None:
    """The live view, with the nuchal map where the frame was scored; None when there is no picture that may be shown."""
    if snapshot is None or snapshot.view is None:
        return None
    picture = snapshot.view.image
    if snapshot.nuchal_map is not None:
        picture = heat_overlay(picture, snapshot.nuchal_map, len(picture))
    good, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes() if good else None


def to_prometheus(snapshot: Snapshot | None, now_ns: int, root: Path = ROOT) -> str:
    """Prometheus text format 0.0.4. Times in seconds, as its conventions want. Temperatures and power mode are read here, at
    every scrape, under `root`; absent on a machine that tells neither."""
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
        lines.extend([f"# HELP hygroma_{name} {text}", f"# TYPE hygroma_{name} {kind}"])
        lines.extend(f"hygroma_{name}{labels} {value:.9g}" for labels, value in samples)

    health = to_health(snapshot, now_ns)
    metric("up", "gauge", "1 while the loop turns.", ("", health["live"]))
    metric("degraded", "gauge", "1 while something is wrong.", ("", health["degraded"]))
    if zones := temperatures(root):
        readings = [(f'{{zone="{_NOT_PLAIN.sub("_", zone)}"}}', celsius) for zone, celsius in zones.items()]
        metric("temperature_celsius", "gauge", "Of each thermal zone.", *readings)
    if (mode := power_mode(root)) is not None:
        metric("power_mode", "gauge", "Number of the board's power mode (nvpmodel).", ("", mode.number))
    if snapshot is None:
        return "\n".join(lines) + "\n"
    verdict, feed = snapshot.verdict, snapshot.feed
    age = frame_age_s(snapshot, now_ns)
    if age is not None:
        metric("frame_age_seconds", "gauge", "Age of the newest frame.", ("", age))
    if verdict is not None:
        metric("assessable", "gauge", "1 while the frame can be assessed.", ("", verdict.assessable))
        metric("flagged", "gauge", "1 while the exam is flagged.", ("", verdict.flagged))
        metric("evidence", "gauge", "Accumulated evidence of the exam.", ("", verdict.evidence))
        metric("exam_id", "gauge", "Number of the exam under way.", ("", verdict.exam_id))
        metric("boundary_asked", "gauge", "1 while the operator is asked whose exam it is.", ("", bool(verdict.question)))
    changed = len(snapshot.overrides)
    metric("decision_overrides", "gauge", "Parameters of the bundle that the configuration changes.", ("", changed))
    metric("source_noise_levels", "gauge", "Measured noise of a held picture, grey levels.", ("", snapshot.noise))
    metric("source_connected", "gauge", "0 while a live source is away.", ("", feed.connected))
    if (bundle := snapshot.bundle_state) is not None:
        named = ("model", "version", "sha256", "signed_by", "previous")
        labels = ",".join(f'{name}="{getattr(bundle, name)}"' for name in named)
        metric("bundle_info", "gauge", "1; which bundle runs, by its labels.", (f"{{{labels}}}", 1))
        metric("bundle_unsigned", "gauge", "1 while nobody trusted vouches for it.", ("", not bundle.signed_by))
        metric("bundle_unsigned_allowed", "gauge", "The setting bundle.allow_unsigned.", ("", bundle.allow_unsigned))
        metric("bundle_on_trial", "gauge", "1 when it was on trial as it started.", ("", bundle.on_trial))
        metric("bundle_rollbacks_total", "counter", "Updates rolled back on this device.", ("", bundle.rollbacks))
    frames = [(f'{{signal="{name}"}}', count) for name, count in sorted(snapshot.frames_by_signal.items())]
    metric("frames_total", "counter", "Frames looked at, by what the screen showed.", *frames)
    metric("frames_received_total", "counter", "Frames read from the source.", ("", feed.read))
    metric("frames_dropped_total", "counter", "Frames read but overtaken by newer ones.", ("", feed.dropped))
    metric("frames_duplicate_total", "counter", "Frames that repeated the one before.", ("", snapshot.duplicates))
    metric("frames_missed_total", "counter", "Frames that the driver lost before they were read.", ("", feed.missed))
    metric("frames_stale_total", "counter", "Frames too old to be looked at when they arrived.", ("", feed.stale))
    metric(
        "frames_restamped_total", "counter", "Frames whose driver's stamp could not be right.", ("", feed.restamped)
    )
    metric("stalls_total", "counter", "Times that a connected source gave nothing.", ("", feed.stalls))
    metric("format_changes_total", "counter", "Changes of the picture's size or depth.", ("", feed.format_changes))
    metric("decode_errors_total", "counter", "Damaged pictures.", ("", feed.decode_errors))
    metric("reconnects_total", "counter", "Times that a lost source came back.", ("", feed.reconnects))
    errors = [
        (f'{{stage="{kind}"}}', snapshot.errors.get(kind, 0))
        for kind in ("screen", "engine", "late", "store", "fallback")
    ]
    metric("errors_total", "counter", "Failures by stage.", *errors)
    stages = sorted(snapshot.latencies.items())
    samples: list[tuple[str, float]] = []
    for stage, summary in stages:
        quantiles = (("0.5", summary.p50), ("0.95", summary.p95), ("0.99", summary.p99))
        samples += [(f'{{stage="{stage}",quantile="{q}"}}', ms / 1000) for q, ms in quantiles]
    lines.append("# HELP hygroma_stage_seconds Time in each stage of the loop, since the start.")
    lines.append("# TYPE hygroma_stage_seconds summary")
    lines.extend(f"hygroma_stage_seconds{labels} {value:.9g}" for labels, value in samples)
    for stage, summary in stages:
        lines.append(f'hygroma_stage_seconds_sum{{stage="{stage}"}} {summary.total / 1000:.9g}')
        lines.append(f'hygroma_stage_seconds_count{{stage="{stage}"}} {summary.count}')
    worst = [(f'{{stage="{stage}"}}', summary.max / 1000) for stage, summary in stages]
    metric("stage_max_seconds", "gauge", "Longest time in each stage since the start.", *worst)
    return "\n".join(lines) + "\n"
