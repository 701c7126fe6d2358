"""What `hygroma validate --engine` found on held-out images, kept beside the engines: the doctor shows it, and an engine that
failed is not taken.

A record is of one engine: it names the SHA-256 of what ran, a TensorRT plan or, for the other runtimes, the bundle's graph. Built
again, an engine has to be validated again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.engines.engine_cache import EngineCache, record_name


def keep_record(cache: EngineCache, sha256: str, report: Mapping[str, Any]) -> Path:
    """Keep what export/engine_gate.py reports, without the names of images. Runtimes that run the same graph have records of
    their own in one file. EngineError when the disk refuses."""
    steps = {name: {k: v for k, v in step.items() if k != "flipped"} for name, step in report["steps"].items()}
    known = _records(cache, sha256)
    known[report["engine"]] = {**report, "steps": steps, "validated_s": time.time()}
    return cache.write_json(record_name(sha256), {"sha256": sha256, "engines": known})


def read_record(cache: EngineCache, sha256: str, engine: str) -> dict[str, Any] | None:
    """The record of `engine` running what has this SHA-256; None where there is none, or none that can be read."""
    found = _records(cache, sha256).get(engine)
    return found if isinstance(found, dict) else None


def failed(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record.get("passed") is False


def told(record: Mapping[str, Any] | None) -> str:
    """A record in words; of a file that someone changed, as much as can be told."""
    if record is None:
        return "never validated on held-out images"
    steps = record.get("steps")
    steps = steps if isinstance(steps, dict) else {}
    step = steps.get(f"pytorch-fp32 -> {record.get('engine')}")
    step = step if isinstance(step, dict) else {}
    when = record.get("validated_s")
    day = time.strftime("%Y-%m-%d", time.localtime(when)) if isinstance(when, (int, float)) else "an unknown day"
    lost, positives, flips, n = (step.get(k, "?") for k in ("positives_lost", "positives", "flips", "n"))
    verdict = "FAILED the gate" if failed(record) else "passed the gate"
    return (
        f"{verdict} on held-out images on {day}: {lost} of {positives} positives lost, {flips} of {n} decisions flipped"
    )


def _records(cache: EngineCache, sha256: str) -> dict[str, Any]:
    found = cache.read_json(record_name(sha256)) or {}
    engines = found.get("engines")
    return dict(engines) if found.get("sha256") == sha256 and isinstance(engines, dict) else {}
