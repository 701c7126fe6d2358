"""A recipe's runs, its folds and the refit, as independent jobs: on a Ray cluster each is made up to the last stage that is asked
for, and what needs all of them follows here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import InputError
from export.jobs import load_ray, run_jobs
from export.phantoms import Progress
from export.pipeline import ASIDE, STAGES, Pipeline
from export.recipe import Recipe

# stage -> what makes a run's part of it, and of the stages before it. A bundle needs what `validate` leaves of each.
MADE_BY: dict[str, Callable[[Pipeline, int], object]] = {
    "train": Pipeline.taught,
    "distill": Pipeline.student,
    "quantize": Pipeline.qdq,
    "validate": Pipeline.judged,
    "bundle": Pipeline.judged,
    "baseline": Pipeline.baseline,
    "crossval": Pipeline.crossed,
}


@dataclass(frozen=True)
class RunJob:
    """Everything a run needs besides the recipe's `work`, for a process that may be on another machine. until: of MADE_BY."""

    recipe: Recipe
    run: int
    until: str
    device: str


def run_recipe(
    recipe: Recipe,
    until: str = "bundle",
    accept_failing_gate: bool = False,
    device: str = "cpu",
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Pipeline:
    """Every stage up to and including `until`; the pipeline that has them. Without `ray_address` run after run, here. With it
    the data, the checkpoint and `work` must be storage that all machines share; what is left to do here is done on the CPU,
    since this machine need not have what the cluster has. ConfigError or InputError before anything is trained."""
    if ray_address is None:
        pipeline = Pipeline(recipe, progress, device, refit=until not in ASIDE)
        pipeline.run(until, accept_failing_gate)
        return pipeline
    load_ray()
    pipeline = Pipeline(recipe, progress, refit=until not in ASIDE)
    pipeline.check(until)
    if until in ASIDE:
        _ = pipeline.taught_crops
    else:
        pipeline.bank()
    if until in MADE_BY:
        for folder in _shared(pipeline, until):
            pipeline.stamps.claim(folder)  # once, or jobs that start together would all write its stamp
        run_jobs(
            make_run,
            [RunJob(recipe, run, until, device) for run in pipeline.runs],
            ray_address,
            cpus=recipe.threads,
            gpus=int(device == "cuda"),
            on_done=lambda done, total: progress("runs", done, total),
        )
    pipeline.run(until, accept_failing_gate)
    return pipeline


def _shared(pipeline: Pipeline, until: str) -> list[str]:
    """The folders that the jobs write to, all of them each."""
    order = [stage for stage in MADE_BY if stage not in ASIDE]
    made = ASIDE[until][1:] if until in ASIDE else order[: order.index(until) + 1]
    folders = [folder for stage in made if stage != "bundle" for folder in STAGES[stage]]
    unused = {"qdq_teacher", "other_anatomy", "honesty"} | (set() if pipeline.recipe.qat.when == "always" else {"qat"})
    return [folder for folder in folders if folder not in unused and pipeline.stamps.used(folder)]


def make_run(job: RunJob) -> None:
    """What a run leaves of the stages up to `until`, unless it is there."""
    pipeline = Pipeline(job.recipe, device=job.device, refit=job.until not in ASIDE)
    if not pipeline.stamps.path("bank").is_file():
        raise InputError(
            f"{Path(job.recipe.work) / 'bank'}: not seen on this machine; `work` in the recipe must be storage that all "
            "machines share"
        )
    MADE_BY[job.until](pipeline, job.run)
