"""A new bundle's engine, where this device runs engines: built before the switch, so that the daemon finds it in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.bundle import Bundle
from edge.config import Config
from edge.engines.choice import has_tensorrt
from edge.engines.runtimes import AUTO, PORTABLE, TENSORRT
from edge.engines.tensorrt.build import BuildOptions
from edge.engines.tensorrt.cache import EngineCache
from edge.engines.tensorrt.host import Host, this_host
from edge.engines.tensorrt.race import race
from edge.errors import EngineError

log = logging.getLogger(__name__)


def build_engine(
    bundle: Bundle,
    config: Config,
    find_host: Callable[[], Host] = this_host,
    installed: Callable[[], bool] = has_tensorrt,
    run_race: Callable[..., object] = race,
) -> None:
    """What `hygroma engine race` does, when the configured runtime is TensorRT or becomes it by `auto`.

    EngineError when no engine can be built on a machine that builds engines: what runs now has one, and a daemon without would
    fall back to a slower runtime. `auto` where TensorRT lies about unusable goes on with ONNX Runtime, as the daemon does.
    """
    runtime = config.engine.runtime
    if runtime in PORTABLE or (runtime == AUTO and not installed()):
        return
    try:
        host = find_host()
    except EngineError as error:
        if runtime == TENSORRT:
            raise
        log.warning("no engine is built, as the daemon will use ONNX Runtime: %s", error)
        return
    run_race(host, EngineCache(config.engine.cache or None), bundle, BuildOptions("int8"))
