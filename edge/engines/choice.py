"""Which runner a bundle gets: TensorRT from the cache, ONNX Runtime, or OpenVINO. Nothing is built: a daemon starts in seconds.

`auto` on a machine without TensorRT is ONNX Runtime and no news. `auto` on a machine with TensorRT but without a verified
engine is ONNX Runtime too, said in the log and counted: see `Choice.fallback`. OpenVINO is taken only when asked for.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge.bundle.bundle import Bundle
from edge.engines.engine_build import Host, this_host
from edge.engines.engine_cache import EngineCache, Stored, by_speed
from edge.engines.engine_key import sha256
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.openvino_runner import INSTALL, OpenVinoRunner, has_openvino
from edge.engines.race import result_name
from edge.engines.runner import Runner
from edge.engines.selftest import run_selftest
from edge.engines.tensorrt_runner import TensorRTRunner, engine_name
from edge.engines.validated import failed, read_record
from edge.errors import EngineError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """`fallback` says why a machine with TensorRT does not use it, "" when nothing was fallen back from."""

    runner: Runner
    fallback: str = ""


def has_tensorrt() -> bool:
    """Whether `tensorrt` is installed. It is not imported: that takes a second."""
    return importlib.util.find_spec("tensorrt") is not None


def choose(
    bundle: Bundle,
    runtime: str,
    threads: int,
    cache_folder: str = "",
    find_host: Callable[[], Host] = this_host,
    installed: Callable[[], bool] = has_tensorrt,
) -> Choice:
    """The bundle's runner, not entered, for `runtime` auto, onnxruntime, openvino or tensorrt. cache_folder: "" for the default.

    For `auto` an engine from the cache passes the golden self-test here, since one that does not must not keep the machine
    from watching. EngineError for runtime tensorrt when there is no engine that works, and for openvino when it is not
    installed, saying what to do.
    """
    if runtime == "openvino":
        if not has_openvino():
            raise EngineError(f"engine.runtime openvino: OpenVINO is not installed; {INSTALL}")
        return Choice(OpenVinoRunner(bundle.model, threads))
    portable = OnnxRuntimeRunner(bundle.model, threads)
    if runtime == "onnxruntime" or (runtime == "auto" and not installed()):
        return Choice(portable)
    try:
        runner = _engine_runner(bundle, EngineCache(cache_folder or None), find_host())
        if runtime == "auto":
            with runner:
                run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
        return Choice(runner)
    except EngineError as error:
        if runtime == "tensorrt":
            raise
        log.warning("engine.runtime auto: falls back to ONNX Runtime: %s", error)
        return Choice(portable, str(error))


def find_engine(
    bundle: Bundle, cache: EngineCache, host: Host, failed_too: bool = False, precision: str = ""
) -> Stored | None:
    """The race's winner for this bundle and machine; without a race, or where nobody won it, the newest engine that did not run
    in it. Verified, and of batch 1. One that failed on held-out images (edge/engines/validated.py) is passed over, unless
    `failed_too`, and then the race's next fastest is taken. precision: of this one only; "": of any."""
    onnx = sha256(bundle.model)
    fitting = [
        entry
        for entry in cache.entries()
        if entry.key.onnx_sha256 == onnx and entry.key.platform == host.platform and entry.key.daemons
    ]
    raced = cache.read_json(result_name(onnx, host.platform))
    if order := by_speed(raced or {}):
        there = {entry.key.digest: entry for entry in fitting}
        # where the winner is damaged or gone another race is due, not another engine
        fitting = [there[digest] for digest in order if digest in there] if order[0] in there else []
    elif raced is not None:
        candidates = raced.get("candidates")
        out = {c.get("digest") for c in (candidates if isinstance(candidates, list) else []) if isinstance(c, dict)}
        fitting = [entry for entry in fitting if entry.key.digest not in out]
    for entry in fitting:
        own = entry.key.precision
        stored = cache.get(entry.key) if precision in ("", own) else None
        if stored is None:
            continue
        if not failed_too and failed(read_record(cache, sha256(stored.plan), engine_name(own))):
            log.warning("engine %s %s failed on held-out images: passed over", own, entry.key.digest)
            continue
        return stored
    return None


def open_engine(bundle: Bundle, cache_folder: str = "") -> TensorRTRunner:
    """This machine's engine for the bundle, not entered. EngineError when there is none."""
    return _engine_runner(bundle, EngineCache(cache_folder or None), this_host())


def engine_to_validate(bundle: Bundle, cache: EngineCache, precision: str = "") -> tuple[TensorRTRunner, bytes]:
    """The engine that this machine would take had none failed on held-out images, of this precision where one is named, and its
    plan."""
    host = this_host()
    stored = find_engine(bundle, cache, host, failed_too=True, precision=precision)
    if stored is None:
        raise _no_engine(f"no verified {precision or ''} engine".replace("  ", " "), cache, host)
    return _runner_of(stored, host), stored.plan


def _engine_runner(bundle: Bundle, cache: EngineCache, host: Host) -> TensorRTRunner:
    stored = find_engine(bundle, cache, host)
    if stored is not None:
        return _runner_of(stored, host)
    if find_engine(bundle, cache, host, failed_too=True) is not None:
        raise EngineError(
            f"{cache.root}: every engine for this bundle on {host.platform} failed on held-out images; judge it again with "
            "`hygroma validate --engine`, or build another with `hygroma engine build --force`"
        )
    raise _no_engine("no verified engine", cache, host)


def _runner_of(stored: Stored, host: Host) -> TensorRTRunner:
    return TensorRTRunner(stored.plan, stored.entry.key.precision, host.api, host.cuda)


def _no_engine(what: str, cache: EngineCache, host: Host) -> EngineError:
    return EngineError(f"{cache.root}: {what} for this bundle on {host.platform}; build one with `hygroma engine race`")
