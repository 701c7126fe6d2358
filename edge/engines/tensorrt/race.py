"""Which engine is the fastest here that still computes what was validated. INT8 is not always faster than FP16 on a ViT
(Model-Optimizer #167, TensorRT #4273), so each is built, checked against the bundle's golden images, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Tolerance
from edge.engines.runtimes import TENSORRT, require_heads
from edge.engines.selftest import run_selftest
from edge.engines.tensorrt.build import BuildOptions, Progress
from edge.engines.tensorrt.cache import EngineCache, Stored
from edge.engines.tensorrt.host import Host, cached_engine
from edge.engines.tensorrt.key import EngineKey, Platform, sha256
from edge.engines.tensorrt.runner import TensorRTRunner
from edge.errors import EngineError

CANDIDATES = ("int8", "fp16", "mixed")
ROUNDS = 5  # the candidates take turns, so that a clock that slows down slows all
CALLS = 100  # timed calls a round and candidate
WARM_UP = 50  # untimed calls before the first round; clocks rise within tens of milliseconds


@dataclass(frozen=True)
class Candidate:
    """One engine's result. device_*_ms: a call on the device, copies included, by CUDA events; host_p50_ms: as its caller
    waits. `qdq` and `fp32`: the largest differences on the golden images from the canonical graph and PyTorch. `reason`
    says why it did not pass, "" when it did; what was not reached is None."""

    precision: str
    passed: bool
    reason: str
    digest: str = ""
    built_now: bool = False
    took_s: float = 0.0
    bytes: int = 0
    layers: str = ""
    captured: bool = False
    device_p50_ms: float | None = None
    device_p99_ms: float | None = None
    host_p50_ms: float | None = None
    qdq: Tolerance | None = None
    fp32: Tolerance | None = None


@dataclass(frozen=True)
class RaceResult:
    """`winner` is the digest of the fastest candidate that passed, by its median on the device; "" when none did."""

    bundle: str
    onnx_sha256: str
    platform: Platform
    raced_s: float  # seconds since 1970
    batch: int
    candidates: tuple[Candidate, ...]
    winner: str

    @property
    def best(self) -> Candidate | None:
        return next((c for c in self.candidates if c.digest == self.winner and c.passed), None)


def race(
    host: Host,
    cache: EngineCache,
    bundle: Bundle,
    options: BuildOptions,
    precisions: Sequence[str] = CANDIDATES,
    progress: Progress | None = None,
    force: bool = False,
    make_runner: Callable[[Stored], Any] | None = None,
) -> tuple[RaceResult, Path]:
    """Build, check and time every precision; keep the result beside the engines -> (result, its file).

    A candidate that cannot be built or fails the golden images is out, with its reason. EngineError when none is left:
    the result is written all the same.
    """

    def runner_of(stored: Stored) -> Any:
        return TensorRTRunner(stored.plan, stored.entry.key.precision, host.api, host.cuda)

    require_heads(TENSORRT, bundle)  # before four are built in vain
    cache.require_writable()  # for the result
    candidates = []
    for precision in precisions:
        candidate = _prepare(
            host, cache, bundle, replace(options, precision=precision), progress, force, make_runner or runner_of
        )
        candidates.append(candidate)
    timed = _time([c for c in candidates if c[0].passed], progress)
    finished = tuple(timed.get(c.precision, c) for c, _ in candidates)
    fit = [c for c in finished if c.passed and c.device_p50_ms is not None]
    winner = min(fit, key=lambda c: (c.device_p50_ms, c.precision)).digest if fit else ""
    result = RaceResult(bundle.label, sha256(bundle.model), host.platform, time.time(), options.batch, finished, winner)
    path = cache.write_json(result_name(result.onnx_sha256, host.platform, options.batch), asdict(result))
    if not winner:
        reasons = "; ".join(f"{c.precision}: {c.reason}" for c in finished)
        raise EngineError(f"engine race: no candidate passed ({reasons}); see {path}; ONNX Runtime goes on serving")
    return result, path


def candidate_line(candidate: Candidate, won: bool) -> str:
    """One line for people."""
    if candidate.device_p50_ms is None or not candidate.passed:
        return f"{candidate.precision:<6} out: {candidate.reason}"
    graph = "" if candidate.captured else ", without a CUDA graph"
    return (
        f"{candidate.precision:<6} {candidate.device_p50_ms:.3f} ms on the device (p99 {candidate.device_p99_ms:.3f}), "
        f"{candidate.host_p50_ms:.3f} ms waited{graph}; {candidate.layers}{'  <- wins' if won else ''}"
    )


def result_name(onnx_sha256: str, platform: Platform, batch: int = 1) -> str:
    """The file in the cache that holds a graph's race on a machine. Another batch than the daemon's has a file of its own, and
    chooses no engine for it."""
    beside = "" if batch == 1 else f"-batch{batch}"
    return f"race-{EngineKey(onnx_sha256, platform, 'int8', '-').scope}{beside}.json"


def _prepare(
    host: Host,
    cache: EngineCache,
    bundle: Bundle,
    options: BuildOptions,
    progress: Progress | None,
    force: bool,
    make_runner: Callable[[Stored], Any],
) -> tuple[Candidate, Any]:
    """Build and check one -> (candidate, its runner, not entered; None when it is out)."""
    precision = options.precision
    try:
        stored, built_now = cached_engine(host, cache, bundle, options, progress, force)
    except EngineError as error:
        return Candidate(precision, False, str(error)), None
    entry = stored.entry
    candidate = Candidate(
        precision,
        passed=False,
        reason="",
        digest=entry.key.digest,
        built_now=built_now,
        took_s=entry.took_s,
        bytes=entry.bytes,
        layers=str(entry.layers or ""),
    )
    try:
        runner = make_runner(stored)
        with runner:
            report = run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
            captured = bool(runner.captured)
    except EngineError as error:
        return replace(candidate, reason=str(error)), None
    return replace(candidate, passed=True, captured=captured, qdq=report.qdq, fp32=report.fp32), runner


def _time(passed: list[tuple[Candidate, Any]], progress: Progress | None) -> dict[str, Candidate]:
    """Precision -> the candidate with its times; one that fails while it is timed is out."""
    device: dict[str, list[np.ndarray]] = {c.precision: [] for c, _ in passed}
    host: dict[str, list[np.ndarray]] = {c.precision: [] for c, _ in passed}
    out: dict[str, Candidate] = {}
    with ExitStack() as stack:
        for candidate, runner in passed:
            try:
                stack.enter_context(runner)
                runner.device_times(WARM_UP)
            except EngineError as error:
                out[candidate.precision] = replace(candidate, passed=False, reason=str(error))
        for i in range(ROUNDS):
            for candidate, runner in passed:
                if candidate.precision in out:
                    continue
                try:
                    device[candidate.precision].append(runner.device_times(CALLS))
                    host[candidate.precision].append(runner.host_times(CALLS))
                except EngineError as error:
                    out[candidate.precision] = replace(candidate, passed=False, reason=str(error))
            if progress:
                progress("Timing engines", i + 1, ROUNDS)
    for candidate, _ in passed:
        if candidate.precision not in out:
            times = np.concatenate(device[candidate.precision])
            out[candidate.precision] = replace(
                candidate,
                device_p50_ms=round(float(np.percentile(times, 50)), 4),
                device_p99_ms=round(float(np.percentile(times, 99)), 4),
                host_p50_ms=round(float(np.percentile(np.concatenate(host[candidate.precision]), 50)), 4),
            )
    return out
