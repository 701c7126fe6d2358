"""What `hygroma validate --engine` found on held-out images, kept beside the engines: the doctor shows it, and a TensorRT engine
that failed is not taken (edge/engines/choice.py). ONNX Runtime and OpenVINO are taken all the same: there is nothing behind them.

A record is of one engine: it names the SHA-256 of what ran, a TensorRT plan or, for the other runtimes, the bundle's graph. Built
again, an engine has to be validated again; validated again, its record is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.engines.tensorrt.cache import EngineCache, Stored, record_prefix
from edge.engines.tensorrt.key import sha256 as sha256_of
from edge.engines.tensorrt.runner import engine_name


def keep_record(cache: EngineCache, sha256: str, report: Mapping[str, Any]) -> Path:
    """Keep what report/engine_gate.py reports, without the names of images, in a file for what ran and on what. EngineError when
    the disk refuses."""
    steps = {name: {k: v for k, v in step.items() if k != "flipped"} for name, step in report["steps"].items()}
    record = {**report, "steps": steps, "sha256": sha256, "validated_s": time.time()}
    return cache.write_json(_name(sha256, report["engine"]), record)


def read_record(cache: EngineCache, sha256: str, engine: str) -> dict[str, Any] | None:
    """The record of `engine` running what has this SHA-256; None where there is none, or none that can be read."""
    found = cache.read_json(_name(sha256, engine))
    return found if found is not None and found.get("sha256") == sha256 else None


def record_of(cache: EngineCache, stored: Stored) -> dict[str, Any] | None:
    """The record of a TensorRT engine."""
    return read_record(cache, sha256_of(stored.plan), engine_name(stored.entry.key.precision))


def failed(record: Mapping[str, Any] | None) -> bool:
    """Whether it must not be taken: a record that does not say that it passed."""
    return record is not None and record.get("passed") is not True


def told(record: Mapping[str, Any] | None) -> str:
    """A record in words; of a file that someone changed, as much as can be told."""
    if record is None:
        return "never validated on held-out images"
    steps = record.get("steps")
    step = steps.get(f"pytorch-fp32 -> {record.get('engine')}") if isinstance(steps, dict) else None
    step = step if isinstance(step, dict) else {}
    lost, positives, flips, n = (step.get(k, "?") for k in ("positives_lost", "positives", "flips", "n"))
    return (
        f"{'FAILED' if failed(record) else 'passed'} the gate on held-out images on {day_of(record.get('validated_s'))}: "
        f"{lost} of {positives} positives lost, {flips} of {n} decisions flipped"
    )


def day_of(seconds: object) -> str:
    """The local day of a time in seconds since 1970, as a record holds it."""
    try:
        return time.strftime("%Y-%m-%d", time.localtime(float(seconds)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return "an unknown day"


def _name(sha256: str, engine: str) -> str:
    return f"{record_prefix(sha256)}{engine}.json"
