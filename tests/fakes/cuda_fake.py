"""A CUDA device in ordinary memory, seen through cuda-python's tuples or libcudart's C functions.

What is put on a stream runs only when the stream is synchronised, so a runner that forgets to wait reads old bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

ENUMS = {
    "cudaMemcpyKind": {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2},
    "cudaStreamCaptureMode": {"cudaStreamCaptureModeThreadLocal": 1},
    "cudaDeviceAttr": {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76},
}
Error = IntEnum("Error", {f"error{i}": i for i in range(1000)})


class FakeDevice:
    """`live`: address -> kind of what is allocated. `calls`: name -> how often. `fail`: name -> the error code it gives."""

    def __init__(self, name: str = "Fake Orin", capability: str = "8.7", runtime: int = 12060):
        self.name, self.capability, self.runtime = name, capability, runtime
        self.live: dict[int, str] = {}
        self.calls: dict[str, int] = {}
        self.fail: dict[str, int] = {}
        self.clock_ms = 0.0
        self._buffers: dict[int, Any] = {}
        self._queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._events: dict[int, float] = {}
        self._next = 1

    def submit(self, work: Callable[[], None]) -> None:
        """Put work on the stream, or into the graph that is being captured."""
        (self._queue if self._captured is None else self._captured).append(work)

    def api(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """name(arguments) -> (error code, results...)."""
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.fail:
            return (Error(self.fail[name]), None)
        result = getattr(self, f"_{name}")(*arguments)
        return (Error(0), *(result if isinstance(result, tuple) else () if result is None else (result,)))

    def _handle(self, kind: str) -> int:
        self._next += 1
        self.live[self._next] = kind
        return self._next

    def _allocate(self, size: int, kind: str) -> int:
        buffer = (ctypes.c_uint8 * size)(*([0xAB] * size))  # never zeros by luck
        address = ctypes.addressof(buffer)
        self._buffers[address] = buffer
        self.live[address] = kind
        return address

    def _release(self, address: int, kind: str) -> None:
        assert self.live.pop(address, None) == kind, f"{kind} {address} is not there"
        self._buffers.pop(address, None)

    def _cudaGetErrorString(self, code: Any) -> bytes:
        return b"fake failure %d" % int(code)

    def _cudaRuntimeGetVersion(self) -> int:
        return self.runtime

    def _cudaGetDeviceCount(self) -> int:
        return 1

    def _cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=self.name.encode() + b"\0junk")

    def _cudaDeviceGetAttribute(self, attribute: Any, device: int) -> int:
        return int(self.capability.split(".")[{75: 0, 76: 1}[int(attribute)]])

    def _cudaMalloc(self, size: int) -> int:
        return self._allocate(size, "device")

    def _cudaFree(self, address: int) -> None:
        self._release(address, "device")

    def _cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._allocate(size, "pinned")

    def _cudaFreeHost(self, address: int) -> None:
        self._release(address, "pinned")

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:
        return self._handle("stream")

    def _cudaStreamDestroy(self, stream: int) -> None:
        self._release(stream, "stream")

    def _cudaStreamSynchronize(self, stream: int) -> None:
        assert self.live[stream] == "stream"
        work, self._queue = self._queue, []
        for step in work:
            step()

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Any, stream: int) -> None:
        expected = {1: ("device", "pinned"), 2: ("pinned", "device")}[int(kind)]
        assert (self.live[to], self.live[source]) == expected
        assert size == len(self._buffers[to]) == len(self._buffers[source])
        self.submit(lambda: void(ctypes.memmove(to, source, size)))

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:
        assert self._captured is None and not self._queue, "work in flight when the capture began"
        self._captured = []

    def _cudaStreamEndCapture(self, stream: int) -> int:
        assert self._captured is not None
        graph = self._handle("graph")
        self._graphs[graph], self._captured = self._captured, None
        return graph

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        executable = self._handle("executable")
        self._graphs[executable] = self._graphs[graph]
        return executable

    def _cudaGraphDestroy(self, graph: int) -> None:
        self._release(graph, "graph")

    def _cudaGraphExecDestroy(self, graph: int) -> None:
        self._release(graph, "executable")

    def _cudaGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self._graphs[graph]:
            self.submit(work)

    def _cudaEventCreate(self) -> int:
        return self._handle("event")

    def _cudaEventDestroy(self, event: int) -> None:
        self._release(event, "event")

    def _cudaEventRecord(self, event: int, stream: int) -> None:
        self.submit(lambda: self._events.__setitem__(event, self.clock_ms))

    def _cudaEventElapsedTime(self, first: int, second: int) -> float:
        return self._events[second] - self._events[first]


def void(value: object) -> None:
    """Drops a value, for lambdas that give none."""


def python_module(device: FakeDevice) -> Any:
    """As `cuda.bindings.runtime`: enums must be enums, not ints."""
    enums = {name: IntEnum(name, members) for name, members in ENUMS.items()}
    wanted = {
        "cudaMemcpyAsync": (3, "cudaMemcpyKind"),
        "cudaStreamBeginCapture": (1, "cudaStreamCaptureMode"),
        "cudaDeviceGetAttribute": (0, "cudaDeviceAttr"),
    }

    def function(name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if name in wanted:
                index, kind = wanted[name]
                assert isinstance(arguments[index], enums[kind]), f"{name} wants a {kind}"
            return device.api(name, *arguments)

        return call

    names = [n[1:] for n in dir(FakeDevice) if n.startswith("_cuda")]
    return SimpleNamespace(**enums, **{name: function(name) for name in names})


class _Function:
    """A C function: plain values in, results through pointers, an int out."""

    def __init__(self, device: FakeDevice, name: str):
        self._device, self._name = device, name
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        name = {"cudaGraphInstantiateWithFlags": "cudaGraphInstantiate"}.get(self._name, self._name)
        if name == "cudaGetErrorString":
            return self._device.api(name, arguments[0].value)[1]
        if name == "cudaGetDeviceProperties":
            code, *rest = self._device.api(name, 0)
            if not code:
                arguments[0][: len(rest[0].name)] = rest[0].name
            return int(code)
        results = [a for a in arguments if type(a).__name__ == "CArgObject"]  # what ctypes.byref makes
        plain = [a.value for a in arguments if type(a).__name__ != "CArgObject"]
        code, *values = self._device.api(name, *plain)
        if not code:
            for pointer, value in zip(results, values, strict=True):
                pointer._obj.value = value
        return int(code)


def c_library(device: FakeDevice) -> Any:
    """As `ctypes.CDLL("libcudart.so")`."""

    class Library:
        def __getattr__(self, name: str) -> _Function:
            if name != "cudaGraphInstantiateWithFlags" and not hasattr(device, f"_{name}"):
                raise AttributeError(f"undefined symbol: {name}")
            function = _Function(device, name)
            setattr(self, name, function)
            return function

    return Library()
