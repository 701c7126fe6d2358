"""The few CUDA runtime calls that an engine needs, through whichever binding is here, with the project's errors.

cuda-python (`cuda.bindings.runtime`, or `cuda.cudart` before 12.6) when installed; else the runtime library itself
(libcudart, part of every CUDA and of PyTorch's wheels) through ctypes, since a Jetson's own packages have no cuda-python.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EngineError

# cudart's constants, the same in CUDA 11 to 13
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_STREAM_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1  # another thread's calls neither fail nor enter the capture
_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, ...Minor
_NAME_BYTES = 256  # `char name[256]` begins cudaDeviceProp
_PROPERTIES_BYTES = 8192  # more than any version's cudaDeviceProp (about 1 KB)


class Cuda:
    """Calls on device 0. Handles and addresses are plain ints. EngineError for every CUDA error, naming the call."""

    def __init__(self, call: Callable[..., tuple[Any, ...]], binding: str):
        """call(name, *arguments) -> (error code, results...); see load_cuda."""
        self._call_raw = call
        self.binding = binding

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            code, *results = self._call_raw(name, *arguments)
        except RuntimeError as error:  # older cuda-python, where there is no driver library
            raise EngineError(f"cuda: {name}: {error}; install the NVIDIA driver, or use ONNX Runtime") from error
        if int(code) != 0:
            text = self._call_raw("cudaGetErrorString", code)[-1]
            words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            raise EngineError(
                f"cuda: {name}: error {int(code)} ({words}); restart, and check the driver with `nvidia-smi`"
            )
        return results[0] if results else None

    def version(self) -> str:
        """The runtime's, such as "12.6"."""
        value = int(self._call("cudaRuntimeGetVersion"))
        return f"{value // 1000}.{value % 1000 // 10}"

    def device(self) -> tuple[str, str]:
        """(name, compute capability) of device 0, such as ("Orin", "8.7")."""
        if int(self._call("cudaGetDeviceCount")) < 1:
            raise EngineError("cuda: found no device; a TensorRT engine needs an NVIDIA GPU")
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties if isinstance(properties, (bytes, str)) else properties.name
        text = name.split(b"\0")[0].decode(errors="replace") if isinstance(name, bytes) else str(name)
        major, minor = (int(self._attribute(a)) for a in (_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR))
        return text.strip(), f"{major}.{minor}"

    def _attribute(self, number: int) -> Any:
        return self._call("cudaDeviceGetAttribute", number, 0)

    def malloc(self, size: int) -> int:
        """`size` bytes of device memory -> address."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def malloc_host(self, size: int) -> int:
        """`size` bytes of pinned host memory -> address; `host_view` reads it."""
        return int(self._call("cudaHostAlloc", size, 0))

    def free_host(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def create_stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", device, host, size, _HOST_TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", host, device, size, _DEVICE_TO_HOST, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts on `stream` -> an executable graph."""
        self._call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        finally:  # a stream left in capture mode is of no use to anyone
            code, *graph = self._call_raw("cudaStreamEndCapture", stream)
        if int(code) != 0:
            raise EngineError(f"cuda: cudaStreamEndCapture: error {int(code)}; this engine cannot be captured")
        executable = int(self._call("cudaGraphInstantiate", graph[0], 0))
        self._call("cudaGraphDestroy", graph[0])
        return executable

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def create_event(self) -> int:
        return int(self._call("cudaEventCreate"))

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, first: int, second: int) -> float:
        """Milliseconds between two recorded events whose stream was synchronised."""
        return float(self._call("cudaEventElapsedTime", first, second))


def host_view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Pinned memory at `address` as an array. It must not outlive the memory."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer: Any = (ctypes.c_uint8 * count).from_address(address)
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)


def load_cuda() -> Cuda:
    """The first binding that sees a device: one that is newer than the driver sees none. EngineError that says what each one
    said, or what to install when there is none."""
    problems = []
    for cuda in _bindings():
        try:
            cuda.device()
        except EngineError as error:
            problems.append(f"{cuda.binding}: {error}")
        else:
            return cuda
    if problems:
        raise EngineError("; ".join(problems))
    raise EngineError(
        "cuda: found neither cuda-python nor libcudart; `pip install 'hygroma-edge[tensorrt]'`, or put the CUDA "
        "toolkit's lib64 on LD_LIBRARY_PATH"
    )


def _bindings() -> Iterator[Cuda]:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            yield Cuda(python_caller(importlib.import_module(name)), name)
        except ImportError:
            continue
    for path in _library_names():
        try:
            yield Cuda(ctypes_caller(ctypes.CDLL(path)), path)
        except OSError:
            continue


def python_caller(module: Any) -> Callable[..., tuple[Any, ...]]:
    """cuda-python's functions return tuples already; only its enums must be made from our ints."""
    enums = {
        ("cudaMemcpyAsync", 3): module.cudaMemcpyKind,
        ("cudaStreamBeginCapture", 1): module.cudaStreamCaptureMode,
        ("cudaDeviceGetAttribute", 0): module.cudaDeviceAttr,
    }

    def call(name: str, *arguments: Any) -> tuple[Any, ...]:
        converted = [enums[name, i](a) if (name, i) in enums else a for i, a in enumerate(arguments)]
        return tuple(getattr(module, name)(*converted))

    return call


def ctypes_caller(library: Any) -> Callable[..., tuple[Any, ...]]:
    """libcudart's C functions, called as cuda-python's are."""
    pointer, number, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_float
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {  # name -> (what it gives back first, its other arguments)
        "cudaRuntimeGetVersion": (number, ()),
        "cudaGetDeviceCount": (number, ()),
        "cudaDeviceGetAttribute": (number, (number, number)),
        "cudaMalloc": (pointer, (size,)),
        "cudaFree": (None, (pointer,)),
        "cudaHostAlloc": (pointer, (size, ctypes.c_uint)),
        "cudaFreeHost": (None, (pointer,)),
        "cudaStreamCreateWithFlags": (pointer, (ctypes.c_uint,)),
        "cudaStreamDestroy": (None, (pointer,)),
        "cudaStreamSynchronize": (None, (pointer,)),
        "cudaMemcpyAsync": (None, (pointer, pointer, size, number, pointer)),
        "cudaStreamBeginCapture": (None, (pointer, number)),
        "cudaGraphDestroy": (None, (pointer,)),
        "cudaGraphLaunch": (None, (pointer, pointer)),
        "cudaGraphExecDestroy": (None, (pointer,)),
        "cudaEventCreate": (pointer, ()),
        "cudaEventDestroy": (None, (pointer,)),
        "cudaEventRecord": (None, (pointer, pointer)),
        "cudaEventElapsedTime": (real, (pointer, pointer)),
        # CUDA 11's cudaGraphInstantiate takes other arguments; this one is the same from 11.4 to 13
        "cudaGraphInstantiate": (pointer, (pointer, ctypes.c_ulonglong)),
    }

    def call(name: str, *arguments: Any) -> tuple[Any, ...]:
        if name == "cudaGetErrorString":
            function = library.cudaGetErrorString
            function.restype = ctypes.c_char_p
            return 0, function(number(int(arguments[0]))) or b"unknown"
        if name == "cudaGetDeviceProperties":
            buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
            code = library.cudaGetDeviceProperties(buffer, number(*arguments))
            return int(code), buffer.raw[:_NAME_BYTES]
        if name == "cudaStreamEndCapture":
            graph = pointer()
            return int(library.cudaStreamEndCapture(pointer(*arguments), ctypes.byref(graph))), graph.value
        gives, takes = signatures[name]
        converted = [kind(value) for kind, value in zip(takes, arguments, strict=True)]
        function = getattr(library, "cudaGraphInstantiateWithFlags" if name == "cudaGraphInstantiate" else name)
        if gives is None:
            return (int(function(*converted)),)
        result = gives()
        return int(function(ctypes.byref(result), *converted)), result.value

    return call


def _library_names() -> list[str]:
    found = ctypes.util.find_library("cudart")
    names = [found] if found else []
    names += ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"]
    names.append("/usr/local/cuda/lib64/libcudart.so")
    for folder in sys.path:  # PyTorch's wheels bring one
        names += sorted(str(p) for p in Path(folder or ".").glob("nvidia/*/lib/libcudart.so.*"))
    return names
