"""Score-CAM overlays of the folds' models in a work folder of `hygroma crossval` or `export`: each image explained by the model that
never saw it; and, where a reader drew boxes, how much of each class's maps lies inside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import nn

from edge.errors import ConfigError, InputError
from edge.events.disk import why_unwritable
from edge.events.evidence import heat_overlay
from edge.screen.preprocess import Preprocessing
from export.atomic import appearing
from export.pipeline import Pipeline
from export.recipe import Recipe
from export.report.localise import localisation_row
from export.report.paper import BASELINE, STUDENT, TEACHER
from export.report.records import Localisation
from export.report.score_cam import score_cam
from export.site.boxes import own_boxes, read_boxes
from export.site.work import load_run
from export.stages.baseline import trained_baseline
from export.stages.crops import run_name
from export.stages.paper import named

FORMS = {TEACHER: ("teacher",), STUDENT: ("student", "heads"), BASELINE: ("baseline",)}  # with layers to ask -> their stages
SIDE = 384  # pixels of either half of an overlay: cells of a 14 x 14 map stay visible


def explain(
    folder: Path,
    out: Path,
    each: int,
    form: str = "",
    boxes: Path | None = None,
    data: Sequence[Path] = (),
    on_step: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> tuple[list[dict[str, Any]], list[Localisation]]:
    """Write `each` overlays a class to `out`, PNG: the crop, and the map over it. A row an overlay: path, label, probability,
    decision, fold, overlay. Taken evenly over the class in the order of their probability, so that wrong ones are
    among them. form: of FORMS; "" for the teacher, where there is none the baseline. boxes: a table (export/site/boxes.py), in place
    of the data set's own; a class with boxes then has only images with one explained, and a row of `localisation_row` of its own,
    the second list; it is empty without boxes. data: where the data sets lie now, if they were moved. InputError when `folder` holds
    nothing finished, the models are gone or the boxes are wrong, ConfigError when `out` cannot be written."""
    run = load_run(folder, form)
    if run.form not in FORMS:
        raise InputError(f"--form: found {run.form}, which has no layers to ask; expected one of {', '.join(FORMS)}")
    if problem := why_unwritable(out):
        raise ConfigError(f"--out: {problem}; name a folder that this user may write")
    recipe = dataclasses.replace(run.recipe, data=[str(source.resolve()) for source in data] or run.recipe.data)
    pipeline = Pipeline(recipe)
    for stage in FORMS[run.form]:
        pipeline.stamps.check(stage)
    crops, spec = pipeline.taught_crops, Preprocessing(size=_side(recipe, run.form))
    index = {name: i for i, name in named(crops).items()}
    entries = crops.bank.entries
    stills = {name: crops.stills[e.still] for name in run.paths if (e := entries[index[name]]).source == "real"}
    drawn = own_boxes(stills, spec.size) if boxes is None else read_boxes(boxes, stills, spec.size)
    boxed = np.array([name in drawn for name in run.paths])
    chosen = np.concatenate([_spread(run.probability, _pool(run.labels == kind, boxed), each) for kind in (0, 1)])
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    cams: dict[int, np.ndarray] = {}
    models: dict[int, nn.Module] = {}
    for number, i in enumerate(chosen.tolist()):
        def channel(done: int, total: int, number: int = number) -> None:
            on_step(number, len(chosen), f"channel {done}/{total}")

        on_step(number, len(chosen), "loading the fold's model")
        fold = int(run.folds[i])
        if fold not in models:
            models[fold] = _trained(pipeline, run.form, fold)
        crop = crops.of(np.array([index[run.paths[i]]]), spec)[0]
        label = run.report["classes"][int(run.labels[i])]
        path = out / f"{number:03d}-{label}-{Path(run.paths[i]).stem.replace(':', '-')}.png"
        cams[i] = score_cam(models[fold], crop, channel)
        _write(path, crop, cams[i])
        rows.append({
            "path": run.paths[i], "label": label, "probability": float(run.probability[i]), "fold": fold,
            "decision": run.report["classes"][int(run.decisions[i])], "overlay": str(path),
        })  # fmt: skip
    located: list[Localisation] = []
    for kind, name in enumerate(run.report["classes"]):
        if own := [i for i in cams if boxed[i] and run.labels[i] == kind]:
            maps = np.stack([cams[i] for i in own])
            groups = [run.groups[i] for i in own]
            located.append(localisation_row(f"Score-CAM, {name}", maps, [drawn[run.paths[i]] for i in own], groups))
    return rows, located


def _side(recipe: Recipe, form: str) -> int:
    """Input side, pixels."""
    if form == BASELINE:
        return recipe.baseline_system.image
    return (recipe.teacher_config if form == TEACHER else recipe.student_config).image


def _trained(pipeline: Pipeline, form: str, fold: int) -> nn.Module:
    """A fold's finished model. InputError where its weights are gone or damaged: explaining trains nothing."""
    name, stamps = run_name(fold), pipeline.stamps
    needed = {
        TEACHER: [stamps.folder("teacher") / f"{name}.pt", stamps.folder("teacher") / f"{name}.plane.pt"],
        STUDENT: [stamps.folder("student") / f"{name}.pt", stamps.folder("heads") / f"{name}.pt"],
        BASELINE: [stamps.folder("baseline") / f"{name}.npz"],
    }[form]
    for path in needed:
        if not path.is_file():
            raise InputError(f"{path}: missing; call `hygroma crossval`, or `export`, again: that fold is trained anew")
    if form == BASELINE:
        best = int(pipeline.baseline(fold)["best"][0])
        return trained_baseline(pipeline.recipe.baseline_system, stamps.folder("baseline") / name, best)
    return pipeline.teacher(fold) if form == TEACHER else pipeline.student(fold)


def _pool(of_class: np.ndarray, boxed: np.ndarray) -> np.ndarray:
    """Indices of a class's images with a box; of all of them where none has."""
    own = np.flatnonzero(of_class & boxed)
    return own if len(own) else np.flatnonzero(of_class)


def _spread(probability: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    ordered = indices[np.argsort(-probability[indices], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
    return np.asarray(ordered[np.unique(places.round().astype(int))])


def _write(path: Path, crop: np.ndarray, cam: np.ndarray) -> None:
    plain = cv2.cvtColor(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    picture = cv2.imencode(".png", np.hstack([plain, heat_overlay(crop, cam, SIDE)]))[1]
    with appearing(path) as unfinished:
        unfinished.write_bytes(picture.tobytes())
