"""4-fold cross-validation on a user's own images (the protocol of arXiv 2512.22730): a recipe's stages, stopped at the folds'
teachers, or at its baseline.

Folds are grouped by patient and stratified by finding; training stops on patients set aside inside the training folds; every
image is predicted once, by the model that never saw its patient. The folder is a recipe's `work`, with the recipe in it:
`hygroma export` goes on from there, and trains no fold again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.dataset import UNKNOWN
from calibration.images import read_image
from edge.errors import ConfigError
from edge.screen.preprocess import Preprocessing
from edge.screen.still import read_still
from export.atomic import LOCK, alone, appearing, require_beside
from export.data import open_data
from export.jobs import load_ray
from export.phantoms import Progress
from export.pipeline import RECIPE, Pipeline
from export.recipe import PATCH, BaselineRecipe, Recipe, StudentRecipe, TeacherRecipe, checked, load_recipe
from export.report.paper import BASELINE, POOLED, TEACHER, write_paper
from export.report.records import Paper
from export.runs import run_recipe
from export.training.finetune import open_device
from export.training.systems import System

NEW_HEADS = 3.0  # factor on the rate of heads that start from nothing, as every system here has it
REPORT = "crossval.json"  # beside the table
HERE = ("data", "work", "threads")  # keys of a recipe that decide no weights


@dataclass(frozen=True)
class Settings:
    """epochs: at most; patience: epochs without improvement before a fold stops; lr: peak learning rate, None for the
    system's own; threads: of the CPU, per job."""

    epochs: int = 50
    patience: int = 10
    batch: int = 32
    lr: float | None = None
    seed: int = 0
    threads: int = 2


def recipe_of(data: Sequence[Path], system: System, out: Path, positive: str, settings: Settings) -> Recipe:
    """The recipe whose folds' teachers, or baselines, are the cross-validation. Nothing is drawn. ConfigError where it cannot
    work."""
    s, own = settings, system.schedule(settings.epochs, settings.batch, settings.seed, settings.lr)
    vit, baseline = system.vit, BaselineRecipe()
    if vit is None:  # an export needs a teacher besides: whoever wants one writes it into the recipe
        teacher = TeacherRecipe("random", epochs=s.epochs, frozen_blocks=0, patience=s.patience)
        side = system.image if system.image % PATCH else 0  # DenseNet takes any; else it is the recipe's
        baseline = BaselineRecipe(system.name, system.start, side, s.epochs, s.patience, s.lr)
    else:
        teacher = TeacherRecipe(
            system.start, vit.width, vit.depth, vit.heads, vit.layer_scale, s.epochs, own.lr, own.layer_decay,
            frozen_blocks=0, new_heads=NEW_HEADS, patience=s.patience,
        )  # fmt: skip
    blocks = list(range(max(1, teacher.depth // 2)))
    recipe = Recipe(
        data=[str(path.resolve()) for path in data],
        work=str(out.resolve()),
        name="site",
        version="1.0.0",
        teacher=teacher,
        positive=positive,
        lesions=False,
        image=-(-system.image // PATCH) * PATCH,
        tap=min(3, len(blocks)),
        seed=s.seed,
        batch=s.batch,
        threads=s.threads,
        student=StudentRecipe(blocks=blocks, frozen_blocks=0),
        baseline=baseline,
    )
    return checked(recipe, "crossval")


def require_free(recipe: Recipe) -> None:
    """ConfigError where the recipe's `work` cannot be a new folder, or one that the same settings made."""
    out = Path(recipe.work)
    for source in map(Path, recipe.data):
        if source.is_dir():  # beside a table nothing is read but what it names
            require_beside(out, source)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    path = out / RECIPE
    if out.is_dir() and not path.is_file() and any(found.name != LOCK for found in out.iterdir()):
        raise ConfigError(f"--out {out}: holds something else; give an empty or a new folder")
    if not path.is_file():
        return
    known, made = (_flat(asdict(one)) for one in (load_recipe(path), recipe))
    if wrong := [f"{key}: found {known[key]!r}, now {made[key]!r}" for key in made if known[key] != made[key]]:
        raise ConfigError(
            f"{path}: made otherwise ({'; '.join(wrong)}); give another --out, or cross-validate what it says: "
            f"hygroma crossval {path}"
        )


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """Key -> value, as a recipe's file names them, without HERE; a checkpoint by its name, since its bytes are held against those
    that trained (export/stamps.py)."""
    out: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            out |= {f"{key}.{name}": Path(v).name if name == "init" else v for name, v in value.items()}
        elif key not in HERE:
            out[key] = value
    return out


def cross_validate(
    recipe: Recipe,
    device: str = "cpu",
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total: None,
    teacher: bool = True,
) -> dict[str, Any]:
    """The report, also in the recipe's `work`. Goes on where an earlier call with the same settings was cut off. teacher: False
    for the baseline alone. InputError or ConfigError before anything is trained when data, settings or device cannot work."""
    if ray_address is None:
        open_device(device)
    else:
        load_ray()
    open_data(recipe).require_findings()
    out = Path(recipe.work)
    with alone(out, "a cross-validation"):
        pipeline = run_recipe(
            recipe, "crossval" if teacher else "baseline", device=device, ray_address=ray_address, progress=progress
        )
        table = write_paper(pipeline.cross_validated(teacher), pipeline.starts(), out / "report")
        return _report(pipeline, table, TEACHER if teacher else BASELINE)


def _report(pipeline: Pipeline, table: Paper, form: str) -> dict[str, Any]:
    """Of the form that was cross-validated in detail, of all in "paper"."""
    data, recipe = pipeline.data, pipeline.recipe
    found = [still for still in data.trained if still.hygroma != UNKNOWN]
    classes: dict[str, set[float]] = {}
    for still in found:
        classes.setdefault(still.group, set()).add(still.hygroma)
    row = next(row for row in table["forms"] if row["form"] == form)
    part = recipe.baseline if form == BASELINE else recipe.teacher
    folds = [
        {
            "fold": fold,
            **pipeline.how_trained(form, fold),
            "threshold": row["thresholds"][f"fold {fold}"],
            "figures": row["figures"][f"fold {fold}"],
        }
        for fold in table["folds"]
    ]
    report = {
        "out": recipe.work,
        "form": form,
        "start": row["start"],
        "image": recipe.baseline_system.image if form == BASELINE else recipe.image,
        "epochs": part.epochs,
        "patience": part.patience,
        "batch": recipe.batch,
        "classes": list(data.nuchal.classes),
        "seed": recipe.seed,
        "patients known": data.nuchal.patients_known,
        "images": table["images"],
        "positives": table["positives"],
        "patients": table["patients"],
        "patients in both classes": sum(len(kinds) == 2 for kinds in classes.values()),
        "sites": len({still.site for still in found}),
        "by site": row["by site"],
        "signals": dict(Counter(_signal(still.path, recipe.image) for still in found)),
        "precision": sorted({name for fold in folds for name in fold["precision"]}),
        "folds": folds,
        "pooled": row["figures"][POOLED],
        "paper": table,
    }
    with appearing(Path(recipe.work) / "report" / REPORT) as unfinished:
        unfinished.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _signal(path: Path, size: int) -> str:
    """What the daemon would say of a still."""
    return read_still(read_image(path), Preprocessing(size=size)).signal.value
