"""Which recipe made what lies in the `work` folder. Beside each stage's outputs a stamp, `recipe.json`, holds every key that
decides them; a stage goes on with outputs of the same keys only.

Where the data lies and how many threads run do not decide weights, so neither is a key. `folds` says which runs there
are, not what a run makes: it decides the bundle alone, and folds may be added to a work folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import edge
from edge.bundle.manifest import MANIFEST_FILE
from edge.errors import ConfigError, InputError
from export.atomic import PARTIAL, Form, appearing, kept, sha256_of
from export.data import Data, digest_of, open_data
from export.recipe import SHIPPED, Recipe
from export.training.frames import contents_of, find_frames
from export.training.systems import RANDOM

T = TypeVar("T")
STAMP = "recipe.json"
# Raise a stage's number when its code would make something else of the same recipe: what the older code made is refused then.
VERSIONS = {
    "bank": 5,
    "bank_phantom": 4,
    "given": 1,
    "frames": 1,
    "teacher": 5,
    "unlabelled": 1,
    "student": 4,
    "heads": 5,
    "qat": 3,  # raise it with "qdq" too: it starts from what that stage chooses
    "qdq": 6,
    "qdq_teacher": 5,
    "baseline": 1,
    "crossval": 1,
    "engine": 1,
    "predictions": 4,
    "other_anatomy": 1,
    "honesty": 1,
    "exams": 1,
    "rung": 4,
    "bundle": 14,
}
NEEDS: dict[str, tuple[str, ...]] = {  # stage -> those whose keys are its keys too
    "bank": (),
    "bank_phantom": (),
    "given": ("bank",),
    "frames": (),
    "teacher": ("bank", "given"),
    "unlabelled": ("teacher", "frames"),
    "student": ("teacher", "bank_phantom", "unlabelled"),
    "heads": ("student",),
    "qat": ("heads",),
    "qdq": ("heads",),
    "qdq_teacher": ("teacher", "bank_phantom"),
    "baseline": ("bank",),
    "crossval": ("teacher",),
    "engine": ("qdq",),
    "predictions": ("qdq",),
    "other_anatomy": ("qdq",),
    "honesty": (),
    "exams": ("qdq",),
    "rung": ("heads",),
    "bundle": ("predictions", "other_anatomy", "exams"),
}
# stage -> its own keys of the recipe; "x." stands for every key under x. What fine-tuning with rounding is like is a key only of
# what it makes.
KEYS: dict[str, tuple[str, ...]] = {
    "bank": ("data", "lesions", "seed", "heads if any"),
    "bank_phantom": ("phantom.training_frames",),
    "given": ("given",),
    "frames": ("unlabelled.frames",),
    "teacher": ("image", "batch", "tap", "teacher."),
    "unlabelled": ("student.blocks", "student.image", "student.width", "student.heads", "student.layer_decay",
                   "student.frozen_blocks", "unlabelled.epochs", "unlabelled.lr"),
    "student": ("student.",),
    "heads": (),
    "qat": ("qat.epochs", "qat.lr"),
    "qdq": ("qat. if always",),
    "qdq_teacher": (),
    "baseline": ("batch", "baseline."),
    "crossval": (),
    "engine": ("engine",),
    "predictions": (),
    "other_anatomy": ("other anatomy",),
    "honesty": ("data", "seed", "teacher.init"),
    "exams": (),
    "rung": (),
    "bundle": ("name", "version", "folds", "qat. unless never", "phantom.", "teacher.init's name", "hygroma-edge"),
}
UNSAID = ("student.image", "student.width", "student.heads", "teacher.patience")  # when 0, no stamp has them
CODE = "code of "  # before a stage's name: the key that holds its number in VERSIONS
DIGITS = 16  # hex digits of a SHA-256 that a stamp keeps


class Stamps:
    """The stamps of one recipe's work folder. data: gives the recipe's, opened; left out: opens it."""

    def __init__(self, recipe: Recipe, data: Callable[[], Data] | None = None):
        self.recipe, self.work, self.data = recipe, Path(recipe.work), data or partial(open_data, recipe)
        self._hashed: dict[str, str] = {}

    def folder(self, stage: str) -> Path:
        return self.work / stage

    def path(self, stage: str) -> Path:
        """A bundle holds its own files and no other, so its stamp lies beside it."""
        return self.work / f"bundle.{STAMP}" if stage == "bundle" else self.folder(stage) / STAMP

    def used(self, stage: str) -> bool:
        return used(self.recipe, stage)

    def keys(self, stage: str) -> dict[str, Any]:
        """Everything that decides what `stage` makes, as JSON values, its code's version included. InputError when the
        data or the checkpoint to start from is not there."""
        out: dict[str, Any] = {}
        for needed in NEEDS[stage]:
            if self.used(needed):
                out |= self.keys(needed)
        for key in KEYS[stage]:
            out |= self._values(key)
        return out | {f"{CODE}{stage}": VERSIONS[stage]}

    def differences(self, stage: str) -> list[str] | None:
        """What the stamp of `stage` and the recipe do not agree on, in words; None where nothing was made yet. ConfigError
        when there are outputs without a stamp."""
        folder, path = self.folder(stage), self.path(stage)
        if not folder.is_dir() or not any(PARTIAL not in p.name and p.name != STAMP for p in folder.iterdir()):
            return None
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: missing, so what lies in {folder} may be another recipe's; {self._fix(stage)}"
            ) from None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: not readable as a JSON object; {self._fix(stage)}")
        wanted = self.keys(stage)
        return [
            f"{key}: found {found.get(key, 'nothing')!r}, {_says(key)} {wanted.get(key, 'nothing')!r}"
            for key in {**wanted, **found}
            if found.get(key) != wanted.get(key)
        ]

    def check(self, stage: str) -> None:
        """ConfigError when `stage` has outputs that other keys made, or whose keys are not known."""
        differences = self.differences(stage)
        if differences:
            raise ConfigError(f"{self.path(stage)}: {'; '.join(differences)}; {self._fix(stage)}")

    def claim(self, stage: str) -> Path:
        """The checked folder of `stage`, made and stamped where it holds nothing yet."""
        self.check(stage)
        if self.differences(stage) is None and not self._stamped(stage):
            self.write(stage, self.path(stage))
        return self.folder(stage)

    def kept(self, stage: str, name: str, form: Form[T], make: Callable[[], T]) -> T:
        """The artefact `name` of `stage`: read where it is there, else made, and left there whole under the stage's stamp."""
        return kept(self.claim(stage) / name, form, make)

    def kept_whole(self, stage: str, form: Form[T], make: Callable[[], T]) -> T:
        """The same of a stage whose folder is the artefact: it appears with its stamp, and so is never taken for another's."""
        self.check(stage)

        def write(made: T, folder: Path) -> None:
            form.write(made, folder)
            self.write(stage, folder / STAMP)

        return kept(self.folder(stage), dataclasses.replace(form, write=write), make)

    def _stamped(self, stage: str) -> bool:
        """Jobs that run at the same time (export/runs.py) must not write again what was claimed for all of them."""
        try:
            return bool(json.loads(self.path(stage).read_text()) == self.keys(stage))
        except (FileNotFoundError, ValueError):
            return False

    def write(self, stage: str, path: Path) -> None:
        """Stamp `path` with the keys of `stage`."""
        keys = json.dumps(self.keys(stage), indent=1) + "\n"
        with appearing(path) as partial:
            partial.write_text(keys)

    def _fix(self, stage: str) -> str:
        stale = [stage]
        for later in NEEDS:
            if set(filter(self.used, NEEDS[later])) & set(stale) and later != "bundle":  # a stale bundle is made again unasked
                stale.append(later)
        folders = ", ".join(str(self.folder(s)) for s in stale if self.folder(s).exists())
        return f"give another `work` in the recipe, or delete {folders} to have it made again"

    def _values(self, key: str) -> dict[str, Any]:
        if key == "data":
            return {key: self._data}
        if key == "teacher.init's name":
            return {key: Path(self.recipe.teacher.init).name}
        if key == "heads if any":
            return {"heads": [dataclasses.asdict(head) for head in self.recipe.heads]} if self.recipe.heads else {}
        if key == "hygroma-edge":
            return {key: edge.__version__}
        if key in ("qat. if always", "qat. unless never"):
            made = self.recipe.qat.when in (("always",) if key.endswith("always") else ("always", "fallback"))
            return self._values("qat.") if made else {}
        if key.endswith("."):
            name = key[:-1]
            fields = dataclasses.fields(getattr(self.recipe, name))
            values = {k: v for field in fields for k, v in self._values(f"{name}.{field.name}").items()}
            return {k: v for k, v in values.items() if v or k not in UNSAID}
        if key == "baseline.image":
            return {key if self.recipe.baseline.image else "image": self.recipe.baseline_system.image}
        if key in ("teacher.init", "baseline.init"):
            return {key: self._start_of(key.partition(".")[0])}
        if key == "unlabelled.frames":
            return {key: self._frames}
        if key == "other anatomy":
            return {key: self._other_anatomy}
        if key == "given":
            return {key: self._given}
        value: Any = self.recipe
        for name in key.split("."):
            value = getattr(value, name)
        return {key: value}

    @cached_property
    def _data(self) -> str:
        """What the tables say, and every image that a bank is made of."""
        return f"SHA-256 {self.data().digest([head.column for head in self.recipe.heads])[:DIGITS]}"

    @cached_property
    def _other_anatomy(self) -> str:
        """Of the images that are only judged."""
        return f"SHA-256 {digest_of(self.data().other_anatomy)[:DIGITS]}"

    @cached_property
    def _given(self) -> str:
        """The given bundle, by its manifest, which holds the SHA-256 of its files."""
        if self.recipe.given == SHIPPED:
            return SHIPPED
        path = Path(self.recipe.given)
        manifest = path / MANIFEST_FILE if path.is_dir() else path
        if not manifest.is_file():
            raise InputError(f"{path}: no such bundle; set `given` in the recipe to a bundle's folder or .tar, or to {SHIPPED!r}")
        return f"SHA-256 {sha256_of(manifest)[:DIGITS]}"

    def _start_of(self, part: str) -> str:
        """What the teacher, or the baseline, starts from."""
        init = str(getattr(self.recipe, part).init)
        return init if init == RANDOM else self._checkpoint(part, Path(init))

    def _checkpoint(self, part: str, path: Path) -> str:
        if part not in self._hashed:
            if not path.is_file():
                raise InputError(f"{path}: no such checkpoint; set `{part}.init` in the recipe")
            self._hashed[part] = f"SHA-256 {sha256_of(path)[:DIGITS]}"
        return self._hashed[part]

    @cached_property
    def _frames(self) -> str:
        """What the folder of unlabelled frames holds."""
        folder = Path(self.recipe.unlabelled.frames)
        return f"SHA-256 {contents_of(find_frames(folder), folder)[:DIGITS]}"


def used(recipe: Recipe, stage: str) -> bool:
    """Whether a recipe asks for what `stage` makes."""
    wanted = {
        "given": recipe.given,
        "unlabelled": recipe.unlabelled.epochs,
        "frames": recipe.unlabelled.frames,
        "baseline": recipe.baseline.system,
        "engine": recipe.engine,
    }
    return bool(wanted.get(stage, True))


def _says(key: str) -> str:
    return "this version has" if key.startswith(CODE) else "the recipe says"
