"""What this machine can do at best, with the model's own kernels: products, memory, and one fixed loop as a yardstick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import onnxruntime as ort

from benchmarks.tiny_onnx import one_op
from edge.engines.onnxruntime_runner import session_options

GEMM = (
    576,
    1536,
    1536,
)  # M, K, N: four frames' tokens through a layer as wide as the student's MLP, so that no edge effect counts
STREAM_BYTES = 64 * 2**20  # of each array: beyond any last-level cache of the boards this is for
GEMM_S, STREAM_S = 1.0, 0.5  # seconds of measuring each; the best of many runs is taken
LOOP_GEMM = (145, 384, 1536)  # the shipped student's first MLP layer: tokens, width, hidden
LOOP_GEMM_CALLS, LOOP_RESIZES, LOOP_STEPS = 12, 12, 60_000  # each part takes about a third on the author's server core
LOOP_RUNS = 15  # of the yardstick; the fastest counts, what disturbs only adds


def gemm_work(dtype: str, shape: tuple[int, int, int], threads: int) -> Callable[[], object]:
    """One product [M,K] x [K,N] in ONNX Runtime, weights constant as in a model. dtype: int8 (u8 x s8 -> s32), or float32."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    if dtype == "int8":
        weights = rng.integers(-64, 64, (k, n), np.int8)  # 7 bits: no saturation on machines without VNNI
        a = rng.integers(0, 128, (m, k), np.uint8)
        model = one_op("MatMulInteger", [("a", "uint8", (m, k))], {"b": weights}, ("int32", 2))
    else:
        weights_f = rng.standard_normal((k, n), np.float32)
        a = rng.standard_normal((m, k), np.float32)  # type: ignore[assignment]
        model = one_op("MatMul", [("a", "float32", (m, k))], {"b": weights_f}, ("float32", 2))
    session = ort.InferenceSession(model, session_options(threads, spinning=True), providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], {"a": a})


def gemm_gops(dtype: str, threads: int, shape: tuple[int, int, int] = GEMM, seconds: float = GEMM_S) -> float:
    """Best rate, 10^9 operations a second (a multiply-add is two)."""
    return 2 * np.prod(np.array(shape, float)) / _best_s(gemm_work(dtype, shape, threads), seconds) / 1e9


def bandwidth_gb_s(threads: int, stream_bytes: int = STREAM_BYTES, seconds: float = STREAM_S) -> float:
    """Best rate of copying arrays far larger than the caches, 10^9 bytes a second, read and written bytes both counted."""
    pairs = [(np.ones(stream_bytes // 8), np.empty(stream_bytes // 8)) for _ in range(threads)]

    def copy() -> None:
        if threads == 1:
            np.copyto(pairs[0][1], pairs[0][0])
            return
        workers = [threading.Thread(target=np.copyto, args=(to, source)) for source, to in pairs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return 2 * stream_bytes * threads / _best_s(copy, seconds) / 1e9


@dataclass(frozen=True)
class Yardstick:
    """The fixed loop's fastest run, milliseconds, and its parts'. Budgets are ratios to `loop_ms`."""

    loop_ms: float
    gemm_ms: float
    resize_ms: float
    python_ms: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def yardstick(runs: int = LOOP_RUNS) -> Yardstick:
    """One thread doing what the daemon does: INT8 products, area resizing of a 720p picture, interpreted Python."""
    product = gemm_work("int8", LOOP_GEMM, 1)
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280), np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        parts = (
            lambda: [product() for _ in range(LOOP_GEMM_CALLS)],
            lambda: [cv2.resize(picture, (192, 108), interpolation=cv2.INTER_AREA) for _ in range(LOOP_RESIZES)],
            lambda: sum(i & 7 for i in range(LOOP_STEPS)),
        )
        taken = np.array([[_seconds(part) * 1000 for part in parts] for _ in range(runs + 1)])[1:]  # the first warms up
    finally:
        cv2.setNumThreads(threads)
    gemm, resize, python = (float(t) for t in taken.min(0))
    return Yardstick(gemm + resize + python, gemm, resize, python)


def _best_s(work: Callable[[], object], seconds: float) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, _seconds(work))
    return best


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
