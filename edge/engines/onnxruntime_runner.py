"""The portable engine: ONNX Runtime on the CPU, INT8 through its own kernels."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge.engines.fused_form import fuse
from edge.engines.runner import check_crops
from edge.engines.saturation import INPUT, OUTPUT, probe, saturates
from edge.errors import EngineError
from edge.hardware import VNNI, cpu_flags
from edge.records import OUTPUT_NAMES, RawOutputs

# ONNX Runtime joins a sum and the LayerNormalization after it to one node whose kernel is the slower one: 1.32, AVX512, 0.28 ms
# against 0.05 for [1,145,384].
WITHOUT_FUSIONS = ("SkipLayerNormFusion",)


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every core of an x86 machine multiplies bytes without saturating. False where that cannot be read, as on a
    system without /proc/cpuinfo: slower there, never wrong. Other architectures ignore what it decides."""
    return bool(cpu_flags(cpuinfo) & VNNI)


def session_options(threads: int, spinning: bool) -> ort.SessionOptions:
    """The options every session of this project uses, so that what is benchmarked is what runs.

    threads: intra-op threads, >= 1. spinning: whether idle pool threads busy-wait (lower latency, a core burned between
    frames).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain: nothing runs side by side
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only; they also arrive as exceptions
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Without VNNI, AVX2 adds pairs of u8*s8 products in 16 bits and saturates: the golden self-test would refuse to start
    # there. This makes u8*u8 kernels of them, which do not. With VNNI nothing saturates, and it only costs (measured, ONNX
    # Runtime 1.32, AVX512-VNNI: 1.8 times the time, the same numbers).
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def open_session(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session as the daemon runs it, on `session_options`: with VNNI on the fused form of the graph, which would saturate
    without. ValueError, or one of ONNX Runtime's own classes, for what is no model."""
    return ort.InferenceSession(
        fuse(model) if has_vnni() else model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(WITHOUT_FUSIONS),
    )


class OnnxRuntimeRunner:
    """Runner over a graph with input `image` uint8 [N,1,S,S] and the outputs in OUTPUT_NAMES.

    model: path of an .onnx file, or its bytes (a verified bundle's). threads: one per stream is the default, since
    beside a busy process two are slower than one. spinning: off, since a daemon is idle between frames and a spinning
    pool burns a core; it makes no difference with one thread. Turn it on for a two-thread benchmark.

    EngineError when the model cannot be loaded or has other inputs or outputs.
    """

    name = "onnxruntime-cpu"
    qdq_limit = None

    def __init__(self, model: str | Path | bytes, threads: int = 1, spinning: bool = False):
        if threads < 1:
            raise EngineError(f"onnxruntime-cpu: threads: found {threads}; expected at least 1")
        self._model = model if isinstance(model, bytes) else str(model)
        self._options = session_options(threads, spinning)
        self._session: ort.InferenceSession | None = None
        self.input_size = 0  # known once activated
        self.note = ""

    def __enter__(self) -> OnnxRuntimeRunner:
        shown = f"{len(self._model)} bytes" if isinstance(self._model, bytes) else self._model
        try:
            model = self._model if isinstance(self._model, bytes) else Path(self._model).read_bytes()
            session = open_session(model, self._options)
            check = ort.InferenceSession(probe(), self._options, providers=["CPUExecutionProvider"])
            wrong = saturates(lambda x: np.asarray(check.run([OUTPUT], {INPUT: x})[0]))
        except Exception as error:  # onnxruntime raises its own unrelated classes, and RuntimeError
            raise EngineError(f"onnxruntime-cpu: cannot load the model ({shown}): {error}") from error
        if wrong:
            raise EngineError(
                f"onnxruntime-cpu: INT8 products of ONNX Runtime {ort.__version__} saturate on this processor "
                f"({platform.machine()}), so its answers would be wrong; install another version of onnxruntime"
            )
        inputs = session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(uint8)"
            or len(shape) != 4
            or shape[1] != 1
            or shape[2] != shape[3]
        ):
            found = [(i.name, i.type, i.shape) for i in inputs]
            raise EngineError(f"onnxruntime-cpu: model ({shown}): found inputs {found}; expected one, uint8 [N,1,S,S]")
        missing = set(OUTPUT_NAMES) - {o.name for o in session.get_outputs()}
        if missing:
            raise EngineError(
                f"onnxruntime-cpu: model ({shown}): outputs {sorted(missing)} are missing; export it again"
            )
        self._others = [o.name for o in session.get_outputs() if o.name not in OUTPUT_NAMES]
        self._input_name, self.input_size, self._session = inputs[0].name, int(shape[2]), session
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """See `Runner.infer`."""
        check_crops(self.name, self._session is not None, crops, self.input_size)
        assert self._session is not None  # check_crops raised otherwise
        try:
            names = [*OUTPUT_NAMES, *self._others]
            found = self._session.run(names, {self._input_name: np.ascontiguousarray(crops)})
            count = len(OUTPUT_NAMES)
            return RawOutputs(*found[:count], others=dict(zip(self._others, found[count:], strict=True)))
        except Exception as error:  # as above
            raise EngineError(f"onnxruntime-cpu: inference failed: {error}") from error
