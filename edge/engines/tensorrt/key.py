"""What an engine is good for: one graph, one TensorRT, one CUDA, one GPU, one precision, one way of building.

Anything less gives the wrong engine: four fold models share one architecture (onnxruntime #6455).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from edge.engines.graph_forms import PRECISIONS
from edge.engines.tensorrt.api import Api
from edge.engines.tensorrt.cuda import Cuda
from edge.schema import rule

BUILDER_REVISION = 1  # raised when this project's builder would make another engine from the same key

_TEXT = rule(low=1, high=200)


@dataclass(frozen=True)
class Platform:
    """The machine's part of a key: versions as they print themselves, the GPU by name and compute capability."""

    tensorrt: str = field(metadata=_TEXT)
    cuda: str = field(metadata=_TEXT)
    gpu: str = field(metadata=_TEXT)
    compute_capability: str = field(metadata=_TEXT)

    def __str__(self) -> str:
        return f"{self.gpu} (compute {self.compute_capability}), TensorRT {self.tensorrt}, CUDA {self.cuda}"


@dataclass(frozen=True)
class EngineKey:
    """`flags` holds every build option that changes the engine, in one canonical text (see `BuildOptions.text`)."""

    onnx_sha256: str = field(metadata=rule(pattern=r"[0-9a-f]{64}", hint="64 lower-case hexadecimal digits"))
    platform: Platform
    precision: str = field(metadata=rule(choices=PRECISIONS))
    flags: str = field(metadata=_TEXT)
    builder: int = BUILDER_REVISION

    @property
    def digest(self) -> str:
        """24 hex digits: the name of the cache entry."""
        return _digest(asdict(self))

    @property
    def daemons(self) -> bool:
        """Whether its engine takes one crop a call, as the daemon scores: a larger batch would be filled up with zeros."""
        return "batch=1" in self.flags.split()

    @property
    def scope(self) -> str:
        """24 hex digits, the same for every precision and way of building: the name of a race's result."""
        return _digest({"onnx_sha256": self.onnx_sha256, "platform": asdict(self.platform)})


def this_platform(api: Api, cuda: Cuda) -> Platform:
    """EngineError when there is no GPU to ask."""
    name, capability = cuda.device()
    return Platform(api.text, cuda.version(), name, capability)


def sha256(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode())[:24]
