"""The golden self-test: an engine answers the bundle's recorded images as PyTorch and the canonical graph did, or does
not start.

It catches a wrong driver, precision, kernel or engine, and a graph that is not the one the manifest speaks of.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from edge.bundle.arrays import GoldenVectors
from edge.bundle.manifest import Calibration, Golden, Tolerance
from edge.engines.runner import Runner
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

BATCH = 1  # images a call, as the daemon scores: ONNX Runtime keeps what its largest call needed (8 at once: 90 MB more)

# Two computations of one INT8 graph, such as ONNX Runtime's optimised and plain ones, or OpenVINO's: the last bit of a float sum
# decides on which side of half a step an activation falls. Saturating kernels are further off: .058 to .134 (AVX2, measured).
SAME_GRAPH_TOLERANCE = Tolerance(probability=0.05, embedding=0.02, map=0.05)


@dataclass(frozen=True)
class SelfTestReport:
    """Largest differences found, in the units of Tolerance."""

    count: int
    fp32: Tolerance
    qdq: Tolerance


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logit -> probability, float64, without overflow for any finite input."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


def infer_all(runner: Runner, inputs: np.ndarray, batch: int = BATCH) -> RawOutputs:
    """uint8 [N,1,S,S] -> RawOutputs for all N, `batch` images at a time."""
    parts = [runner.infer(inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
    found = {name: np.concatenate([p.named()[name] for p in parts]) for name in parts[0].named()}
    return RawOutputs(*(found.pop(name) for name in OUTPUT_NAMES), others=found)


def difference(found: RawOutputs, recorded: RawOutputs, calibration: Calibration) -> Tolerance:
    """How far `found` is from `recorded` at most, over all images. Logits are compared as calibrated probabilities,
    since that is what decisions are made on, and embeddings by relative L2 norm."""

    def gap(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
        return float(np.abs(sigmoid(a / temperature) - sigmoid(b / temperature)).max())

    norm = np.linalg.norm(found.embedding - recorded.embedding, axis=1)
    return Tolerance(
        probability=max(
            gap(found.plane, recorded.plane, calibration.plane_temperature),
            gap(found.hygroma, recorded.hygroma, calibration.hygroma_temperature),
            *(gap(found.others[name], logits, 1.0) for name, logits in recorded.others.items()),
        ),
        embedding=float((norm / np.maximum(np.linalg.norm(recorded.embedding, axis=1), 1e-9)).max()),
        map=gap(found.nuchal_map, recorded.nuchal_map, 1.0),
    )


def stricter(one: Tolerance, other: Tolerance) -> Tolerance:
    return Tolerance(*(min(a, b) for a, b in zip(astuple(one), astuple(other), strict=True)))


def run_selftest(runner: Runner, vectors: GoldenVectors, limits: Golden, calibration: Calibration) -> SelfTestReport:
    """Score the golden images with an entered runner. EngineError, naming every figure beyond its limit, if any is."""
    found = infer_all(runner, vectors.inputs)
    qdq_limit = stricter(limits.qdq, runner.qdq_limit) if runner.qdq_limit else limits.qdq
    outputs, recorded = found.named(), vectors.qdq.named()
    if outputs.keys() != recorded.keys():
        raise EngineError(
            f"self-test of {runner.name}: found outputs {', '.join(outputs)}; the bundle's heads give {', '.join(recorded)}; "
            "set engine.runtime: onnxruntime, which gives them all"
        )
    for name, have in outputs.items():
        want = recorded[name]
        if have.shape != want.shape:
            raise EngineError(
                f"self-test of {runner.name}: {name}: found shape {list(have.shape)}; the bundle's heads say "
                f"{list(want.shape)}; this engine was not built from this bundle"
            )
        if not np.isfinite(have).all():
            raise EngineError(
                f"self-test of {runner.name}: {name}: found values that are not finite; do not use this engine"
            )
    report = SelfTestReport(
        count=len(vectors.inputs),
        fp32=difference(found, vectors.fp32, calibration),
        qdq=difference(found, vectors.qdq, calibration),
    )
    beyond = [
        f"{figure} differs from {reference} by {getattr(measured, figure):.4g} (limit {getattr(limit, figure):.4g})"
        for reference, measured, limit in (
            ("PyTorch's FP32 outputs", report.fp32, limits.fp32),
            ("the canonical graph's outputs", report.qdq, qdq_limit),
        )
        for figure in ("probability", "embedding", "map")
        if getattr(measured, figure) > getattr(limit, figure)
    ]
    if beyond:
        raise EngineError(
            f"self-test of {runner.name} on {report.count} golden images: {'; '.join(beyond)}. "
            "This engine does not compute what was validated: rebuild it, or use another runner"
        )
    return report
