"""The runtimes that a configuration may name, in one table. A portable one runs the bundle's own graph, TensorRT engines that are
built from it (edge/engines/tensorrt)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.engines.openvino_runner import INSTALL as INSTALL_OPENVINO
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.runner import Runner
from edge.errors import EngineError

if TYPE_CHECKING:
    from edge.bundle import Bundle

AUTO, TENSORRT = "auto", "tensorrt"


@dataclass(frozen=True)
class Portable:
    """`title`: its maker's name for it. `open`: a graph's bytes and a number of threads -> its runner, not entered.
    `install`: how to get it where it is not `installed`. `others`: it gives heads besides plane and hygroma too."""

    title: str
    open: Callable[[bytes, int], Runner]
    installed: Callable[[], bool] = lambda: True
    install: str = ""
    others: bool = False


def _onnxruntime(model: bytes, threads: int) -> Runner:
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner  # half a second, which `--help` need not wait for

    return OnnxRuntimeRunner(model, threads)


DEFAULT = Portable("ONNX Runtime", _onnxruntime, others=True)  # part of every installation
PORTABLE = {
    "onnxruntime": DEFAULT,
    "openvino": Portable("OpenVINO", OpenVinoRunner, has_openvino, INSTALL_OPENVINO),
}
RUNTIMES = (*PORTABLE, TENSORRT)


def require_heads(runtime: str, bundle: Bundle) -> None:
    """EngineError where the bundle has heads besides plane and hygroma and `runtime`, one of RUNTIMES, does not give them."""
    others = bundle.manifest.heads.others
    if others and not (runtime in PORTABLE and PORTABLE[runtime].others):
        raise EngineError(
            f"engine.runtime {runtime}: gives the heads plane and hygroma alone, and {bundle.label} has {', '.join(others)} too; "
            "set engine.runtime: onnxruntime"
        )
