"""engine: what an engine makes of a fold's INT8 graph, on this machine: the paper's table then has its row."""

from __future__ import annotations

import numpy as np
import onnx

from edge.engines.runner import Runner
from edge.engines.runtimes import PORTABLE, TENSORRT
from edge.engines.selftest import infer_all, sigmoid
from edge.errors import EngineError
from export.stages.crops import Crops


def require_engine(runtime: str) -> None:
    """EngineError where a runtime, of RUNTIMES, is not installed here: to be said before hours of training."""
    if runtime == TENSORRT:
        from edge.engines.tensorrt.api import load_tensorrt

        load_tensorrt()
    elif not PORTABLE[runtime].installed():
        missing = PORTABLE[runtime]
        raise EngineError(f"engine: {missing.title} is not installed; {missing.install}, or leave `engine` out of the recipe")


def engine_name(runtime: str) -> str:
    """As tables call it."""
    return f"engine ({'TensorRT' if runtime == TENSORRT else PORTABLE[runtime].title})"


def engine_says(graph: onnx.ModelProto, crops: Crops, run: int, runtime: str, threads: int) -> dict[str, np.ndarray]:
    """"index" [n] into the bank, of a run's held-out entries; "engine_hygroma" [n], probabilities."""
    keep = crops.held_out(run)
    with _opened(graph.SerializeToString(), runtime, threads) as runner:
        said = infer_all(runner, crops.of(keep)[:, None])
    return {"index": keep, "engine_hygroma": sigmoid(said.hygroma).astype(np.float32)}


def _opened(model: bytes, runtime: str, threads: int) -> Runner:
    """The graph's runner, not entered. A TensorRT engine is built first, in INT8, as a device builds it."""
    if runtime != TENSORRT:
        return PORTABLE[runtime].open(model, threads)
    from edge.engines.tensorrt.api import describe, load_tensorrt
    from edge.engines.tensorrt.build import BuildOptions, build_plan
    from edge.engines.tensorrt.runner import TensorRTRunner

    api = describe(load_tensorrt())
    plan, _ = build_plan(api, model, BuildOptions("int8"))
    return TensorRTRunner(plan, "int8", api)
