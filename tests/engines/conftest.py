"""A machine with a GPU, all of it fake, and a bundle whose model really runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.cuda_fake import FakeDevice, python_module
from fakes.tensorrt_fake import World, make_tensorrt

from edge.bundle import Bundle, write_bundle
from edge.bundle import manifest as mf
from edge.bundle.arrays import GoldenVectors, OodStats, pack_golden, pack_ood
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.selftest import infer_all
from edge.engines.tensorrt.api import describe
from edge.engines.tensorrt.cache import EngineCache
from edge.engines.tensorrt.cuda import Cuda, python_caller
from edge.engines.tensorrt.host import Host
from edge.engines.tensorrt.key import this_platform


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every file here touches the kernels of this processor."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("kernels")


@pytest.fixture
def world() -> World:
    return World(FakeDevice())


@pytest.fixture
def host_of(world: World) -> Callable[[str], Host]:
    """version -> a host with that TensorRT on `world`'s device."""

    def make(version: str) -> Host:
        api = describe(make_tensorrt(version, world))
        cuda = Cuda(python_caller(python_module(world.device)), "fake")
        return Host(api, cuda, this_platform(api, cuda))

    return make


@pytest.fixture
def host(host_of: Callable[[str], Host]) -> Host:
    return host_of("10.3.0")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture(scope="session")
def tiny_golden(tiny_int8_graph: Any, tiny_student: Any) -> GoldenVectors:
    """64 pictures, and what PyTorch and the canonical graph of the tiny student say to them."""
    from export.model.torch_runner import TorchRunner

    coarse = np.random.default_rng(5).integers(0, 255, (64, 1, 6, 6))
    inputs = coarse.repeat(8, 2).repeat(8, 3).astype(np.uint8)
    with OnnxRuntimeRunner(tiny_int8_graph.SerializeToString()) as runner:
        qdq = infer_all(runner, inputs)
    with TorchRunner(*tiny_student) as runner:
        fp32 = infer_all(runner, inputs)
    return GoldenVectors(inputs, fp32, qdq)


@pytest.fixture
def tiny_bundle(tmp_path: Path, fake_bundle_parts: Any, tiny_int8_graph: Any, tiny_golden: GoldenVectors) -> Bundle:
    """A bundle of the tiny student, with tolerances that its FP16 forms are within."""
    manifest, files = fake_bundle_parts
    dim, grid = tiny_golden.qdq.embedding.shape[1], tiny_golden.qdq.nuchal_map.shape[1]
    tolerance = mf.Tolerance(probability=0.3, embedding=0.3, map=0.5)
    manifest = dataclasses.replace(
        manifest,
        input=mf.InputSpec("image", "uint8", 48),
        preprocessing=dataclasses.replace(manifest.preprocessing, size=48),
        heads=mf.Heads(embedding=dim, map_grid=grid),
        golden=mf.Golden(64, tolerance, tolerance),
    )
    files |= {
        mf.MODEL_FILE: tiny_int8_graph.SerializeToString(),
        mf.GOLDEN_FILE: pack_golden(tiny_golden),
        mf.OOD_FILE: pack_ood(OodStats(tiny_golden.qdq.embedding.mean(0), np.eye(dim, dtype=np.float32))),
    }
    return write_bundle(tmp_path / "tiny", manifest, files)
