"""An engine for x86 boxes: OpenVINO on the CPU, from the bundle's canonical graph. Needs the extra `openvino`, and is taken only
where the configuration says so."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.engines.runner import check_crops
from edge.engines.saturation import OUTPUT, probe, saturates
from edge.engines.selftest import SAME_GRAPH_TOLERANCE
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

INSTALL = "pip install 'hygroma-edge[openvino]', or set engine.runtime: onnxruntime"
# OpenVINO's switch for its INT8 transformations (ov::internal::enable_lp_transformations). Off, products are float32, on the
# values that the quantisers gave. Not documented: where a version does not know it, the runner does not start there.
NO_INT8 = {"LP_TRANSFORMS_MODE": False}
SATURATES = "INT8 products saturate on this processor, which has no VNNI"
FLOAT_KERNELS = ("f32", "f16", "bf16")  # how the names of kernels that multiply floats end
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

    Where OpenVINO's INT8 kernels saturate (an x86 without VNNI: edge/engines/saturation.py), its own switch makes the products
    run in float32 on the same quantised values: as exact as INT8 with VNNI, slower than ONNX Runtime there. `note` then says so.

    What is not INT8 runs in float32. OpenVINO would take bfloat16 where the CPU has it: a little faster, but the answers
    would then be twice as far from the canonical graph's, and other ones on other machines (docs/notebook/quantisation.md).

    EngineError when OpenVINO is missing or saturates with that switch too, or the model cannot be compiled or has other inputs
    or outputs.
    """

    name = "openvino-cpu"
    qdq_limit = SAME_GRAPH_TOLERANCE

    def __init__(self, model: bytes, threads: int = 1):
        if threads < 1:
            raise EngineError(f"openvino-cpu: threads: found {threads}; expected at least 1")
        self._model, self._threads = model, threads
        self._request: Any = None
        self.input_size = 0  # known once activated
        self.int8_products = 0  # matrix products that run in INT8; known once activated
        self.note = ""  # known once activated

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
            exact = next((more for more in ({}, NO_INT8) if not saturates(_product(core, settings | more))), None)
            if exact is None:
                raise EngineError(f"openvino-cpu: {SATURATES} with {NO_INT8} too; set engine.runtime: onnxruntime")
            self.note = f"openvino-cpu: {SATURATES}: computed in float32" if exact else ""
            model = core.read_model(self._model)
            size = _input_size(model)
            missing = set(OUTPUT_NAMES) - {name for output in model.outputs for name in output.names}
            if size and not missing:
                model.reshape([1, 1, size, size])
                compiled = core.compile_model(model, "CPU", settings | exact)
                self._request = compiled.create_infer_request()
        except EngineError:
            raise
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


def _product(core: Any, settings: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Runs `edge.engines.saturation.probe` as the model would be."""
    request = core.compile_model(core.read_model(probe()), "CPU", settings).create_infer_request()

    def multiply(x: np.ndarray) -> np.ndarray:
        request.infer([x])
        return np.array(request.get_tensor(OUTPUT).data)

    return multiply


def _int8_products(executed: Any) -> int:
    """How many products with constant weights the compiled graph really computes in INT8. Their precision is that of the weights;
    the kernel's name ends in what it computes in."""
    infos = [node.get_rt_info() for node in executed.get_ops()]
    kinds = [tuple(info[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType")) for info in infos]
    return sum(
        layer == "FullyConnected" and precision in ("i8", "u8") and not kernel.endswith(FLOAT_KERNELS)
        for layer, precision, kernel in kinds
    )
