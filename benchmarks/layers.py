"""What the optimised graph spends where, as ONNX Runtime's own profiler sees it, with the daemon's session options."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.case import Bench, Case, Record, record
from edge.engines.onnxruntime_runner import open_session, session_options

SUITE = "layers"
CALLS_MAX = 200  # profiled calls: a megabyte of profile a hundred
ATTENTION = "QAttention"  # the product for queries, keys and values in INT8, and the scores' and the mixture's in float
INT8_OPS = {
    "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", ATTENTION, "DynamicQuantizeMatMul", "MatMulInteger", "QLinearConv"
}  # fmt: skip
FLOAT_OPS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"}
OPERATOR_NOTE = (
    "median ms of a call; in INT8: nodes that integer kernels run; of a QAttention that is the product for queries, keys and "
    "values, while the scores and what they weigh are float"
)
MAP_NOTE = "the nuchal map: its logits, and the tokens pooled by them, which the hygroma head reads"
PARTS = (  # the first pattern that is in a node's name
    (r"\.attn\.qkv\.attention", "attention: queries, keys, values and what is made of them"),
    (r"\.attn\.(qkv|proj)", "attention: linear layers"),
    (r"\.attn\.", "attention: the rest"),
    (r"\.mlp\..*gelu$", "MLP: GELU and scaling"),  # named after fc1's bias where that is a node of its own
    (r"\.mlp\.(fc1|fc2)", "MLP: linear layers"),
    (r"\.mlp\.", "MLP: GELU and scaling"),
    (r"norm", "LayerNorm"),
    (r"blocks\.\d+\.add", "residual sums"),
    (r"map_head|nuchal_map", "nuchal map and pooling by it"),
)


@dataclass(frozen=True)
class Kernel:
    """One node of the optimised graph over all calls: `ms` [n]; multiply-adds of one call, in INT8 and in float."""

    name: str
    op: str
    ms: np.ndarray
    int8_macs: float
    float_macs: float


def profile(model: bytes, crops: np.ndarray, calls: int, threads: int, folder: Path) -> list[Kernel]:
    """Kernels in the order in which they run. crops uint8 [N,1,S,S], one a call."""
    options = session_options(threads, spinning=False)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = open_session(model, options)
    name = session.get_inputs()[0].name
    for i in range(calls + 1):  # the first is warm-up
        session.run(None, {name: crops[i % len(crops)][None]})
    events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[dict]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"].removesuffix("_kernel_time")].append(event)
    return [
        Kernel(
            node,
            seen[0]["args"]["op_name"],
            np.array([event["dur"] for event in seen[1:]]) / 1000,
            *_macs(seen[-1]["args"]),
        )
        for node, seen in found.items()
    ]


def _macs(args: dict) -> tuple[float, float]:
    """Multiply-adds of a product or convolution, in INT8 and in float, from the shapes in the profile; 0 for anything else."""
    op = args["op_name"]
    if op not in INT8_OPS | FLOAT_OPS:
        return 0.0, 0.0
    inputs = [shape for item in args["input_type_shape"] for shape in item.values()]
    (output,) = (shape for item in args["output_type_shape"] for shape in item.values())
    if op == ATTENTION:
        batch, tokens, width = output  # queries, keys and values; the scores, and the values that they weigh
        return float(np.prod(inputs[0]) * 3 * width), float(batch * 2 * tokens**2 * width)
    each = inputs[0][-1]
    if "Conv" in op:
        each = np.prod(next(shape for shape in inputs[1:] if len(shape) == 4)[1:])
    macs = float(np.prod(output) * each)
    return (macs, 0.0) if op in INT8_OPS else (0.0, macs)


def places(kernels: list[Kernel]) -> list[str]:
    """Each kernel's name in the graph, in the order in which they run. One that ONNX Runtime made itself is named after its
    operator (Gelu_token_3): it belongs where the kernel before it does."""
    found: list[str] = []
    for kernel in kernels:
        named = not kernel.name.startswith(kernel.op) or not found
        found.append(kernel.name if named else f"{found[-1].rsplit('.', 1)[0]}.{kernel.op.lower()}")
    return found


def part_of(name: str) -> str:
    """A node's place in the transformer."""
    if "patch_embed" in name or "pos_embed" in name or "cls_token" in name:
        return "patch embedding"
    for pattern, part in PARTS:
        if re.search(pattern, name):
            return part
    return "heads and outputs"


def spent(bench: Bench) -> list[Record]:
    calls = max(2, min(bench.calls, CALLS_MAX))
    bench.note(f"{SUITE}: profile", 0, 1)
    kernels = profile(bench.bundle.model, bench.bundle.golden().inputs, calls, bench.threads, bench.folder)
    total = np.sum([kernel.ms for kernel in kernels], axis=0)
    by_op = _shares([(kernel.op, kernel) for kernel in kernels])
    by_part = _shares([(part_of(name), kernel) for name, kernel in zip(places(kernels), kernels, strict=True)])
    return [
        record(SUITE, "all kernels of a call", total, {"kernels": float(len(kernels))}),
        Record(SUITE, "by operator", table=by_op, notes=(OPERATOR_NOTE,)),
        Record(SUITE, "by part of the model", table=by_part, notes=(MAP_NOTE,)),
    ]


def _shares(named: list[tuple[str, Kernel]]) -> list[dict[str, float | str]]:
    groups: dict[str, list[Kernel]] = defaultdict(list)
    for name, kernel in named:
        groups[name].append(kernel)
    ms = {name: float(np.median(np.sum([kernel.ms for kernel in group], axis=0))) for name, group in groups.items()}
    total = sum(ms.values())
    return [
        {
            "where": name,
            "nodes": float(len(groups[name])),
            "ms": ms[name],
            "share": f"{ms[name] / total:.1%}",
            "in INT8": float(sum(k.op in INT8_OPS for k in groups[name])),
        }
        for name in sorted(ms, key=lambda name: -ms[name])
    ]


CASES = [Case(SUITE, "spent", spent)]
