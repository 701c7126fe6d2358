"""A recipe: everything that decides which weights come out, in one YAML file that is checked before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from calibration.stills import FOLDS
from edge.errors import ConfigError
from export.train import Schedule
from export.vit import ViTConfig


@dataclass(frozen=True)
class TeacherRecipe:
    """init: checkpoint to start from (timm- or MAE-keyed ViT); the sizes must be that checkpoint's."""

    init: str
    width: int = 384
    depth: int = 12
    heads: int = 6
    layer_scale: bool = True
    epochs: int = 4
    lr: float = 3e-4
    layer_decay: float = 0.75
    frozen_blocks: int = 6


@dataclass(frozen=True)
class StudentRecipe:
    """blocks: which of the teacher's blocks the student starts from; its depth is their number, its width the teacher's."""

    blocks: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4, 5])
    epochs: int = 5
    lr: float = 4e-4
    layer_decay: float = 0.75
    frozen_blocks: int = 2


@dataclass(frozen=True)
class PhantomRecipe:
    """Counts of phantom frames to train on and of phantom exams to fit and to measure the decision on."""

    training_frames: int = 600
    fitting_exams: int = 40
    measuring_exams: int = 40


@dataclass(frozen=True)
class Recipe:
    """data: a folder laid out as ../shared/data. work: where every stage leaves what it made. image: input side, pixels.
    folds: which of the four folds are held out in turn; fewer than all cost less, and the figures' n says so."""

    data: str
    work: str
    name: str
    version: str
    teacher: TeacherRecipe
    image: int = 160
    seed: int = 0
    batch: int = 32
    threads: int = 2
    folds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    student: StudentRecipe = field(default_factory=StudentRecipe)
    phantom: PhantomRecipe = field(default_factory=PhantomRecipe)

    @property
    def teacher_config(self) -> ViTConfig:
        t = self.teacher
        return ViTConfig(self.image, 16, t.width, t.depth, t.heads, t.layer_scale)

    @property
    def student_config(self) -> ViTConfig:
        return dataclasses.replace(self.teacher_config, depth=len(self.student.blocks))

    def teacher_schedule(self, fold: int) -> Schedule:
        t = self.teacher
        return Schedule(t.epochs, self.batch, t.lr, t.layer_decay, frozen_blocks=t.frozen_blocks, seed=self.seed + fold)

    def student_schedule(self, fold: int) -> Schedule:
        s = self.student
        return Schedule(
            s.epochs, self.batch, s.lr, s.layer_decay, frozen_blocks=s.frozen_blocks, seed=self.seed + 100 + fold
        )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Relative paths in it are relative to the recipe's folder. ConfigError names file and key."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; export/recipes/ holds the shipped one") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    recipe: Recipe = _build(Recipe, content, str(path), "")
    for number in recipe.student.blocks:
        if not 0 <= number < recipe.teacher.depth:
            raise ConfigError(
                f"{path}: student.blocks: found {number}; the teacher has blocks 0 to {recipe.teacher.depth - 1}"
            )
    if len(set(recipe.folds)) != len(recipe.folds) or not set(recipe.folds) <= set(range(FOLDS)):
        raise ConfigError(f"{path}: folds: found {recipe.folds}; expected different numbers from 0 to {FOLDS - 1}")
    if recipe.image % 16:
        raise ConfigError(f"{path}: image: found {recipe.image}; must be a multiple of the patch side, 16")
    base = path.resolve().parent
    return dataclasses.replace(
        recipe,
        data=str((base / recipe.data).resolve()),
        work=str((base / recipe.work).resolve()),
        teacher=dataclasses.replace(recipe.teacher, init=str((base / recipe.teacher.init).resolve())),
    )


def _build(kind: type, content: Any, where: str, prefix: str) -> Any:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'}: found {content!r}; expected a mapping of keys")
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in content:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(fields)}"
            raise ConfigError(f"{where}: {prefix}{key}: unknown key{hint}")
    values = {}
    for name, f in fields.items():
        if name not in content:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{where}: {prefix}{name}: missing; give {hints[name]}")
            continue
        values[name] = _value(hints[name], content[name], where, prefix + name)
    return kind(**values)


def _value(hint: Any, found: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, found, where, path + ".")  # type: ignore[arg-type]
    if hint == list[int]:
        if isinstance(found, list) and found and all(type(v) is int for v in found):
            return found
        raise ConfigError(f"{where}: {path}: found {found!r}; expected a list of whole numbers")
    if hint is float and type(found) in (int, float) and found > 0:
        return float(found)
    if hint is int and type(found) is int and found >= 0:
        return found
    if hint in (str, bool) and type(found) is hint and found != "":
        return found
    raise ConfigError(
        f"{where}: {path}: found {found!r}; expected {hint.__name__}{' above 0' if hint is float else ''}"
    )
