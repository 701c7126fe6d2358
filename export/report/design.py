"""How the model was made and how its thresholds were chosen, as the report says it, from the recipe and the thresholds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import edge
from calibration.dataset import FOLDS
from edge.bundle.manifest import OperatingPoint
from export.recipe import Recipe
from export.report.evidence import PLANES_KEPT, SPECIFICITY
from export.report.records import Design

PLACES = ("data", "given", "work")  # keys of the recipe that say where things lie, not what is made


def design(recipe: Recipe, point: OperatingPoint, holdout: bool, on_real: bool, planes: bool) -> Design:
    """The report's part, as JSON values. partition, thresholds, model, code: sentences; settings: key of the recipe, in dots,
    -> value, with those of its schedules that no key decides. holdout: whether images are held out for good; on_real: whether the
    hygroma head's operating point stands on real positives; planes: whether images are labelled by plane."""
    c = recipe.student_config
    kept_apart = "The held-out split is in no fold." if holdout else "No image is held out of all folds."
    judged_at = "The held-out split is judged at those above. " if holdout else ""
    positives = "images with a real finding" if on_real else "simulated lesions, shams and untouched stills"
    kept = f"which {PLANES_KEPT:.0%} of the held-out standard planes reach"
    of_planes = kept if planes else "since no image is labelled by plane"
    return {
        "partition": f"The training stills are put into {FOLDS} folds by patient, stratified by finding and plane where the data "
        "set gives no folds: every still of a patient, and all that was made of it, is in one fold, and copies of a still "
        "count as one "
        f"patient's. Held out in turn: folds {', '.join(map(str, recipe.folds))}. {kept_apart}",
        "thresholds": f"Operating point of the hygroma head: {point.hygroma_threshold:.3f}, the probability below which "
        f"{SPECIFICITY:.0%} of the held-out negatives stay, on {positives}; of the plane head: {point.plane_threshold:.3f}, "
        f"{of_planes}; both of the float student, over all folds. Out of fold they "
        "are cross-fitted: an image is judged at the threshold that the other folds' held-out predictions give. "
        f"{judged_at}The INT8 form is judged at the float student's.",
        "model": f"In: a grey picture of {c.image} x {c.image} pixels, 8 bit. A vision transformer of {c.depth} blocks, "
        f"{c.width} wide, {c.heads} heads, patches of {c.patch} pixels. Out: the probability of a standard plane, that of a "
        f"hygroma, a nuchal map of {c.grid} x {c.grid} cells, and an embedding whose distance from the training images is held "
        "against a limit.",
        "code": f"The Python package hygroma-edge, version {edge.__version__}, with the recipe below; the model is the bundle "
        f"{recipe.name} {recipe.version} that `hygroma export` writes. The data are had from their sources.",
        "settings": _settings(recipe),
    }


def _settings(recipe: Recipe) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in asdict(recipe).items():
        if isinstance(value, dict):
            out |= {f"{key}.{name}": own for name, own in value.items()}
        elif key not in PLACES and value != []:  # heads besides plane and hygroma: none, as a rule
            out[key] = value
    out["teacher.init"] = Path(recipe.teacher.init).name
    for name, schedule in (("teacher", recipe.teacher_schedule(0)), ("student", recipe.student_schedule(0))):
        for key, value in asdict(schedule).items():
            if key not in ("batch", "seed"):  # the recipe's own key, and another one in each fold
                out.setdefault(f"{name}.{key}", value)
    return out
