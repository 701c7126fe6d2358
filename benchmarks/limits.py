"""What this machine could do at best, what the student would then take, and how far it is from that."""

from __future__ import annotations

from benchmarks.case import Bench, Case, Record
from benchmarks.layers import profile
from benchmarks.loops import closed_loop
from benchmarks.machine import bandwidth_gb_s, gemm_gops
from benchmarks.models import student
from benchmarks.peers import TWO
from edge.hardware import usable_cores

SUITE = "limits"
RATES, FLOOR = "rates", "the student's floor"
THREADS, RATE_INT8 = "threads", "int8 GOP/s"  # columns of RATES


def rates(bench: Bench) -> list[Record]:
    """Best rates with the threads asked for, with two as the peers, and with all cores."""
    rows: list[dict[str, float | str]] = []
    counts = sorted({bench.threads, min(TWO, usable_cores()), usable_cores()})
    seconds = min(1.0, bench.limit_s / 6)
    for i, threads in enumerate(counts):
        bench.note(f"{SUITE}: rates", i, len(counts))
        rows.append({
            THREADS: float(threads),
            RATE_INT8: gemm_gops("int8", threads, seconds=seconds),
            "float32 GFLOP/s": gemm_gops("float32", threads, seconds=seconds),
            "memory GB/s": bandwidth_gb_s(threads, seconds=seconds),
        })  # fmt: skip
    return [Record(SUITE, RATES, table=rows, notes=("the best of many runs; ONNX Runtime's kernels, numpy's copy",))]


def floor(bench: Bench) -> list[Record]:
    """The student's products at those rates, its weights at that bandwidth, and what it takes."""
    seconds = min(1.0, bench.limit_s / 6)
    kernels = profile(bench.bundle.model, bench.bundle.golden().inputs, 2, bench.threads, bench.folder)
    int8, real = 2e-9 * sum(k.int8_macs for k in kernels), 2e-9 * sum(k.float_macs for k in kernels)
    int8_ms = 1000 * int8 / gemm_gops("int8", bench.threads, seconds=seconds)
    float_ms = 1000 * real / gemm_gops("float32", bench.threads, seconds=seconds)
    memory_ms = 1000 * len(bench.bundle.model) / 1e9 / bandwidth_gb_s(bench.threads, seconds=seconds)
    with student(bench.threads)(bench) as work:
        measured = closed_loop(work, bench.calls, bench.limit_s, tick=lambda d, t: bench.note(f"{SUITE}: floor", d, t))
    bound, p50 = max(int8_ms + float_ms, memory_ms), float(sorted(measured)[len(measured) // 2])
    values = {
        "int8_gop": int8, "float_gop": real, "int8_ms": int8_ms, "float_ms": float_ms, "weights_from_memory_ms": memory_ms,
        "floor_ms": bound, "p50_ms": p50, "times_the_floor": p50 / bound,
        "all_at_int8_peak_ms": int8_ms * (int8 + real) / int8, "times_all_at_int8_peak": p50 * int8 / (int8_ms * (int8 + real)),
    }  # fmt: skip
    notes = (
        "floor: all products at the measured rates and nothing else (no softmax, GELU, LayerNorm, transposes), or the file's "
        "bytes once through memory, whichever is longer; a model that fits the last-level cache need not wait for memory",
        "all_at_int8_peak_ms: the float products too at the INT8 rate, which no form that keeps the numbers can reach",
    )
    return [Record(SUITE, FLOOR, values=values, notes=notes)]


CASES = [Case(SUITE, RATES, rates), Case(SUITE, FLOOR, floor)]
