"""A bundle's engine from the cache, or built into it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from edge.bundle.bundle import Bundle
from edge.engines.runtimes import TENSORRT, require_heads
from edge.engines.tensorrt.api import Api, describe, load_tensorrt
from edge.engines.tensorrt.build import BuildOptions, Progress, build_engine
from edge.engines.tensorrt.cache import EngineCache, Entry, Stored
from edge.engines.tensorrt.cuda import Cuda, load_cuda
from edge.engines.tensorrt.key import EngineKey, Platform, sha256, this_platform

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """What engines are built and run with here."""

    api: Api
    cuda: Cuda
    platform: Platform


def this_host() -> Host:
    """EngineError, saying what to install, unless TensorRT, CUDA and a GPU are here."""
    api = describe(load_tensorrt())
    cuda = load_cuda()
    return Host(api, cuda, this_platform(api, cuda))


def key_for(host: Host, model: bytes, options: BuildOptions) -> EngineKey:
    """model: the canonical graph's bytes."""
    return EngineKey(sha256(model), host.platform, options.precision, options.text(host.api))


def cached_engine(
    host: Host,
    cache: EngineCache,
    bundle: Bundle,
    options: BuildOptions,
    progress: Progress | None = None,
    force: bool = False,
) -> tuple[Stored, bool]:
    """-> (the engine, whether it was built now). A damaged entry is set aside and built again; `force` builds anyway.
    EngineError when it cannot be built or stored, and for a bundle with heads that no engine gives."""
    require_heads(TENSORRT, bundle)
    key = key_for(host, bundle.model, options)
    stored = None if force else cache.get(key)
    if stored is not None:
        return stored, False
    cache.require_writable()
    log.info("building %s for %s", options.precision, host.platform)
    built = build_engine(host.api, bundle.model, options, cache.timing(host.platform), progress)
    entry = Entry(key, bundle.label, time.time(), round(built.took_s, 3), len(built.plan), built.summary)
    cache.put(entry, built.plan, built.layers)
    if built.timing:
        cache.put_timing(host.platform, built.timing)
    return Stored(entry, built.plan), True
