"""Score-CAM overlays of a cross-validation or an export: each image explained by the fold's model that never saw it; and, where a
reader drew boxes, how much of each class's maps lies inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from export.pipeline import RECIPE, Pipeline
from export.recipe import load_recipe
from export.report.evidence import entry_id
from export.report.localise import localisation_row
from export.report.paper import BASELINE, STUDENT, TEACHER
from export.report.records import Localisation
from export.report.score_cam import score_cam
from export.site.boxes import own_boxes, read_boxes
from export.site.crossed import load_crossed
from export.stages.baseline import trained_baseline
from export.stages.crops import run_name
from export.training.augment import Box

# Forms whose models PyTorch runs -> the stages that make one, and a fold's finished file in each.
EXPLAINED: dict[str, dict[str, tuple[str, ...]]] = {
    TEACHER: {"teacher": ("pt", "plane.pt")},
    STUDENT: {"student": ("pt",), "heads": ("pt",)},
    BASELINE: {"baseline": ("npz",)},
}
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
    among them. form: of EXPLAINED; left out: the teacher, or what there is. boxes: a table (export/site/boxes.py); left out: the
    data set's own nt_box. A class with boxes then has only images with one explained, and a row of `localisation_row` of its own,
    the second list; it is empty without boxes. data: where the data sets lie now, if they were moved. InputError when `folder` is
    no finished cross-validation, its models are gone or the boxes are wrong, ConfigError when `out` cannot be written."""
    crossed = load_crossed(folder, form)
    if crossed.form not in EXPLAINED:
        raise InputError(f"{folder}: --form: found {crossed.form!r}; maps are made of {', '.join(EXPLAINED)}")
    if problem := why_unwritable(out):
        raise ConfigError(f"--out: {problem}; name a folder that this user may write")
    recipe = load_recipe(folder / RECIPE)
    pipeline = Pipeline(replace(recipe, data=[str(source.resolve()) for source in data] or recipe.data), refit=False)
    answers, shown = crossed.answers, _Shown(pipeline, crossed.form)
    index = shown.indices(answers.names)
    drawn = shown.boxes(answers.names, index, boxes)
    chosen = np.concatenate(
        [_spread(crossed.probability, _pool(answers.labels == kind, drawn), each) for kind in (0, 1)]
    )
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    cams: dict[int, np.ndarray] = {}
    models: dict[int, nn.Module] = {}
    classes, decisions = pipeline.data.nuchal.classes, crossed.decisions
    for number, i in enumerate(chosen.tolist()):

        def channel(done: int, total: int, number: int = number) -> None:
            on_step(number, len(chosen), f"channel {done}/{total}")

        on_step(number, len(chosen), "loading the fold's model")
        fold = int(answers.folds[i])
        if fold not in models:
            models[fold] = shown.model(fold)
        label = classes[int(answers.labels[i])]
        path = out / f"{number:03d}-{label}-{Path(answers.names[i]).stem.replace(':', '-')}.png"
        crop = shown.crops([index[i]])[0]
        cams[i] = score_cam(models[fold], crop, channel)
        _write(path, crop, cams[i])
        rows.append({
            "path": answers.names[i], "label": label, "probability": float(crossed.probability[i]), "fold": fold,
            "decision": classes[int(decisions[i])], "overlay": str(path),
        })  # fmt: skip
    located: list[Localisation] = []
    for kind, name in enumerate(classes):
        if own := [i for i in cams if i in drawn and answers.labels[i] == kind]:
            maps = np.stack([cams[i] for i in own])
            groups = [answers.groups[i] for i in own]
            located.append(localisation_row(f"Score-CAM, {name}", maps, [drawn[i] for i in own], groups))
    return rows, located


class _Shown:
    """What a form's models are shown of a work folder's images, and the models."""

    def __init__(self, pipeline: Pipeline, form: str):
        for stage in EXPLAINED[form]:
            pipeline.stamps.check(stage)
        self.pipeline, self.form, self.bank = pipeline, form, pipeline.taught_crops.bank
        recipe = pipeline.recipe
        config = recipe.student_config if form == STUDENT else recipe.teacher_config
        self.spec = Preprocessing(size=recipe.baseline_system.image if form == BASELINE else config.image)

    def indices(self, names: Sequence[str]) -> list[int]:
        """In the bank, of images as the answers name them."""
        stills = self.pipeline.data.stills
        known = {
            stills[entry.still].name if entry.source == "real" else entry_id(entry, i): i
            for i, entry in enumerate(self.bank.entries)
            if entry.still >= 0 and entry.source != "cleaned"
        }
        return [known[name] for name in names]

    def crops(self, index: Sequence[int]) -> np.ndarray:
        """uint8 [n,S,S]."""
        return self.pipeline.taught_crops.of(np.array(index, int), self.spec)

    def boxes(self, names: Sequence[str], index: Sequence[int], table: Path | None) -> dict[int, Box]:
        """Place among the answers -> nuchal box that a reader drew, in fractions of the crop. table: in place of the
        data set's."""
        entries, known = [self.bank.entries[i] for i in index], self.pipeline.data.stills
        stills = {name: known[e.still] for name, e in zip(names, entries, strict=True) if e.source == "real"}
        found = own_boxes(stills, self.spec.size) if table is None else read_boxes(table, stills, self.spec.size)
        return {place: found[name] for place, name in enumerate(names) if name in found}

    def model(self, fold: int) -> nn.Module:
        """A fold's, as it predicted. InputError where its weights are gone: nothing is trained here."""
        pipeline, name = self.pipeline, run_name(fold)
        for stage, endings in EXPLAINED[self.form].items():
            for path in (pipeline.stamps.folder(stage) / f"{name}.{ending}" for ending in endings):
                if not path.is_file():
                    raise InputError(
                        f"{path}: missing; run the same `hygroma crossval` or `hygroma export` again to have it made"
                    )
        if self.form == BASELINE:
            best = int(pipeline.baseline(fold)["best"][0])
            return trained_baseline(pipeline.recipe.baseline_system, pipeline.stamps.folder(BASELINE) / name, best)
        return pipeline.student(fold) if self.form == STUDENT else pipeline.teacher(fold)


def _pool(of_class: np.ndarray, drawn: dict[int, Box]) -> np.ndarray:
    """Indices of a class's images with a box; of all of them where none has."""
    own = np.flatnonzero(of_class)
    boxed = own[np.isin(own, list(drawn))]
    return boxed if len(boxed) else own


def _spread(probability: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    ordered = indices[np.argsort(-probability[indices], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
    return np.asarray(ordered[np.unique(places.round().astype(int))])


def _write(path: Path, crop: np.ndarray, cam: np.ndarray) -> None:
    plain = cv2.cvtColor(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    picture = cv2.imencode(".png", np.hstack([plain, heat_overlay(crop, cam, SIDE)]))[1]
    with appearing(path) as unfinished:
        unfinished.write_bytes(picture.tobytes())
