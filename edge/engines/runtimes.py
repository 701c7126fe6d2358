"""The runtimes that a configuration may name, in one table. A portable one runs the bundle's own graph, TensorRT engines that are
built from it (edge/engines/tensorrt)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.engines.openvino_runner import INSTALL as INSTALL_OPENVINO
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.runner import Runner

AUTO, TENSORRT = "auto", "tensorrt"


@dataclass(frozen=True)
class Portable:
    """`title`: its maker's name for it. `open`: a graph's bytes, and a number of threads, become its runner, not entered.
    `install`: how to get it where it is not `installed`."""

    title: str
    open: Callable[[bytes, int], Runner]
    installed: Callable[[], bool] = lambda: True
    install: str = ""


def _onnxruntime(model: bytes, threads: int) -> Runner:
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner  # half a second, which `--help` need not wait for

    return OnnxRuntimeRunner(model, threads)


DEFAULT = Portable("ONNX Runtime", _onnxruntime)  # part of every installation
PORTABLE = {
    "onnxruntime": DEFAULT,
    "openvino": Portable("OpenVINO", OpenVinoRunner, has_openvino, INSTALL_OPENVINO),
}
RUNTIMES = (*PORTABLE, TENSORRT)
