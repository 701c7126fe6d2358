"""A `tensorrt` module of any recorded version, on a FakeDevice. It has exactly the names that the real one has (recorded from
NVIDIA's bindings in `tensorrt_names.tsv`): using any other raises AttributeError, as it would on the machine.

An engine holds its graph and runs it through ONNX Runtime, so its numbers are the graph's; its speed is `World.ms`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from fakes.cuda_fake import FakeDevice

from edge.engines.onnxruntime_runner import session_options
from edge.engines.tensorrt.cuda import host_view
from edge.records import OUTPUT_NAMES

NAMES = Path(__file__).with_name("tensorrt_names.tsv")
MAGIC = b"FAKETRT1"
FIRST = {  # enum members that mean something to the fake; the others count on from 100
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "DataType": {"FLOAT": 0, "HALF": 1, "UINT8": 5},
    "TensorIOMode": {"NONE": 0, "INPUT": 1, "OUTPUT": 2},
    "Severity": {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4},
}


@functools.cache
def recorded() -> dict[str, frozenset[str]]:
    """Version -> its names, such as "BuilderFlag" and "BuilderFlag.FP16"."""
    header, *rows = (line.split("\t") for line in NAMES.read_text().splitlines())
    return {
        version: frozenset(row[0] for row in rows if len(row) > i and row[i] == "x")
        for i, version in enumerate(header)
        if i
    }


@dataclass
class World:
    """What the fake does and what it saw. `ms`: kind of engine -> a call's time; a kind is "int8", "fp16", "mixed" or "fp32".
    `refuse`: kinds that cannot be built. `wrong`: kinds whose hygroma logit is off by so much. `builds`: what was built.
    `capturable`: whether a graph can be captured. `half_outputs`: an engine whose outputs are FP16."""

    device: FakeDevice
    ms: dict[str, float] = field(default_factory=dict)
    refuse: set[str] = field(default_factory=set)
    wrong: dict[str, float] = field(default_factory=dict)
    capturable: bool = True
    half_outputs: bool = False
    builds: list[dict[str, Any]] = field(default_factory=list)
    timing_seen: list[bytes] = field(default_factory=list)


def make_tensorrt(version: str, world: World) -> Any:
    """A module of `version`, one of `recorded()`."""
    names = recorded()[version]
    module = SimpleNamespace(__name__="tensorrt", __version__=version)

    def enum(name: str) -> Any:
        short = name.split(".")[-1]
        known = FIRST.get(short, {})
        members = [n.removeprefix(f"{name}.") for n in names if n.startswith(f"{name}.") and n.split(".")[-1].isupper()]
        values = {member: known.get(member, 100 + i) for i, member in enumerate(sorted(members)) if "." not in member}
        return IntEnum(short, values)

    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "DataType", "TensorIOMode", "MemoryPoolType",
                 "ProfilingVerbosity", "LayerInformationFormat", "TacticSource"):  # fmt: skip
        setattr(module, name, enum(name))

    def only(kind: str) -> Any:
        """Class decorator: public names that this version lacks are not there, neither to read nor to write."""

        def wrap(cls: type) -> type:
            def missing(name: str) -> bool:
                return not name.startswith("_") and f"{kind}.{name}" not in names

            def get(self: Any, name: str) -> Any:
                if missing(name):
                    raise AttributeError(f"TensorRT {version}: {kind} has no {name}")
                return object.__getattribute__(self, name)

            def put(self: Any, name: str, value: Any) -> None:
                if missing(name):
                    raise AttributeError(f"TensorRT {version}: {kind} has no {name}")
                object.__setattr__(self, name, value)

            cls.__getattribute__ = get  # type: ignore[method-assign, assignment]
            cls.__setattr__ = put  # type: ignore[method-assign, assignment]
            return cls

        return wrap

    class ILogger:
        Severity = enum("ILogger.Severity")

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    class IProgressMonitor:
        def __init__(self) -> None:
            self._ready = True  # the real one must be initialised by its subclass

    @only("ITensor")
    class ITensor:
        def __init__(self, name: str, shape: tuple[int, ...], dtype: Any):
            self.name, self.shape, self.dtype = name, shape, dtype

    @only("INetworkDefinition")
    class INetworkDefinition:
        def __init__(self, flags: int):
            self._flags, self._graph, self._tensors = flags, b"", []  # type: ignore[var-annotated]

        @property
        def num_inputs(self) -> int:
            return len(self._tensors)

        def get_input(self, index: int) -> Any:
            return self._tensors[index]

    @only("OnnxParser")
    class OnnxParser:
        def __init__(self, network: Any, logger: Any):
            self._network, self._problem = network, ""

        def parse(self, model: bytes) -> bool:
            try:
                session = ort.InferenceSession(model, session_options(1, False), providers=["CPUExecutionProvider"])
            except Exception as error:
                self._problem = f"fake parser: {error}"
                return False
            self._network._graph = model
            for i in session.get_inputs():
                shape = tuple(d if isinstance(d, int) else -1 for d in i.shape)
                self._network._tensors.append(ITensor(i.name, shape, module.DataType.UINT8))
            return True

        @property
        def num_errors(self) -> int:
            return int(bool(self._problem))

        def get_error(self, index: int) -> str:
            return self._problem

    @only("ITimingCache")
    class ITimingCache:
        def __init__(self, data: bytes):
            self._data = data

        def serialize(self) -> bytes:
            return self._data + b"+"

    @only("IOptimizationProfile")
    class IOptimizationProfile:
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shape = tuple(max)
            assert tuple(min) == tuple(opt) == tuple(max)

    @only("IBuilderConfig")
    class IBuilderConfig:
        def __init__(self) -> None:
            self._flags: set[str] = {"TF32"}
            self._limits: dict[str, int] = {}
            self._cache: Any = None
            self._sources, self._profile, self._monitor = 0, None, None
            self.profiling_verbosity: Any = None
            self.builder_optimization_level = 3

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._limits[pool.name] = size

        def set_tactic_sources(self, mask: int) -> bool:
            self._sources = mask
            return True

        def create_timing_cache(self, data: bytes) -> Any:
            world.timing_seen.append(bytes(data))
            return None if data.startswith(b"foreign") else ITimingCache(bytes(data))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

        def add_optimization_profile(self, profile: Any) -> int:
            self._profile = profile
            return 0

        @property
        def progress_monitor(self) -> Any:
            return self._monitor

        @progress_monitor.setter
        def progress_monitor(self, monitor: Any) -> None:
            assert monitor._ready
            self._monitor = monitor

    @only("Builder")
    class Builder:
        def __init__(self, logger: Any):
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            strong = bool(network._flags & 1 << 1) if "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in names else False
            explicit = bool(network._flags & 1) if "NetworkDefinitionCreationFlag.EXPLICIT_BATCH" in names else None
            assert explicit is not False, "an implicit batch cannot hold an ONNX graph"
            kind = _kind(network._graph, strong, config._flags)
            if config._monitor is not None:
                config._monitor.phase_start("Building engine", None, 2)
                config._monitor.phase_start("Timing tactics", "Building engine", 1)
                config._monitor.step_complete("Timing tactics", 0)
                config._monitor.phase_finish("Timing tactics")
                if not all(config._monitor.step_complete("Building engine", i) for i in range(2)):
                    self._logger.log(ILogger.Severity.ERROR, "cancelled")
                    return None
                config._monitor.phase_finish("Building engine")
            if kind in world.refuse:
                self._logger.log(ILogger.Severity.ERROR, f"fake builder: no {kind} tactic")
                return None
            about = {
                "version": version, "gpu": world.device.name, "kind": kind, "strong": strong, "explicit": explicit,
                "flags": sorted(config._flags), "batch": config._profile._shape[0], "limits": config._limits,
                "level": config.builder_optimization_level, "sources": config._sources,
                "detailed": config.profiling_verbosity == module.ProfilingVerbosity.DETAILED,
            }  # fmt: skip
            world.builds.append(about)
            return MAGIC + json.dumps(about).encode() + b"\n" + network._graph

    @only("EngineInspector")
    class EngineInspector:
        def __init__(self, about: dict[str, Any]):
            self._about = about

        def get_engine_information(self, format: Any) -> str:
            if not self._about["detailed"]:
                return json.dumps({"Layers": ["a", "b"], "Bindings": []})
            layers = [_layer("Reformatting CopyNode for Input Tensor 0", "Reformat", "Row major linear FP32")]
            layers.append(_layer("fc1", "gemm", "Row major Int8 format", "Row major linear FP32"))
            layers.append(_layer("{ForeignNode[a...b]}", "Myelin", "Row major linear FP16 format"))
            return json.dumps({"Layers": layers, "Bindings": []})

    @only("IExecutionContext")
    class IExecutionContext:
        def __init__(self, engine: Any):
            self._engine, self._addresses = engine, {}  # type: ignore[var-annotated]
            self._shape: tuple[int, ...] = ()

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._shape = tuple(shape)
            return self._shape == self._engine._shapes["image"]

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return name in self._engine._shapes

        def execute_async_v3(self, stream_handle: int) -> bool:
            if world.device._captured is not None and not world.capturable:
                world.device.fail["cudaStreamEndCapture"] = 901
                world.device._captured = None
            world.device.submit(self._compute)
            return True

        def _compute(self) -> None:
            engine = self._engine
            image = host_view(self._addresses["image"], engine._shapes["image"], np.uint8)
            values = engine._session.run(OUTPUT_NAMES, {"image": image.copy()})
            for name, value in zip(OUTPUT_NAMES, values, strict=True):
                offset = world.wrong.get(engine._about["kind"], 0.0) if name == "hygroma" else 0.0
                host_view(self._addresses[name], value.shape, np.float32)[...] = value + offset
            world.device.clock_ms += world.ms.get(engine._about["kind"], 1.0)

    @only("ICudaEngine")
    class ICudaEngine:
        def __init__(self, about: dict[str, Any], graph: bytes):
            self._about = about
            self._session = ort.InferenceSession(graph, session_options(1, False), providers=["CPUExecutionProvider"])
            batch = about["batch"]
            image = self._session.get_inputs()[0]
            self._shapes = {"image": (batch, *image.shape[1:])}
            example = self._session.run(OUTPUT_NAMES, {"image": np.zeros(self._shapes["image"], np.uint8)})
            self._shapes |= {name: value.shape for name, value in zip(OUTPUT_NAMES, example, strict=True)}

        @property
        def num_io_tensors(self) -> int:
            return len(self._shapes)

        def get_tensor_name(self, index: int) -> str:
            return list(self._shapes)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return module.TensorIOMode.INPUT if name == "image" else module.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            output = module.DataType.HALF if world.half_outputs else module.DataType.FLOAT
            return module.DataType.UINT8 if name == "image" else output

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, *self._shapes[name][1:])  # TensorRT keeps the graph's open dimension

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            return [self._shapes[name]] * 3

        def create_execution_context(self) -> Any:
            return IExecutionContext(self)

        def create_engine_inspector(self) -> Any:
            return EngineInspector(self._about)

    @only("Runtime")
    class Runtime:
        def __init__(self, logger: Any):
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not plan.startswith(MAGIC):
                self._logger.log(ILogger.Severity.ERROR, "fake runtime: not an engine")
                return None
            head, _, graph = plan[len(MAGIC) :].partition(b"\n")
            about = json.loads(head)
            if (about["version"], about["gpu"]) != (version, world.device.name):
                self._logger.log(ILogger.Severity.ERROR, "fake runtime: an engine of another version or GPU")
                return None
            return ICudaEngine(about, graph)

    for cls in (ILogger, IProgressMonitor, OnnxParser, Builder, Runtime):
        if cls.__name__ in names:
            setattr(module, cls.__name__, cls)
    return module


def _layer(name: str, kind: str, *inputs: str) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": [{"Format/Datatype": text} for text in inputs]}


def _kind(graph: bytes, strong: bool, flags: set[str]) -> str:
    """What this would compute in: by its types when strongly typed, else by flags."""
    quantised = b"QuantizeLinear" in graph
    half = b".single" in graph if strong else "FP16" in flags  # half_typed names its last casts so
    if strong or not quantised or "INT8" in flags:
        return {(True, True): "mixed", (True, False): "int8", (False, True): "fp16", (False, False): "fp32"}[
            quantised, half
        ]
    raise AssertionError("a quantised graph in a weakly typed network without the INT8 flag")
