"""The TensorRT runner over a fake device. What every runner must do is tested in tests/contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.tensorrt_fake import World, recorded

from edge.bundle import Bundle
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.selftest import infer_all
from edge.engines.tensorrt.build import BuildOptions, build_plan
from edge.engines.tensorrt.host import Host
from edge.engines.tensorrt.runner import TensorRTRunner
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES


def runner_for(host: Host, model: bytes, batch: int = 1) -> TensorRTRunner:
    plan, _ = build_plan(host.api, model, BuildOptions("int8", batch=batch))
    return TensorRTRunner(plan, "int8", host.api, host.cuda)


@pytest.mark.parametrize("version", sorted(recorded()))
@pytest.mark.parametrize("batch", [1, 3])
def test_it_computes_the_graph_on_every_version(
    host_of: Callable[[str], Host], tiny_bundle: Bundle, pictures: Any, version: str, batch: int
) -> None:
    crops = pictures(7, 48)
    with OnnxRuntimeRunner(tiny_bundle.model) as reference:
        wanted = infer_all(reference, crops, batch=1)
    with runner_for(host_of(version), tiny_bundle.model, batch) as runner:
        found = runner.infer(crops)  # not a multiple of the batch: the last call is filled up
        assert (runner.name, runner.input_size, runner.batch, runner.captured) == ("tensorrt-int8", 48, batch, True)
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-3)


def test_a_frame_is_one_launch_and_one_wait_and_no_device_or_pinned_allocation(
    host: Host, world: World, tiny_bundle: Bundle
) -> None:
    with runner_for(host, tiny_bundle.model) as runner:
        before = dict(world.device.calls)
        for _ in range(10):
            runner.infer(np.zeros((1, 1, 48, 48), np.uint8))
        called = {name: n - before.get(name, 0) for name, n in world.device.calls.items() if n != before.get(name, 0)}
    assert called == {"cudaGraphLaunch": 10, "cudaStreamSynchronize": 10}


def test_everything_is_given_back(host: Host, world: World, tiny_bundle: Bundle) -> None:
    runner = runner_for(host, tiny_bundle.model)
    with runner:
        runner.device_times(3)
        assert sorted(world.device.live.values()) == ["device"] * 2 + ["executable"] + ["pinned"] * 2 + ["stream"]
    assert not world.device.live


@pytest.mark.parametrize(
    "call", ["cudaHostAlloc", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamCreateWithFlags"]
)
def test_a_failure_on_the_way_in_gives_back_what_there_was(
    host: Host, world: World, tiny_bundle: Bundle, call: str
) -> None:
    runner = runner_for(host, tiny_bundle.model)
    world.device.fail[call] = 2
    with pytest.raises(EngineError, match=f"{call}: error 2"), runner:
        pass
    world.device.fail.clear()
    assert not world.device.live


def test_a_failure_while_running_is_an_engine_error(host: Host, world: World, tiny_bundle: Bundle) -> None:
    with runner_for(host, tiny_bundle.model) as runner:
        world.device.fail["cudaGraphLaunch"] = 700
        with pytest.raises(EngineError, match="cudaGraphLaunch: error 700"):
            runner.infer(np.zeros((1, 1, 48, 48), np.uint8))


def test_without_a_graph_it_runs_and_says_so(
    host: Host, world: World, tiny_bundle: Bundle, pictures: Any, caplog: pytest.LogCaptureFixture
) -> None:
    crops = pictures(2, 48)
    with runner_for(host, tiny_bundle.model) as runner:
        wanted = runner.infer(crops)
    world.capturable = False
    with runner_for(host, tiny_bundle.model) as runner:
        world.device.fail.clear()
        found = runner.infer(crops)
        assert not runner.captured and "runs without a CUDA graph" in caplog.text
    np.testing.assert_array_equal(found.hygroma, wanted.hygroma)


def test_an_engine_of_another_machine_is_refused_with_the_reason(
    host_of: Callable[[str], Host], tiny_bundle: Bundle
) -> None:
    plan, _ = build_plan(host_of("10.3.0").api, tiny_bundle.model, BuildOptions("int8"))
    other = host_of("10.16.1.11")
    with pytest.raises(
        EngineError, match=r"TensorRT 10\.16\.1\.11 refuses the engine \(fake runtime: an engine of another"
    ):
        TensorRTRunner(plan, "int8", other.api, other.cuda).__enter__()


def test_an_engine_with_other_tensors_is_refused(host: Host, world: World, tiny_bundle: Bundle) -> None:
    world.half_outputs = True
    with pytest.raises(EngineError, match=r"found tensors .*expected image uint8 \[N,1,S,S\]"):
        runner_for(host, tiny_bundle.model).__enter__()


def test_times_are_the_devices(host: Host, world: World, tiny_bundle: Bundle) -> None:
    world.ms["int8"] = 0.75
    with runner_for(host, tiny_bundle.model) as runner:
        np.testing.assert_allclose(runner.device_times(5), 0.75)
        assert runner.host_times(3).shape == (3,)
    with pytest.raises(EngineError, match="outside its `with` block"):
        runner.device_times(1)
