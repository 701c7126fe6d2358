"""Score-CAM overlays of a finished cross-validation: each image explained by the fold's model that never saw it; and, where a
reader drew boxes, how much of each class's maps lies inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from edge.errors import ConfigError, InputError
from edge.events.disk import why_unwritable
from edge.events.evidence import heat_overlay
from export.atomic import appearing, intact
from export.model.vit import ViTConfig
from export.report.localise import localisation_row
from export.report.records import Localisation
from export.report.score_cam import score_cam
from export.site.boxes import read_boxes
from export.site.crossval import CROPS, load_run
from export.training.augment import Box
from export.training.systems import RANDOM, Classifier, System, build

SIDE = 384  # pixels of either half of an overlay: cells of a 14 x 14 map stay visible


def explain(
    folder: Path,
    out: Path,
    each: int,
    boxes: tuple[Path, Path] | None = None,
    on_step: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> tuple[list[dict[str, Any]], list[Localisation]]:
    """Write `each` overlays a class to `out`, PNG: the crop, and the map over it. A row an overlay: path, label, probability,
    decision, fold, overlay. Taken evenly over the class in the order of their probability, so that wrong ones are
    among them. boxes: a table and the folder that its paths are under (export/site/boxes.py); a class with boxes then has only
    images with one explained, and a row of `localisation_row` of its own, the second list; it is empty without boxes.
    InputError when `folder` is no cross-validation or the boxes are wrong, ConfigError when `out` cannot be written."""
    run = load_run(folder)
    if problem := why_unwritable(out):
        raise ConfigError(f"--out: {problem}; name a folder that this user may write")
    with intact(folder / CROPS), np.load(folder / CROPS) as saved:
        crops = saved["model"]
    drawn = read_boxes(*boxes, run.paths, crops) if boxes else {}
    chosen = np.concatenate([_spread(run.probability, _pool(run.labels == kind, drawn), each) for kind in (0, 1)])
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    cams: dict[int, np.ndarray] = {}
    models: dict[int, Classifier] = {}
    for number, i in enumerate(chosen):
        def channel(done: int, total: int, number: int = number) -> None:
            on_step(number, len(chosen), f"channel {done}/{total}")

        on_step(number, len(chosen), "loading the fold's model")
        fold = int(run.folds[i])
        if fold not in models:
            models[fold] = _trained(folder, run.report, fold)
        label = run.report["classes"][int(run.labels[i])]
        path = out / f"{number:03d}-{label}-{Path(run.paths[i]).stem}.png"
        cams[int(i)] = score_cam(models[fold], crops[i], channel)
        _write(path, crops[i], cams[int(i)])
        rows.append({
            "path": run.paths[i], "label": label, "probability": float(run.probability[i]), "fold": fold,
            "decision": run.report["classes"][int(run.decisions[i])], "overlay": str(path),
        })  # fmt: skip
    located: list[Localisation] = []
    for kind, name in enumerate(run.report["classes"]):
        if own := [i for i in cams if i in drawn and run.labels[i] == kind]:
            maps = np.stack([cams[i] for i in own])
            groups = [run.groups[i] for i in own]
            located.append(localisation_row(f"Score-CAM, {name}", maps, [drawn[i] for i in own], groups))
    return rows, located


def _pool(of_class: np.ndarray, drawn: dict[int, Box]) -> np.ndarray:
    """Indices of a class's images with a box; of all of them where none has."""
    own = np.flatnonzero(of_class)
    boxed = own[np.isin(own, list(drawn))]
    return boxed if len(boxed) else own


def _spread(probability: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    ordered = indices[np.argsort(-probability[indices], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
    return np.asarray(ordered[np.unique(places.round().astype(int))])


def _trained(folder: Path, report: dict[str, Any], fold: int) -> Classifier:
    shape = report["architecture"]
    vit = ViTConfig(**shape) if isinstance(shape, dict) else None
    model = build(System(report["system"], RANDOM, report["image"], vit), 0)
    weights = folder / f"fold{fold}" / report["folds"][fold]["weights"]
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for damaged files
        said = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise InputError(
            f"{weights}: {said}; delete {weights.parent} and call `hygroma crossval` again: that fold is trained anew"
        ) from None
    return model


def _write(path: Path, crop: np.ndarray, cam: np.ndarray) -> None:
    plain = cv2.cvtColor(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    picture = cv2.imencode(".png", np.hstack([plain, heat_overlay(crop, cam, SIDE)]))[1]
    with appearing(path) as unfinished:
        unfinished.write_bytes(picture.tobytes())
