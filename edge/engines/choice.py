"""Which runner a bundle gets: TensorRT from the cache, ONNX Runtime, or OpenVINO. Nothing is built: a daemon starts in seconds.

`auto` on a machine without TensorRT is ONNX Runtime and no news. `auto` on a machine with TensorRT but without a verified
engine is ONNX Runtime too, said in the log and counted: see `Choice.fallback`. OpenVINO is taken only when asked for.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge.bundle.bundle import Bundle
from edge.engines.engine_build import Host, this_host
from edge.engines.engine_cache import EngineCache, Stored
from edge.engines.engine_key import sha256
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.openvino_runner import INSTALL, OpenVinoRunner, has_openvino
from edge.engines.race import by_speed, result_name
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
        runner, _ = _engine_runner(bundle, EngineCache(cache_folder or None), find_host())
        if runtime == "auto":
            with runner:
                run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
        return Choice(runner)
    except EngineError as error:
        if runtime == "tensorrt":
            raise
        log.warning("engine.runtime auto: falls back to ONNX Runtime: %s", error)
        return Choice(portable, str(error))


def find_engine(bundle: Bundle, cache: EngineCache, host: Host) -> Stored | None:
    """The race's winner for this bundle and machine; without a race, or where nobody won it, the newest engine that did not run
    in it. Verified, and of batch 1. One that failed on held-out images (edge/engines/validated.py) is passed over, and then the
    race's next fastest is taken."""
    onnx = sha256(bundle.model)
    fitting = [
        entry
        for entry in cache.entries()
        if entry.key.onnx_sha256 == onnx and entry.key.platform == host.platform and entry.key.daemons
    ]
    raced = cache.read_json(result_name(onnx, host.platform))
    if order := by_speed(raced or {}):
        there = {entry.key.digest: entry for entry in fitting}
        # ends at one that is damaged or gone: another race is due then, not another engine
        fitting = [there[digest] for digest in itertools.takewhile(there.__contains__, order)]
    elif raced is not None:
        out = {c.get("digest") for c in raced.get("candidates", []) if isinstance(c, dict)}
        fitting = [entry for entry in fitting if entry.key.digest not in out]
    for entry in fitting:
        stored, precision = cache.get(entry.key), entry.key.precision
        if stored is None:
            continue
        if failed(read_record(cache, sha256(stored.plan), engine_name(precision))):
            log.warning("engine %s %s failed on held-out images: passed over", precision, entry.key.digest)
            continue
        return stored
    return None


def open_engine(bundle: Bundle, cache_folder: str = "") -> TensorRTRunner:
    """This machine's engine for the bundle, not entered. EngineError when there is none."""
    return this_engine(bundle, EngineCache(cache_folder or None))[0]


def this_engine(bundle: Bundle, cache: EngineCache) -> tuple[TensorRTRunner, bytes]:
    """The same, and its plan."""
    return _engine_runner(bundle, cache, this_host())


def _engine_runner(bundle: Bundle, cache: EngineCache, host: Host) -> tuple[TensorRTRunner, bytes]:
    stored = find_engine(bundle, cache, host)
    if stored is None:
        raise EngineError(
            f"{cache.root}: no verified engine for this bundle on {host.platform}; build one with `hygroma engine race`"
        )
    return TensorRTRunner(stored.plan, stored.entry.key.precision, host.api, host.cuda), stored.plan
