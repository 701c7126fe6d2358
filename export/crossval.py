"""4-fold cross-validation on a user's own images (the protocol of arXiv 2512.22730): a recipe's stages, stopped at the folds' teachers.

Folds are grouped by patient and stratified by finding; training stops on patients set aside inside the training folds; every image
is predicted once, by the model that never saw its patient. The folder is a recipe's `work`, with the recipe in it: `hygroma export`
goes on from there, and trains no fold again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.images import read_image
from edge.errors import ConfigError
from edge.screen.preprocess import Preprocessing
from edge.screen.still import read_still
from export.atomic import LOCK, alone, appearing, require_beside
from export.jobs import load_ray, run_jobs
from export.phantoms import Progress
from export.pipeline import RECIPE, Pipeline
from export.recipe import BaselineRecipe, PhantomRecipe, Recipe, StudentRecipe, TeacherRecipe
from export.report.paper import BASELINE, TEACHER, write_paper
from export.stages.crops import run_name
from export.training.finetune import open_device
from export.training.precision import recorded
from export.training.systems import System

NEW_HEADS = 3.0  # factor on the rate of heads that start from nothing, as every system here has it
REPORT = "crossval.json"  # beside the table


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


@dataclass(frozen=True)
class FoldJob:
    """Everything a fold needs besides the recipe's `work`, for a process that may be on another machine."""

    recipe: Recipe
    fold: int
    teacher: bool
    device: str


def recipe_of(data: list[Path], system: System, out: Path, positive: str, settings: Settings) -> Recipe:
    """The recipe whose folds' teachers, or baselines, are the cross-validation. Nothing is drawn or rendered."""
    s, own = settings, system.schedule(settings.epochs, settings.batch, settings.seed, settings.lr)
    vit, baseline = system.vit, BaselineRecipe()
    if vit is None:
        teacher = TeacherRecipe("random", frozen_blocks=0)
        baseline = BaselineRecipe(system.name, system.start, s.epochs, s.patience, s.lr)
    else:
        teacher = TeacherRecipe(
            system.start, vit.width, vit.depth, vit.heads, vit.layer_scale, s.epochs, own.lr, own.layer_decay,
            frozen_blocks=0, new_heads=NEW_HEADS, patience=s.patience,
        )  # fmt: skip
    blocks = list(range(max(1, teacher.depth // 2)))
    return Recipe(
        data=[str(path.resolve()) for path in data],
        work=str(out.resolve()),
        name="site",
        version="1.0.0",
        teacher=teacher,
        positive=positive,
        lesions=False,
        image=system.image,
        tap=min(3, len(blocks)),
        seed=s.seed,
        batch=s.batch,
        threads=s.threads,
        student=StudentRecipe(blocks=blocks, frozen_blocks=0),
        phantom=PhantomRecipe(0, 0, 0, 0),
        baseline=baseline,
    )


def cross_validate(
    recipe: Recipe,
    device: str = "cpu",
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """The report, also in the recipe's `work`. Goes on where an earlier call with the same settings was cut off. InputError or
    ConfigError before anything is trained when data, settings or device cannot work."""
    if ray_address is None:
        open_device(device)
    else:
        load_ray()
    out, teacher = Path(recipe.work), not recipe.baseline.system
    _check_out(out, [Path(source) for source in recipe.data])
    pipeline = Pipeline(recipe, progress, device if ray_address is None else "cpu", refit=False)
    pipeline.data.require_findings()
    with alone(out, "a cross-validation"):
        pipeline.check("train")
        if ray_address is not None:
            pipeline.bank()
            pipeline.stamps.claim(TEACHER if teacher else BASELINE)  # once, or jobs that start together would all write its stamp
            run_jobs(
                make_fold,
                [FoldJob(recipe, fold, teacher, device) for fold in recipe.folds],
                ray_address,
                cpus=recipe.threads,
                gpus=int(device == "cuda"),
                on_done=lambda done, total: progress("folds", done, total),
            )
        answers = pipeline.cross_validated(teacher)
        return _report(pipeline, write_paper(answers, pipeline.starts(), out / "report"), TEACHER if teacher else BASELINE)


def make_fold(job: FoldJob) -> None:
    """A fold's teacher, or its baseline, unless it is there."""
    pipeline = Pipeline(job.recipe, device=job.device, refit=False)
    (pipeline.teacher if job.teacher else pipeline.baseline)(job.fold)


def _report(pipeline: Pipeline, table: Any, form: str) -> dict[str, Any]:
    data, recipe = pipeline.data, pipeline.recipe
    found = [still for still in data.trained if still.hygroma >= 0]
    classes: dict[str, set[float]] = {}
    for still in found:
        classes.setdefault(still.group, set()).add(still.hygroma)
    folder = pipeline.stamps.folder(form)
    states = [folder / run_name(f) / "training.pt" if form == BASELINE else folder / f"{run_name(f)}.pt" for f in recipe.folds]
    report = {
        "out": recipe.work,
        "form": form,
        "classes": list(data.nuchal.classes),
        "seed": recipe.seed,
        "patients known": data.nuchal.patients_known,
        "patients in both classes": sum(len(kinds) == 2 for kinds in classes.values()),
        "signals": dict(Counter(_signal(still.path, recipe.image) for still in found)),
        "precision": sorted({name for state in states for name in recorded(state)}),
        "paper": table,
    }
    with appearing(Path(recipe.work) / "report" / REPORT) as unfinished:
        unfinished.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _signal(path: Path, size: int) -> str:
    """What the daemon would say of a still."""
    return read_still(read_image(path), Preprocessing(size=size)).signal.value


def _check_out(out: Path, data: list[Path]) -> None:
    for source in data:
        if source.is_dir():  # beside a table nothing is read but what it names
            require_beside(out, source)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and not (out / RECIPE).is_file() and any(path.name != LOCK for path in out.iterdir()):
        raise ConfigError(f"--out {out}: holds something else; give an empty or a new folder")
