"""One crop through each form of each model: the shipped student, its float forms, the teacher's and the baseline's shapes.

Models of the toolchain have random weights: the cost is the same. What a device does not have is skipped, and says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.case import Bench, Case, Record, Unavailable, record, timed
from benchmarks.loops import Work, open_loop
from edge.engines.choice import has_tensorrt, open_engine
from edge.engines.graph_forms import strip_quantisers
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.runner import Runner
from edge.errors import EngineError

SPINNING = "idle threads busy-wait, as its peers' do by default; the daemon never turns that on"
TEACHER_SIDE = 224  # pixels: USF-MAE's and DINOv2's


@contextmanager
def calls_of(runner: Runner, crops: np.ndarray) -> Iterator[Work]:
    """One crop a call, another each time. crops uint8 [N,1,S,S]."""
    turns = itertools.cycle(crops[:, None])
    with runner:
        yield lambda: runner.infer(next(turns))


def student(threads: int) -> Any:
    def open(bench: Bench) -> Any:
        runner = OnnxRuntimeRunner(bench.bundle.model, threads, spinning=threads > 1)
        return calls_of(runner, bench.bundle.golden().inputs)

    return open


@contextmanager
def student_float(bench: Bench) -> Iterator[Work]:
    try:
        model = strip_quantisers(bench.bundle.model)
    except EngineError as error:
        raise Unavailable(str(error)) from None
    with calls_of(OnnxRuntimeRunner(model, bench.threads), bench.bundle.golden().inputs) as work:
        yield work


@contextmanager
def student_tensorrt(bench: Bench) -> Iterator[Work]:
    if not has_tensorrt():
        raise Unavailable("TensorRT is not installed here")
    try:
        runner = open_engine(bench.bundle)
    except EngineError as error:
        raise Unavailable(str(error)) from None
    with calls_of(runner, bench.bundle.golden().inputs) as work:
        yield work


@contextmanager
def student_torch(bench: Bench) -> Iterator[Work]:
    torch = _torch(bench)
    from benchmarks.torch_student import torch_student

    model = torch_student(bench.bundle)
    turns = itertools.cycle([torch.from_numpy(crop[None].astype(np.float32)) for crop in bench.bundle.golden().inputs])
    with torch.inference_mode():
        yield lambda: model(next(turns))


def toolchain_model(kind: str) -> Any:
    """kind: vit-b, vit-s (the teachers' shapes), or densenet169 (the paper's baseline)."""

    @contextmanager
    def open(bench: Bench) -> Iterator[Work]:
        torch = _torch(bench)
        if kind == "densenet169":
            try:
                from monai.networks.nets import DenseNet169
            except ImportError as error:
                raise Unavailable(
                    f"{error.name} is not installed here: pip install 'hygroma-edge[toolchain]'"
                ) from None
            model: Any = DenseNet169(spatial_dims=2, in_channels=3, out_channels=2)
        else:
            from export.model.vit import HygromaViT, ViTConfig

            width, heads, patch = (768, 12, 16) if kind == "vit-b" else (384, 6, 14)
            model = HygromaViT(ViTConfig(TEACHER_SIDE, patch, width, 12, heads, layer_scale=kind == "vit-s"))
        picture = torch.rand(1, 3, TEACHER_SIDE, TEACHER_SIDE)
        model.eval()
        with torch.inference_mode():
            yield lambda: model(picture)

    return open


def _torch(bench: Bench) -> Any:
    try:
        import torch
    except ImportError:
        raise Unavailable("PyTorch is not installed here: pip install 'hygroma-edge[toolchain]'") from None
    torch.set_num_threads(bench.threads)
    return torch


def at_camera_rate(bench: Bench) -> list[Record]:
    """The daemon's own engine, one arrival each 1/rate seconds whatever a call takes."""
    from benchmarks.daemon import open_scorer

    name, turns = NAME_OPEN, itertools.cycle(bench.bundle.golden().inputs[:, 0])
    with open_scorer(bench) as scorer:
        loop = open_loop(
            lambda: scorer.score(next(turns)),
            bench.rate_hz,
            bench.calls_at(bench.rate_hz),
            tick=lambda done, total: bench.note(f"models: {name}", done, total),
        )
    values = {"rate_fps": bench.rate_hz, "utilisation": loop.utilisation, "queued": loop.queued}
    notes = (f"{scorer.runner_name}; latency from each frame's scheduled arrival, waiting included",)
    return [record("models", name, loop.latency, values, notes=notes)]


NAME_OPEN = "student, the daemon's engine, at the camera's rate"
RANDOM = ("random weights of that shape",)
CASES = [
    timed("models", "student INT8, ONNX Runtime, 1 thread", student(1)),
    timed("models", "student INT8, ONNX Runtime, 2 threads", student(2), (SPINNING,)),
    Case("models", NAME_OPEN, at_camera_rate),
    timed("models", "student float, ONNX Runtime", student_float),
    timed("models", "student float, PyTorch", student_torch),
    timed("models", "student, TensorRT engine", student_tensorrt),
    timed("models", "teacher ViT-S/14 float, PyTorch", toolchain_model("vit-s"), RANDOM),
    timed("models", "teacher ViT-B/16 float, PyTorch", toolchain_model("vit-b"), RANDOM),
    timed("models", "baseline DenseNet-169 float, PyTorch", toolchain_model("densenet169"), RANDOM),
]
