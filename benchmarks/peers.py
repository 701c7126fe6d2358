"""The same student on other runtimes, in one interleaved run: same crops, same threads, ratios with intervals. The paper's size
of model, a ViT-B/16 in PyTorch, stands beside them: what the student is instead of. Once with the threads that were asked for,
once with two.

What each computes stands beside what it takes: the largest difference of its hygroma probability from PyTorch's recorded
float outputs over the golden images. A peer that is not installed is skipped and says so. Needs the extra `peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Bench, Case, Record, Unavailable, record
from benchmarks.loops import interleaved
from benchmarks.models import toolchain_model
from benchmarks.samples import ratio_of_medians
from edge.engines.choice import has_tensorrt, open_engine
from edge.engines.graph_forms import strip_quantisers
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino, import_openvino
from edge.engines.selftest import sigmoid
from edge.hardware import usable_cores

SUITE = "peers"
OURS = "hygroma INT8, ONNX Runtime"
OURS_OPENVINO = "hygroma INT8, OpenVINO"
TEACHER = "teacher's size (ViT-B/16, random weights), PyTorch eager"
FLOAT, DYNAMIC = "float, ONNX Runtime", "quantize_dynamic, ONNX Runtime"
STATIC, NNCF = "quantize_static with defaults, ONNX Runtime", "NNCF INT8, OpenVINO"
# The records of ratios: to whom, and the name of their column.
RATIOS = {OURS: "times ours", OURS_OPENVINO: "times ours on OpenVINO"}
TWO = 2  # threads: what is measured besides
CALLS = 5  # timed calls a turn: after one untimed, enough that a turn is mostly the peer's own caches
CALLS_TEACHER = 1  # its calls are a hundred times as long
EXTRA = "pip install 'hygroma-edge[peers]'"
Infer = Callable[[np.ndarray], np.ndarray]  # uint8 [1,1,S,S] -> hygroma logit [1]


@contextmanager
def ours(bench: Bench) -> Iterator[Infer]:
    # spinning as the other peers do by default; it makes no difference with one thread
    with OnnxRuntimeRunner(bench.bundle.model, bench.threads, spinning=bench.threads > 1) as runner:
        yield lambda crop: runner.infer(crop).hygroma


@contextmanager
def ours_openvino(bench: Bench) -> Iterator[Infer]:
    _require_openvino()
    with OpenVinoRunner(bench.bundle.model, bench.threads) as runner:
        yield lambda crop: runner.infer(crop).hygroma


@contextmanager
def tensorrt(bench: Bench) -> Iterator[Infer]:
    if not has_tensorrt():
        raise Unavailable("TensorRT is not installed here")
    with open_engine(bench.bundle) as runner:
        yield lambda crop: runner.infer(crop).hygroma


def pytorch(compiled: bool) -> Callable[[Bench], Any]:
    @contextmanager
    def open(bench: Bench) -> Iterator[Infer]:
        import torch

        from benchmarks.torch_student import torch_student

        torch.set_num_threads(bench.threads)
        model: Any = torch_student(bench.bundle)
        if compiled:
            model = torch.compile(model)

        def infer(crop: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(crop.astype(np.float32)))[1].numpy()

        yield infer

    return open


@contextmanager
def teacher(bench: Bench) -> Iterator[Infer]:
    with toolchain_model("vit-b")(bench) as work:
        yield lambda crop: work().hygroma.numpy()


def onnxruntime(form: str) -> Callable[[Bench], Any]:
    """form: float, dynamic (quantize_dynamic) or static (quantize_static with its defaults, on the golden images)."""

    @contextmanager
    def open(bench: Bench) -> Iterator[Infer]:
        path = float_file(bench)
        if form != "float":
            from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            prepared, out = bench.folder / "prepared.onnx", bench.folder / f"{form}.onnx"
            quant_pre_process(str(path), str(prepared))
            if form == "dynamic":
                quantize_dynamic(str(prepared), str(out))
            else:

                class Reader(CalibrationDataReader):
                    def __init__(self) -> None:
                        self._left = iter([{"image": crop[None]} for crop in bench.bundle.golden().inputs])

                    def get_next(self) -> dict[str, np.ndarray] | None:
                        return next(self._left, None)

                quantize_static(str(prepared), str(out), Reader())
            path = out
        import onnxruntime as ort

        # Its own defaults but for the threads: with our session.x64quantprecision=1, ONNX Runtime 1.32 refuses to load what its
        # quantize_static wrote ("replace the existing tensor").
        options = ort.SessionOptions()
        options.intra_op_num_threads = bench.threads
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        yield lambda crop: session.run(["hygroma"], {"image": crop})[0]

    return open


def openvino(int8: bool) -> Callable[[Bench], Any]:
    @contextmanager
    def open(bench: Bench) -> Iterator[Infer]:
        _require_openvino()
        ov = import_openvino()
        model = ov.Core().read_model(str(float_file(bench)))
        if int8:
            import nncf

            golden = bench.bundle.golden().inputs
            crops = nncf.Dataset([crop[None] for crop in golden])
            model = nncf.quantize(model, crops, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(golden))
        settings = {"INFERENCE_NUM_THREADS": bench.threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.Core().compile_model(model, "CPU", settings)
        request, wanted = compiled.create_infer_request(), compiled.output("hygroma")
        yield lambda crop: request.infer([crop])[wanted]

    return open


def _require_openvino() -> None:
    if not has_openvino():
        raise Unavailable(f"openvino is not installed here: {EXTRA}")


def float_file(bench: Bench) -> Path:
    path = bench.folder / "float.onnx"
    if not path.is_file():
        path.write_bytes(strip_quantisers(bench.bundle.model))
    return path


PEERS: dict[str, Callable[[Bench], Any]] = {
    OURS: ours,
    OURS_OPENVINO: ours_openvino,
    FLOAT: onnxruntime("float"),
    DYNAMIC: onnxruntime("dynamic"),
    STATIC: onnxruntime("static"),
    "float, PyTorch eager": pytorch(compiled=False),
    "float, PyTorch compiled": pytorch(compiled=True),
    "float (its own precision), OpenVINO": openvino(int8=False),
    NNCF: openvino(int8=True),
    "engine, TensorRT": tensorrt,
    TEACHER: teacher,
}


def one_and_two_threads(bench: Bench) -> list[Record]:
    """`side_by_side` with the threads that were asked for, and again with two, whose records say so in their names."""
    records = side_by_side(bench)
    if bench.threads == TWO:
        return records
    if usable_cores() < TWO:
        return [*records, Record(SUITE, with_threads("side by side", TWO), skipped="this process may use one core")]
    again = side_by_side(replace(bench, threads=TWO))
    said = [(found.name, found.skipped) for found in records if found.skipped]
    new = [found for found in again if (found.name, found.skipped) not in said]
    return [*records, *(replace(found, name=with_threads(found.name, TWO)) for found in new)]


def with_threads(name: str, threads: int) -> str:
    """A record's name in the second of the two runs."""
    return f"{name}, {threads} threads"


def side_by_side(bench: Bench, peers: Mapping[str, Callable[[Bench], Any]] = PEERS) -> list[Record]:
    """Every peer that is here, timed in turns; ours is always among them."""
    golden, skipped = bench.bundle.golden(), []
    crops = golden.inputs
    wanted = sigmoid(golden.fp32.hygroma)
    with ExitStack() as stack:
        running: dict[str, Infer] = {}
        off: dict[str, float] = {}
        for done, (name, open) in enumerate(peers.items()):
            bench.note(f"{SUITE}: prepare {name}, threads {bench.threads}", done, len(peers))
            try:
                infer = stack.enter_context(open(bench))
                some = crops[:1] if name == TEACHER else crops
                found = sigmoid(np.array([float(np.ravel(infer(crop[None]))[0]) for crop in some]))
            except Unavailable as reason:
                skipped.append(Record(SUITE, name, skipped=str(reason)))
            except ImportError as error:
                skipped.append(Record(SUITE, name, skipped=f"{error.name} is not installed here: {EXTRA}"))
            except Exception as error:  # each peer has classes of its own; what it cannot do belongs in the table
                if name == OURS:
                    raise
                skipped.append(
                    Record(SUITE, name, skipped=f"does not run: {type(error).__name__}: {str(error).strip()[:300]}")
                )
            else:
                running[name] = infer
                if name != TEACHER:  # which is another model
                    off[name] = float(np.abs(found - wanted).max())
        turn = iter(range(10**12))
        works = {
            name: lambda infer=infer: infer(crops[next(turn) % len(crops)][None])  # type: ignore[misc]
            for name, infer in running.items()
        }
        rounds = max(3, bench.calls // CALLS)
        limit_s = bench.limit_s * len(works)
        rounds_of = f"{SUITE}: rounds, threads {bench.threads}"
        calls = {name: CALLS_TEACHER if name == TEACHER else CALLS for name in works}
        taken = interleaved(works, rounds, calls, limit_s, tick=lambda d, t: bench.note(rounds_of, d, t))
    records = [record(SUITE, name, times.ravel()) for name, times in taken.items()]
    notes: tuple[str, ...] = (
        f"{len(taken[OURS])} rounds of {CALLS} calls ({CALLS_TEACHER} of the teacher's size), in random order; 95 % bootstrap "
        "intervals over rounds; static and NNCF were calibrated on the golden images of the difference, which "
        "flatters them; float OpenVINO and NNCF pick their own precision (bf16 where the CPU has it), ours is float32 and INT8",
    )
    for base in RATIOS:
        if base in taken:
            records.append(Record(SUITE, ratios_name(base), table=ratios(taken, base, off), notes=notes))
            notes = ()
    return [*records, *skipped]


def ratios_name(base: str) -> str:
    """Of the record of ratios to one of RATIOS."""
    return "ratios" if base == OURS else f"ratios, {RATIOS[base]}"


def ratios(taken: Mapping[str, np.ndarray], base: str, off: Mapping[str, float]) -> list[dict[str, float | str]]:
    """A row a system, the fastest first. taken: milliseconds [R,C] by name; base: one of RATIOS; off: largest differences."""
    rows: list[dict[str, float | str]] = []
    for name, times in sorted(taken.items(), key=lambda item: float(np.median(item[1]))):
        ratio, low, high = ratio_of_medians(times, taken[base])
        rows.append({
            "system": name, "p50 ms": float(np.median(times)), RATIOS[base]: ratio, "low": low, "high": high,
            "largest difference of p": off.get(name, "another model"),
        })  # fmt: skip
    return rows


CASES = [Case(SUITE, "side by side", one_and_two_threads)]
