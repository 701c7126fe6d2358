"""The last step of the gate: the engine, judged on the machine where it runs, over stored crops.

The workstation packs held-out crops with PyTorch's answers into one .npz (`hygroma validate RECIPE --crops FILE`); the TensorRT
host compares (`hygroma validate --engine --crops FILE`). It needs no torch. The file holds images of the data set:
it is never committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle
from edge.bundle.manifest import Manifest
from edge.engines.onnxruntime_runner import OUTPUT_NAMES, OnnxRuntimeRunner
from edge.engines.runner import RawOutputs, Runner
from edge.engines.selftest import difference, infer_all, sigmoid
from edge.errors import InputError
from export.atomic import appearing
from export.report import metrics
from export.report.gate import DEFAULT_LIMITS, GateLimits, gate

FP32 = tuple(f"fp32_{name}" for name in OUTPUT_NAMES)
FIX = "write it with `hygroma validate RECIPE --crops FILE`"


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
    arrays |= {
        key: np.asarray(getattr(data.fp32, name), np.float32) for key, name in zip(FP32, OUTPUT_NAMES, strict=True)
    }
    with appearing(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)  # type: ignore[arg-type]


def load_crops(path: Path) -> StoredCrops:
    """InputError for anything that `save_crops` did not write."""
    found = _arrays(path)
    shapes = {name: list(array.shape) for name, array in found.items()}
    crops, labels, ids = found["crops"], found["labels"], found["ids"]
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != 1 or crops.shape[2] != crops.shape[3]:
        raise _wrong(path, f"crops: found {crops.dtype} {shapes['crops']}; expected uint8 [N,1,S,S]")
    if not len(crops) or any(shape[:1] != [len(crops)] for shape in shapes.values()):
        raise _wrong(path, f"found entries of shapes {shapes}; expected as many of each, > 0")
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise _wrong(path, f"labels: found {labels.dtype} {shapes['labels']}; expected integers [N]")
    if (classes := sorted(set(labels.tolist()))) != [0, 1]:
        raise _wrong(path, f"labels: found {classes[:5]}; expected 0 and 1, some of both and nothing else")
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise _wrong(path, f"ids: found {ids.dtype} {shapes['ids']}; expected text [N]")
    for name in FP32:
        if found[name].dtype != np.float32:
            raise _wrong(path, f"{name}: found {found[name].dtype}; expected float32")
        if odd := int((~np.isfinite(found[name])).sum()):
            raise _wrong(path, f"{name}: found {odd} values that are no numbers; expected finite ones")
    return StoredCrops(crops, labels, [str(name) for name in ids], RawOutputs(*(found[name] for name in FP32)))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of what `save_crops` writes, and nothing else that the file holds. InputError when any cannot be read."""
    names = ("crops", "labels", "ids", *FP32)
    found: dict[str, np.ndarray] = {}
    name = ""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            if missing := sorted(set(names) - set(archive.files)):
                raise _wrong(path, f"{', '.join(missing)} missing, found {', '.join(archive.files) or 'nothing'}")
            for name in names:
                found[name] = np.asarray(archive[name])
    except InputError:
        raise
    except Exception as error:  # zlib, zipfile and numpy have classes of their own for this
        if isinstance(error, OSError) and error.strerror:
            what = f"cannot be read ({error.strerror})"
        else:
            what = (
                f"{name}: damaged, or not an array of numbers or text" if name else "no .npz archive, or one cut short"
            )
        raise _wrong(path, what) from error
    return found


def _wrong(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; {FIX}")


def require_size(bundle: Bundle, data: StoredCrops) -> None:
    """InputError when the crops are not of the bundle's size: to be asked before minutes of building."""
    if data.crops.shape[2] != (size := bundle.manifest.input.size):
        raise InputError(
            f"crops: found {data.crops.shape[2]} pixels; this bundle takes {size}; pack them with its recipe"
        )


def engine_report(
    bundle: Bundle, engine: Runner, data: StoredCrops, limits: GateLimits = DEFAULT_LIMITS, threads: int = 1
) -> dict[str, Any]:
    """Each conversion step's GateResult, the 95 % bound of the positives it loses, McNemar's exact p, largest differences and
    what it does to the plane head's decisions, which are reported and not gated, as JSON values: PyTorch -> canonical graph (ONNX
    Runtime, here), PyTorch -> engine, canonical graph -> engine.
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
            "plane": _planes(reference, converted, manifest),
        }
    return {
        "bundle": bundle.label,
        "engine": engine.name,
        "n": len(data.labels),
        "positives": int(np.asarray(data.labels).astype(bool).sum()),
        "steps": steps,
        "passed": bool(steps[f"pytorch-fp32 -> {engine.name}"]["passed"]),
    }


def _planes(reference: RawOutputs, converted: RawOutputs, manifest: Manifest) -> dict[str, Any]:
    """The plane head's decisions: how many crops are assessable to the reference, how many of those no longer are, how many have
    become so, and how far a probability moved."""
    before, after = (sigmoid(o.plane / manifest.calibration.plane_temperature) for o in (reference, converted))
    was, now = (p >= manifest.operating_point.plane_threshold for p in (before, after))
    dp = np.abs(before.astype(np.float64) - after)
    return {
        "assessable": int(was.sum()), "lost": int((was & ~now).sum()), "gained": int((now & ~was).sum()),
        "max_dp": float(dp.max()), "p99_dp": float(np.percentile(dp, 99)),
    }  # fmt: skip
