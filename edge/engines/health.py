"""What `hygroma doctor` says about engines: which runtime, and how the last race on this machine ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edge.bundle.bundle import Bundle
from edge.engines.choice import find_engine, has_tensorrt
from edge.engines.engine_build import Host, this_host
from edge.engines.engine_cache import EngineCache
from edge.engines.engine_key import sha256
from edge.engines.openvino_runner import INSTALL as INSTALL_OPENVINO
from edge.engines.openvino_runner import has_openvino
from edge.engines.race import result_name
from edge.engines.tensorrt_api import INSTALL
from edge.errors import EngineError

RACE = "run `hygroma engine race` (minutes), with the same --config and --bundle"


def engine_state(
    bundle: Bundle,
    runtime: str,
    cache_folder: str = "",
    find_host: Callable[[], Host] = this_host,
    installed: Callable[[], bool] = has_tensorrt,
) -> tuple[str, str, str]:
    """(level, found, fix) as a doctor's Finding has them."""
    if runtime == "onnxruntime":
        return "ok", "ONNX Runtime, as configured", ""
    if runtime == "openvino":
        return (
            ("ok", "OpenVINO, as configured", "") if has_openvino() else ("fail", "no OpenVINO here", INSTALL_OPENVINO)
        )
    must = runtime == "tensorrt"
    if not installed():
        return ("fail", "no TensorRT here", INSTALL) if must else ("ok", "ONNX Runtime; no TensorRT here", "")
    level = "fail" if must else "warn"
    try:
        host = find_host()
        cache = EngineCache(cache_folder or None)
    except EngineError as error:
        return level, f"TensorRT cannot be used: {error}", "repair that, or set engine.runtime: onnxruntime"
    raced = cache.read_json(result_name(sha256(bundle.model), host.platform))
    stored = find_engine(bundle, cache, host)
    if stored is None:
        what = "no verified engine" if raced is None else f"the race left no engine that can be used: {_told(raced)}"
        return level, f"{what} for {host.platform} in {cache.root}", RACE
    if raced is None or not raced.get("winner"):  # one built after a race that nobody won was not in it
        return "warn", f"{stored.entry.key.precision} for {host.platform}, never raced", RACE
    return "ok", f"{_told(raced)}; {host.platform}", ""


def _told(raced: dict[str, Any]) -> str:
    """A race's JSON in words; of a file that someone changed, as much as can be told."""
    parts = []
    for candidate in raced.get("candidates", []):
        if not isinstance(candidate, dict):
            continue
        name, ms = candidate.get("precision"), candidate.get("device_p50_ms")
        won = " (in use)" if candidate.get("digest") and candidate.get("digest") == raced.get("winner") else ""
        passed = candidate.get("passed") and isinstance(ms, (int, float))
        parts.append(f"{name} {ms:.3f} ms{won}" if passed else f"{name} out ({str(candidate.get('reason'))[:80]})")
    when = raced.get("raced_s")
    day = time.strftime("%Y-%m-%d", time.localtime(when)) if isinstance(when, (int, float)) else "an unknown day"
    return f"raced on {day}: {', '.join(parts) or 'nothing'}"
