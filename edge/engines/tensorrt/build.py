"""The canonical graph -> a TensorRT engine: one builder for TensorRT 8.6 to 11 (see `api.py` for what differs).

The engine's batch is fixed: a daemon scores one crop at a time, and a static shape lets the engine be captured once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge.engines.graph_forms import PRECISIONS, graph_for
from edge.engines.tensorrt.api import Api, builder_flags, make_logger, make_progress, network_flags
from edge.engines.tensorrt.layers import LayerSummary, summarise
from edge.errors import EngineError

INPUT_NAME = "image"
Progress = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class BuildOptions:
    """precision: one of PRECISIONS. batch: crops a call, fixed. workspace_mb: scratch memory tactics may use. level: the
    builder's effort, 0 to 5 (TensorRT's default is 3). library_tactics: False keeps cuBLAS and cuDNN out, for hosts where
    they are stubs (TensorRT 8 and 10 only: 11 has none)."""

    precision: str
    batch: int = 1
    workspace_mb: int = 1024
    level: int = 3
    library_tactics: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EngineError(f"precision: found {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        for name, low, high in (("batch", 1, 64), ("workspace_mb", 16, 65536), ("level", 0, 5)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise EngineError(f"{name}: found {value}; expected {low} to {high}")

    def text(self, api: Api) -> str:
        """Everything but the precision, as an engine's key has it."""
        typing = "strong" if api.strongly_typed else "weak"
        tactics = "" if self.library_tactics else " no-library-tactics"
        return f"{typing} batch={self.batch} workspace={self.workspace_mb} level={self.level}{tactics}"


@dataclass(frozen=True)
class BuiltEngine:
    """plan: the engine. timing: the timing cache after this build, b"" for none. took_s: seconds. layers: the
    inspector's JSON and `summary` its counts, "" and None where it could not be asked."""

    plan: bytes = field(repr=False)
    timing: bytes = field(repr=False)
    took_s: float
    layers: str = field(repr=False)
    summary: LayerSummary | None


def build_engine(
    api: Api, model: bytes, options: BuildOptions, timing: bytes = b"", progress: Progress | None = None
) -> BuiltEngine:
    """model: the canonical graph's bytes. timing: an earlier build's, from this machine. EngineError, with TensorRT's own
    words, when the graph does not parse, nothing can be built, or the engine cannot be read back."""
    start = time.monotonic()
    plan, after = build_plan(api, model, options, timing, progress)
    layers = inspect(api, plan)
    return BuiltEngine(plan, after, time.monotonic() - start, layers, summarise(layers) if layers else None)


def build_plan(
    api: Api, model: bytes, options: BuildOptions, timing: bytes = b"", progress: Progress | None = None
) -> tuple[bytes, bytes]:
    """As `build_engine`, without reading the engine back -> (plan, timing cache)."""
    trt, logger = api.trt, make_logger(api)
    builder = trt.Builder(logger)
    if builder is None:
        raise _failed("no builder", logger, "is the NVIDIA driver loaded?")
    network = builder.create_network(network_flags(api))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph_for(model, options.precision, api.strongly_typed)):
        logger.errors += [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise _failed("the graph does not parse", logger, "export it again, or update TensorRT")
    config = builder.create_builder_config()
    _configure(api, config, options)
    _set_profile(builder, config, network, options.batch)
    cache = config.create_timing_cache(timing)
    if cache is None and timing:  # another version's: TensorRT has logged it
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)
    monitor = make_progress(api, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise _failed(f"no {options.precision} engine could be built", logger, "try another precision")
    after = config.get_timing_cache()
    return bytes(plan), bytes(after.serialize()) if after is not None else b""


def inspect(api: Api, plan: bytes) -> str:
    """A plan -> the inspector's JSON. EngineError when TensorRT cannot read its own engine."""
    logger = make_logger(api)
    engine = api.trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise _failed("the engine cannot be read back", logger, "check the driver with `nvidia-smi`")
    return str(engine.create_engine_inspector().get_engine_information(api.trt.LayerInformationFormat.JSON))


def _configure(api: Api, config: Any, options: BuildOptions) -> None:
    trt = api.trt
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.DETAILED
    )  # names and types in the inspector; no cost at run time
    config.builder_optimization_level = options.level
    for name in builder_flags(api, options.precision):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and 10 bits are not FP32
    if not options.library_tactics:
        sources = trt.TacticSource
        mask = (1 << int(sources.EDGE_MASK_CONVOLUTIONS)) | (1 << int(sources.JIT_CONVOLUTIONS))
        config.set_tactic_sources(mask)


def _set_profile(builder: Any, config: Any, network: Any, batch: int) -> None:
    """One optimisation profile that fixes the batch. The other dimensions are the graph's own."""
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    if names != [INPUT_NAME]:
        raise EngineError(f"tensorrt: graph inputs: found {names}; expected one, {INPUT_NAME!r}")
    shape = (batch, *tuple(network.get_input(0).shape)[1:])
    if min(shape) < 1:
        raise EngineError(
            f"tensorrt: {INPUT_NAME}: found shape {shape}; only the batch may be open; export the graph again"
        )
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, shape, shape, shape)
    config.add_optimization_profile(profile)


def _failed(what: str, logger: Any, fix: str) -> EngineError:
    said = "; ".join(logger.errors[-3:]) or "TensorRT said nothing"
    return EngineError(f"tensorrt: {what}: {said}; {fix}")
