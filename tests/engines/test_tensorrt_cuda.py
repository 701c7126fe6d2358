"""CUDA through cuda-python and through libcudart: the same calls, the same errors."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from fakes.cuda_fake import FakeDevice, c_library, python_module

from edge.engines.tensorrt import cuda as cuda_api
from edge.engines.tensorrt.cuda import Cuda, ctypes_caller, host_view, load_cuda, python_caller
from edge.errors import EngineError


@pytest.fixture(params=["cuda-python", "libcudart"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    device = FakeDevice()
    call = python_caller(python_module(device)) if request.param == "cuda-python" else ctypes_caller(c_library(device))
    made = Cuda(call, request.param)
    made.fake = device  # type: ignore[attr-defined]
    return made


def test_the_device_names_itself(cuda: Cuda) -> None:
    assert cuda.version() == "12.6"
    assert cuda.device() == ("Fake Orin", "8.7")


def test_bytes_go_there_and_back(cuda: Cuda) -> None:
    stream, size = cuda.create_stream(), 16
    first, second, device = cuda.malloc_host(size), cuda.malloc_host(size), cuda.malloc(size)
    sent, received = host_view(first, (4, 4), np.uint8), host_view(second, (16,), np.uint8)
    sent[:] = np.arange(16).reshape(4, 4)
    cuda.to_device(device, first, size, stream)
    cuda.to_host(second, device, size, stream)
    assert not np.array_equal(received, np.arange(16))  # nothing has run yet
    cuda.synchronize(stream)
    np.testing.assert_array_equal(received, np.arange(16))
    cuda.free(device)
    for address in (first, second):
        cuda.free_host(address)
    cuda.destroy_stream(stream)
    assert not cuda.fake.live  # type: ignore[attr-defined]


def test_a_graph_replays_what_was_captured(cuda: Cuda) -> None:
    stream, done = cuda.create_stream(), []
    graph = cuda.capture(stream, lambda: cuda.fake.submit(lambda: done.append(1)))  # type: ignore[attr-defined]
    assert not done
    for _ in range(3):
        cuda.launch(graph, stream)
    cuda.synchronize(stream)
    assert done == [1, 1, 1]
    cuda.destroy_graph(graph)
    cuda.destroy_stream(stream)
    assert not cuda.fake.live  # type: ignore[attr-defined]


def test_a_capture_that_fails_inside_is_ended(cuda: Cuda) -> None:
    def broken() -> None:
        raise EngineError("no")

    stream = cuda.create_stream()
    with pytest.raises(EngineError, match="no"):
        cuda.capture(stream, broken)
    assert cuda.fake.calls["cudaStreamEndCapture"] == 1  # type: ignore[attr-defined]


def test_events_measure(cuda: Cuda) -> None:
    fake: Any = cuda.fake  # type: ignore[attr-defined]
    stream, first, second = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    cuda.record(first, stream)
    fake.submit(lambda: setattr(fake, "clock_ms", fake.clock_ms + 2.5))
    cuda.record(second, stream)
    cuda.synchronize(stream)
    assert cuda.elapsed_ms(first, second) == pytest.approx(2.5)


def test_an_error_names_the_call_and_what_cuda_said(cuda: Cuda) -> None:
    cuda.fake.fail["cudaMalloc"] = 2  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=r"cudaMalloc: error 2 \(fake failure 2\).*nvidia-smi"):
        cuda.malloc(8)


def test_a_binding_that_finds_no_driver_is_an_engine_error() -> None:
    def call(name: str, *arguments: Any) -> tuple[Any, ...]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")  # as cuda-python 12.2 does

    with pytest.raises(EngineError, match="libcuda.so.1; install the NVIDIA driver"):
        Cuda(call, "old").malloc(8)


def test_without_any_binding_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(cuda_api.importlib, "import_module", missing)
    monkeypatch.setattr(cuda_api, "_library_names", lambda: ["/nowhere/libcudart.so"])
    with pytest.raises(EngineError, match="neither cuda-python nor libcudart"):
        load_cuda()


def test_a_binding_newer_than_the_driver_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    new, right = FakeDevice(), FakeDevice()
    new.fail["cudaGetDeviceCount"] = 35
    modules = {"cuda.bindings.runtime": python_module(new), "cuda.cudart": python_module(right)}
    monkeypatch.setattr(cuda_api.importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(cuda_api, "_library_names", lambda: [])
    assert load_cuda().binding == "cuda.cudart"
    right.fail["cudaGetDeviceCount"] = 100
    with pytest.raises(EngineError, match="cuda.bindings.runtime: .*error 35.*cuda.cudart: .*error 100"):
        load_cuda()


def test_the_real_binding_has_every_call() -> None:
    """cuda-python, where it is installed: names exist, and a machine without a GPU gives our error."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed (extra `tensorrt`)")
    for name in python_module(FakeDevice()).__dict__:
        assert hasattr(runtime, name), name
    cuda = Cuda(python_caller(importlib.import_module("cuda.bindings.runtime")), "real")
    assert cuda.version()[0].isdigit()
    try:
        name, capability = cuda.device()
    except EngineError as error:
        assert "cudaGetDeviceCount" in str(error)
    else:
        assert name and "." in capability
