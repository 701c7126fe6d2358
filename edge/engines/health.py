"""What `hygroma doctor` says about engines: which runtime, how the last race on this machine ended, and what was found on
held-out images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge.bundle.bundle import Bundle
from edge.engines.choice import find_engine, has_tensorrt
from edge.engines.runtimes import DEFAULT, PORTABLE, TENSORRT, Portable, require_heads
from edge.engines.tensorrt.api import INSTALL
from edge.engines.tensorrt.cache import EngineCache, candidates_of
from edge.engines.tensorrt.host import Host, this_host
from edge.engines.tensorrt.key import sha256
from edge.engines.tensorrt.race import result_name
from edge.engines.validated import day_of, failed, read_record, record_of, told
from edge.errors import EngineError

RACE = "run `hygroma engine race` (minutes), with the same --config and --bundle"
VALIDATED = (
    "judge it again with `hygroma validate --engine`, build another with `hygroma engine build --force`, or set another "
    "engine.runtime"
)
VALIDATED_PORTABLE = (
    "judge it again with `hygroma validate --engine --runtime ...`, set another engine.runtime, or install another bundle"
)


def engine_state(
    bundle: Bundle,
    runtime: str,
    cache_folder: str = "",
    find_host: Callable[[], Host] = this_host,
    installed: Callable[[], bool] = has_tensorrt,
) -> tuple[str, str, str]:
    """(level, found, fix) as a doctor's Finding has them."""
    if portable := PORTABLE.get(runtime):
        if not portable.installed():
            return "fail", f"no {portable.title} here", portable.install
        require_heads(runtime, bundle)
        return _portable(f"{portable.title}, as configured", portable, bundle, cache_folder)
    must = runtime == TENSORRT
    if not installed():
        if must:
            return "fail", "no TensorRT here", INSTALL
        return _portable(f"{DEFAULT.title}; no TensorRT here", DEFAULT, bundle, cache_folder)
    level = "fail" if must else "warn"
    try:
        require_heads(TENSORRT, bundle)
        host = find_host()
        cache = EngineCache(cache_folder or None)
    except EngineError as error:
        return level, f"TensorRT cannot be used: {error}", "repair that, or set engine.runtime: onnxruntime"
    raced = cache.read_json(result_name(sha256(bundle.model), host.platform))
    stored, failures = find_engine(bundle, cache, host)
    beside = "".join(f"; {f.entry.key.precision} not taken: it {told(record_of(cache, f))}" for f in failures)
    if stored is None:
        what = "no verified engine" if raced is None else f"the race left no engine that can be used: {_told(raced)}"
        return level, f"{what} for {host.platform} in {cache.root}{beside}", VALIDATED if beside else RACE
    precision = stored.entry.key.precision
    said = told(record_of(cache, stored))
    if raced is None or not raced.get("winner"):  # one built after a race that nobody won was not in it
        return "warn", f"{precision} for {host.platform}, never raced; {said}{beside}", RACE
    found = f"{_told(raced, stored.entry.key.digest)}; {host.platform}; {precision} {said}{beside}"
    return ("warn", found, VALIDATED) if beside else ("ok", found, "")


def _portable(found: str, runtime: Portable, bundle: Bundle, cache_folder: str) -> tuple[str, str, str]:
    """`found` and what was validated of this bundle's graph on this runtime, if anything was."""
    try:
        record = read_record(EngineCache(cache_folder or None), sha256(bundle.model), runtime.open(bundle.model, 1).name)
    except EngineError:  # a folder that holds engines for nobody
        record = None
    if record is None:
        return "ok", found, ""
    return ("fail" if failed(record) else "ok"), f"{found}; {told(record)}", VALIDATED_PORTABLE if failed(record) else ""


def _told(raced: dict[str, Any], used: str = "") -> str:
    """A race's JSON in words; of a file that someone changed, as much as can be told. used: digest of the engine in use."""
    parts = []
    for candidate in candidates_of(raced):
        name, ms = candidate.get("precision"), candidate.get("device_p50_ms")
        won = " (in use)" if used and candidate.get("digest") == used else ""
        passed = candidate.get("passed") and isinstance(ms, (int, float))
        parts.append(f"{name} {ms:.3f} ms{won}" if passed else f"{name} out ({str(candidate.get('reason'))[:80]})")
    return f"raced on {day_of(raced.get('raced_s'))}: {', '.join(parts) or 'nothing'}"
