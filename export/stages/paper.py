"""crossval: what a fold's teacher says of images that it never saw; and the paper's table of every form that was judged on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from calibration.bank import Entry
from calibration.images import read_grey
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing
from edge.screen.still import read_still
from export.model.vit import HygromaViT
from export.recipe import Recipe
from export.report.evidence import entry_id
from export.report.paper import BASELINE, NAMES, REAL, SIMULATED, TEACHER, Answers, paper, thresholds
from export.report.records import Paper
from export.stages.crops import Crops
from export.training.systems import RANDOM, USF_MAE, VIT_RANDOM, System
from export.training.train import predict
from export.training.watched import group_of

Said = Mapping[str, np.ndarray]  # "index" [n] into the bank, "<form>_hygroma" [n]


def teacher_says(teacher: HygromaViT, crops: Crops, run: int, device: torch.device) -> dict[str, np.ndarray]:
    """"index" [n] into the bank, of a run's held-out entries; "teacher_hygroma" [n], probabilities."""
    keep = crops.held_out(run)
    logits = predict(teacher, crops.of(keep, Preprocessing(size=teacher.config.image)), device=device)["hygroma"]
    return {"index": keep, "teacher_hygroma": sigmoid(logits).astype(np.float32)}


def answers(crops: Crops, folds: Mapping[int, Sequence[Said]]) -> Answers:
    """What every form that all folds have says of the held-out images that the gate is judged on, in the bank's order. folds: fold ->
    what was said, of the baseline and of the others. InputError where no fold has any."""
    entries = crops.bank.entries
    said = {fold: _by_form(found) for fold, found in folds.items()}
    forms = [form for form in NAMES if all(form in found for found in said.values())]
    rows = [
        (i, fold)
        for fold, found in said.items()
        for i in sorted(set.intersection(*(set(found[form]) for form in forms)) if forms else ())
        if crops.gated(entries[i])
    ]
    if not rows:
        raise InputError("no held-out image has a finding; add images of both classes to the table")
    rows.sort()
    probability = {form: np.array([said[fold][form][i] for i, fold in rows]) for form in forms}
    labels, where = np.array([int(entries[i].hygroma) for i, _ in rows]), np.array([fold for _, fold in rows])
    return Answers(
        [_name(crops, entries[i], i) for i, _ in rows],
        labels,
        [group_of(crops.bank, i) for i, _ in rows],
        [crops.stills[entries[i].still].site if entries[i].still >= 0 else "" for i, _ in rows],
        where,
        REAL if crops.judged_on_real else SIMULATED,
        probability,
        thresholds(labels, where, probability),
    )


def _by_form(found: Sequence[Said]) -> dict[str, dict[int, float]]:
    """Form -> index into the bank -> probability."""
    return {
        form: dict(zip(said["index"].tolist(), said[f"{form}_hygroma"].tolist(), strict=True))
        for said in found
        for form in NAMES
        if f"{form}_hygroma" in said
    }


def named(crops: Crops) -> dict[int, str]:
    """Index into the bank -> what predictions.csv calls it, of what the gate may be judged on."""
    return {i: _name(crops, entry, i) for i, entry in enumerate(crops.bank.entries) if crops.gated(entry)}


def _name(crops: Crops, entry: Entry, index: int) -> str:
    """An untouched image is called as the data set calls it."""
    return crops.stills[entry.still].name if entry.source == "real" else entry_id(entry, index)


def starts(recipe: Recipe, forms: Sequence[str]) -> dict[str, str]:
    """Form -> what it started from; what was made of a teacher started as that did."""
    own = {BASELINE: recipe.baseline.init}
    return {form: System("", own.get(form, recipe.teacher.init), recipe.image, None).described_start() for form in forms}


def record(recipe: Recipe, found: Answers) -> Paper:
    """The paper's table."""
    return paper(found, starts(recipe, found.forms))


def signals(crops: Crops, found: Answers) -> dict[str, int]:
    """What the screen reader says of the untouched ones of these images: "OK", "DUAL", ... -> how many."""
    paths, spec = {still.name: still.path for still in crops.stills}, crops.spec
    return dict(Counter(read_still(read_grey(paths[name]), spec).signal.value for name in found.names if name in paths))


def system_of(recipe: Recipe, form: str) -> str:
    """As `hygroma crossval --system` calls it; what is made of a teacher, by its form."""
    if form == BASELINE:
        return recipe.baseline.system
    return (VIT_RANDOM if recipe.teacher.init == RANDOM else USF_MAE) if form == TEACHER else form


def report(
    recipe: Recipe,
    found: Answers,
    classes: tuple[str, str],
    patients_known: bool,
    seen: Mapping[str, int],
    trained: Callable[[str, int], Mapping[str, Any]],
) -> dict[str, Any]:
    """What report.json says: of the first form in detail (the teacher, else the baseline), of all in "paper". seen: of `signals`;
    trained: (form, fold) -> how that was trained."""
    table = record(recipe, found)
    form = TEACHER if TEACHER in found.forms else BASELINE
    row = next(row for row in table["forms"] if row["form"] == form)
    positive = {group for group, label in zip(found.groups, found.labels, strict=True) if label}
    negative = {group for group, label in zip(found.groups, found.labels, strict=True) if not label}
    part = recipe.baseline if form == BASELINE else recipe.teacher
    return {
        "form": form,
        "system": system_of(recipe, form),
        "start": row["start"],
        "image": recipe.baseline_system.image if form == BASELINE else recipe.image,
        "epochs": part.epochs,
        "patience": part.patience,
        "batch": recipe.batch,
        "seed": recipe.seed,
        "kind": found.kind,
        "classes": list(classes),
        "patients known": patients_known,
        "images": table["images"],
        "positives": table["positives"],
        "patients": table["patients"],
        "patients in both classes": len(positive & negative),
        "sites": len(set(found.sites)),
        "by site": row["by site"],
        "signals": dict(seen),
        "folds": [
            {
                "fold": fold,
                **trained(form, fold),
                "threshold": row["thresholds"][f"fold {fold}"],
                "figures": row["figures"][f"fold {fold}"],
            }
            for fold in table["folds"]
        ],
        "pooled": row["figures"]["pooled"],
        "paper": table,
        "recipe": asdict(recipe),
    }
