"""The last step of the gate: the engine, judged on the machine where it runs, over stored crops.

The workstation packs held-out crops with PyTorch's answers into one .npz (`hygroma validate RECIPE --crops FILE`); the TensorRT
host compares (`hygroma validate --engine --crops FILE`). It needs no torch. The file holds images of the data set:
it is never committed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle
from edge.engines.onnxruntime_runner import OUTPUT_NAMES, OnnxRuntimeRunner
from edge.engines.runner import RawOutputs, Runner
from edge.engines.selftest import difference, infer_all, sigmoid
from edge.errors import InputError
from export import metrics
from export.atomic import appearing
from export.gate import DEFAULT_LIMITS, GateLimits, gate


@dataclass(frozen=True)
class StoredCrops:
    """Held-out crops uint8 [N,1,S,S], labels {0,1} [N] (1: hygroma), ids [N], and what PyTorch FP32 gave for them."""

    crops: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]
    fp32: RawOutputs


def save_crops(data: StoredCrops, path: Path) -> None:
    """Write `path`, an .npz, at once."""
    arrays = {"crops": data.crops, "labels": np.asarray(data.labels, np.int8), "ids": np.asarray(data.ids, np.str_)}
    arrays |= {f"fp32_{name}": np.asarray(getattr(data.fp32, name), np.float32) for name in OUTPUT_NAMES}
    with appearing(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)  # type: ignore[arg-type]


def load_crops(path: Path) -> StoredCrops:
    """InputError for anything that `save_crops` did not write."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); write it with `hygroma validate RECIPE --crops FILE`"
        ) from error
    missing = {"crops", "labels", "ids", *(f"fp32_{name}" for name in OUTPUT_NAMES)} - set(found)
    if missing:
        raise InputError(
            f"{path}: {', '.join(sorted(missing))} missing; write it with `hygroma validate RECIPE --crops FILE`"
        )
    crops, n = found["crops"], len(found["labels"])
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != 1 or crops.shape[2] != crops.shape[3]:
        raise InputError(f"{path}: crops: found {crops.dtype} {list(crops.shape)}; expected uint8 [N,1,S,S]")
    if n == 0 or any(len(array) != n for array in found.values()):
        raise InputError(
            f"{path}: found { ({name: len(array) for name, array in found.items()}) } entries; expected equal, > 0"
        )
    if not np.isin(found["labels"], (0, 1)).all():
        raise InputError(f"{path}: labels: found {sorted(set(found['labels'].tolist()))[:5]}; expected 0 and 1 alone")
    wrong = [name for name in OUTPUT_NAMES if found[f"fp32_{name}"].dtype != np.float32
             or not np.isfinite(found[f"fp32_{name}"]).all()]  # fmt: skip
    if wrong:
        raise InputError(f"{path}: fp32_{wrong[0]}: expected finite float32; write it again with `hygroma validate`")
    fp32 = RawOutputs(*(found[f"fp32_{name}"] for name in OUTPUT_NAMES))
    return StoredCrops(crops, found["labels"], [str(name) for name in found["ids"]], fp32)


def require_size(bundle: Bundle, data: StoredCrops) -> None:
    """InputError when the crops are not of the bundle's size: to be asked before minutes of building."""
    if data.crops.shape[2] != (size := bundle.manifest.input.size):
        raise InputError(
            f"crops: found {data.crops.shape[2]} pixels; this bundle takes {size}; pack them with its recipe"
        )


def engine_report(
    bundle: Bundle, engine: Runner, data: StoredCrops, limits: GateLimits = DEFAULT_LIMITS, threads: int = 1
) -> dict[str, Any]:
    """Each conversion step's GateResult, the 95 % bound of the positives it loses, McNemar's exact p and largest differences, as
    JSON values: PyTorch -> canonical graph (ONNX Runtime, here), PyTorch -> engine, canonical graph -> engine.
    `passed`: whether the engine passed against PyTorch.

    InputError when the crops are not of the bundle's size.
    """
    require_size(bundle, data)
    manifest = bundle.manifest
    with OnnxRuntimeRunner(bundle.model, threads) as canonical:
        qdq = infer_all(canonical, data.crops)
    for name in OUTPUT_NAMES:
        recorded, own = getattr(data.fp32, name).shape, getattr(qdq, name).shape
        if recorded != own:
            raise InputError(
                f"crops: fp32_{name}: found {list(recorded)}; this bundle's model gives {list(own)}; pack them with its recipe"
            )
    with engine:
        found = infer_all(engine, data.crops)
    steps = {}
    for name, reference, converted in (
        ("pytorch-fp32 -> qdq", data.fp32, qdq),
        (f"pytorch-fp32 -> {engine.name}", data.fp32, found),
        (f"qdq -> {engine.name}", qdq, found),
    ):
        before, after = (sigmoid(o.hygroma / manifest.calibration.hygroma_temperature) for o in (reference, converted))
        threshold = manifest.operating_point.hygroma_threshold
        result = gate(data.labels, before, after, threshold, data.ids, limits)
        steps[name] = {
            **asdict(result),
            "positives_lost_bound": metrics.upper_bound(result.positives_lost, result.positives)
            if result.positives
            else None,
            "mcnemar_p": metrics.mcnemar(data.labels.astype(bool), before >= threshold, after >= threshold),
            "largest": asdict(difference(converted, reference, manifest.calibration)),
        }
    return {
        "bundle": bundle.label,
        "engine": engine.name,
        "n": len(data.labels),
        "positives": int(np.asarray(data.labels).astype(bool).sum()),
        "steps": steps,
        "passed": bool(steps[f"pytorch-fp32 -> {engine.name}"]["passed"]),
    }
