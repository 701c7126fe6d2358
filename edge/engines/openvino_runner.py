"""An engine for x86 boxes: OpenVINO on the CPU, from the bundle's canonical graph. Needs the extra `openvino`, and is taken only
where the configuration says so."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np

from edge.engines.runner import check_crops
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

INSTALL = "pip install 'hygroma-edge[openvino]', or set engine.runtime: onnxruntime"
# What OpenVINO's CPU code says where memory must not become executable (seen under PR_SET_MDWE, 2026.4).
NO_JIT = "can't protect"
JIT_FIX = "OpenVINO compiles its kernels as it loads, which MemoryDenyWriteExecute=yes forbids: docs/install.md has the drop-in"


def has_openvino() -> bool:
    """Whether `openvino` is installed. It is not imported: that takes a second."""
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """The package, without its telemetry: `import openvino` tells Google Analytics of itself unless somebody opted out (read in
    2026.4, openvino/tools/ovc/__init__.py), and does without where `openvino_telemetry` cannot be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"openvino-cpu: OpenVINO cannot be imported ({error}); {INSTALL}") from error
    return openvino


class OpenVinoRunner:
    """Runner over the canonical graph: input `image` uint8 [N,1,S,S], the outputs in OUTPUT_NAMES.

    model: the graph's bytes, a verified bundle's. threads: as OnnxRuntimeRunner. Crops are inferred one by one: the graph is
    compiled for one, which is faster than for any number, and a crop's answer does not depend on its neighbours.

    What is not INT8 runs in float32. OpenVINO would take bfloat16 where the CPU has it: a little faster, but the answers
    would then be twice as far from the canonical graph's, and other ones on other machines (docs/notebook/quantisation.md).

    EngineError when OpenVINO is missing, or the model cannot be compiled or has other inputs or outputs.
    """

    name = "openvino-cpu"

    def __init__(self, model: bytes, threads: int = 1):
        if threads < 1:
            raise EngineError(f"openvino-cpu: threads: found {threads}; expected at least 1")
        self._model, self._threads = model, threads
        self._request: Any = None
        self.input_size = 0  # known once activated
        self.int8_products = 0  # matrix products that run in INT8; known once activated

    def __enter__(self) -> OpenVinoRunner:
        openvino = import_openvino()
        shown = f"{len(self._model)} bytes"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # it would put every process of a box on the same cores
        }
        try:
            core = openvino.Core()
            model = core.read_model(self._model)
            size = _input_size(model)
            missing = set(OUTPUT_NAMES) - {name for output in model.outputs for name in output.names}
            if size and not missing:
                model.reshape([1, 1, size, size])
                compiled = core.compile_model(model, "CPU", settings)
                self._request = compiled.create_infer_request()
        except Exception as error:  # openvino raises RuntimeError, and classes of its own
            said = " ".join(str(error).split())
            fix = f"; {JIT_FIX}" if NO_JIT in said else ""
            raise EngineError(f"openvino-cpu: cannot compile the model ({shown}): {said}{fix}") from error
        if not size:
            found = [(i.any_name, i.element_type.get_type_name(), str(i.partial_shape)) for i in model.inputs]
            raise EngineError(f"openvino-cpu: model ({shown}): found inputs {found}; expected one, uint8 [N,1,S,S]")
        if missing:
            raise EngineError(f"openvino-cpu: model ({shown}): outputs {sorted(missing)} are missing; export it again")
        self.input_size, self.int8_products = size, _int8_products(compiled.get_runtime_model())
        return self

    def __exit__(self, *exc: object) -> None:
        self._request = None

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """See `Runner.infer`."""
        check_crops(self.name, self._request is not None, crops, self.input_size)
        rows: list[list[np.ndarray]] = []
        try:
            for i in range(len(crops)):
                self._request.infer([np.ascontiguousarray(crops[i : i + 1])])
                rows.append([np.array(self._request.get_tensor(name).data) for name in OUTPUT_NAMES])  # copies
        except Exception as error:  # as above
            raise EngineError(f"openvino-cpu: inference failed: {' '.join(str(error).split())}") from error
        return RawOutputs(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _input_size(model: Any) -> int:
    """S of a model with the one input uint8 [N,1,S,S]; 0 for any other."""
    if len(model.inputs) != 1 or model.inputs[0].element_type.get_type_name() != "u8":
        return 0
    shape = model.inputs[0].partial_shape
    if shape.rank.is_dynamic or len(shape) != 4 or any(side.is_dynamic for side in list(shape)[1:]):
        return 0
    channels, height, width = (side.get_length() for side in list(shape)[1:])
    return int(height) if channels == 1 and height == width else 0


def _int8_products(executed: Any) -> int:
    """How many products with constant weights the compiled graph really computes in INT8."""
    infos = [node.get_rt_info() for node in executed.get_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    return sum(layer == "FullyConnected" and precision in ("i8", "u8") for layer, precision in kinds)
