"""Cross-validation of a system on a user's own images (the protocol of arXiv 2512.22730): a recipe's stages up to the folds'
teachers, or up to its baseline. What lies in `out`, which is the recipe's `work`:

    recipe.yaml            what `hygroma export` goes on from: its folds are not trained again
    bank/ teacher/ ...     what the stages leave
    predictions.csv        out of fold, one row an image
    report.json            figures per fold and pooled, with intervals
    lock                   held by the process that writes here
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from calibration.dataset import POSITIVE
from edge.errors import ConfigError
from export.atomic import LOCK, alone, appearing, require_beside, writable
from export.data import open_data, require_learnable
from export.jobs import load_ray
from export.phantoms import Progress
from export.pipeline import STAGES
from export.recipe import PATCH, BaselineRecipe, Recipe, StudentRecipe, TeacherRecipe, checked, load_recipe
from export.runs import run_recipe
from export.site.work import PREDICTIONS, REPORT
from export.training.finetune import open_device
from export.training.systems import System

RECIPE = "recipe.yaml"
STUDENT_BLOCKS = 6  # of a student that is distilled later: as many as a recipe's usual one has
TAP = 3  # as a recipe's usual one
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


def recipe_of(
    data: Sequence[Path], system: System, out: Path, positive: str = POSITIVE, settings: Settings = Settings()
) -> Recipe:
    """The recipe whose first stages cross-validate `system` on images with a finding, nothing drawn into them. ConfigError where
    the settings cannot work."""
    s, vit = settings, system.vit
    schedule = system.schedule(s.epochs, s.batch, s.seed, s.lr)
    common: dict[str, Any] = {
        "data": [str(source.resolve()) for source in data], "work": str(out.resolve()), "name": "hygroma-site", "version": "0.1.0",
        "positive": positive, "lesions": False, "image": system.image, "seed": s.seed, "batch": s.batch, "threads": s.threads,
    }  # fmt: skip
    if vit is None:
        baseline = BaselineRecipe(system.name, system.start, epochs=s.epochs, patience=s.patience, lr=s.lr)
        # An export needs a teacher as well; whoever wants one writes it into the recipe.
        teacher = TeacherRecipe("random", epochs=s.epochs, patience=s.patience, frozen_blocks=0)
        recipe = Recipe(teacher=teacher, baseline=baseline, **{**common, "image": -(-system.image // PATCH) * PATCH})
        recipe = dataclasses.replace(recipe, baseline=dataclasses.replace(baseline, image=system.image))
        return checked(recipe, "crossval")
    teacher = TeacherRecipe(
        system.start, vit.width, vit.depth, vit.heads, vit.layer_scale, s.epochs, schedule.lr, schedule.layer_decay,
        frozen_blocks=0, new_heads=schedule.new_heads, patience=s.patience,
    )  # fmt: skip
    blocks = list(range(min(STUDENT_BLOCKS, vit.depth)))
    student = StudentRecipe(blocks, frozen_blocks=0)
    return checked(Recipe(teacher=teacher, student=student, tap=min(TAP, len(blocks)), **common), "crossval")


def cross_validate(
    recipe: Recipe,
    device: str = "cpu",
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total: None,
    teachers: bool = True,
) -> dict[str, Any]:
    """The report, also in the recipe's `work`. Goes on where an earlier call was cut off. teachers: False for the baseline alone.
    InputError or ConfigError before anything is trained when data, settings or device cannot work."""
    work = Path(recipe.work)
    with alone(work, "a cross-validation"):
        pipeline = run_recipe(recipe, "crossval" if teachers else "baseline", device=device, ray_address=ray_address, progress=progress)
        if not teachers:
            return pipeline.judge_baselines()
        report: dict[str, Any] = json.loads((work / REPORT).read_text())
        return report


def claim(recipe: Recipe, device: str = "cpu", ray_address: str | None = None) -> None:
    """Leave the recipe in its `work`, which must be new, or have been made by the same. ConfigError otherwise, or where device or Ray
    is not there; InputError where the data cannot work."""
    out = Path(recipe.work)
    for source in recipe.data:
        if Path(source).is_dir():
            require_beside(out, Path(source))
    path = out / RECIPE
    ours = {RECIPE, LOCK, PREDICTIONS, REPORT, *(folder for folders in STAGES.values() for folder in folders)}
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and not path.is_file() and any(found.name not in ours for found in out.iterdir()):
        raise ConfigError(f"--out {out}: holds something else; give an empty or a new folder")
    if path.is_file():
        known, made = (_flat(asdict(one)) for one in (load_recipe(path), recipe))
        wrong = [f"{key}: found {known[key]!r}, now {made[key]!r}" for key in made if known[key] != made[key]]
        if wrong:
            raise ConfigError(
                f"{path}: made otherwise ({'; '.join(wrong)}); give another --out, or cross-validate that recipe: "
                f"hygroma crossval {path}"
            )
    if ray_address is None:
        open_device(device)
    else:
        load_ray()
    require_learnable(open_data(recipe), recipe)
    writable(out)
    with appearing(path) as unfinished:
        unfinished.write_text(_written(recipe))


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """Key -> value, as a recipe's file names them, where files lie and how many threads run left out; a checkpoint by its name: its
    bytes are held against those that trained (export/stamps.py)."""
    out: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            out |= {f"{key}.{name}": Path(v).name if name == "init" else v for name, v in value.items()}
        elif key not in HERE:
            out[key] = value
    return out


def _written(recipe: Recipe) -> str:
    """As a file: what is not as usual."""
    def unusual(part: Any, usual: Any) -> dict[str, Any]:
        return {name: value for name, value in asdict(part).items() if value != usual.get(name, ...)}

    usual = asdict(Recipe([], "", "", "", TeacherRecipe("")))
    content: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            if own := unusual(value, usual[field.name]):
                content[field.name] = own
        elif value != usual[field.name] or field.name in ("data", "work"):
            content[field.name] = value
    content["work"] = "."
    head = (
        "# Written by `hygroma crossval`. `hygroma export` with this file goes on from here: the folds are not trained again as long\n"
        "# as data, image, tap, seed, batch, lesions, teacher and baseline stay as they are.\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
