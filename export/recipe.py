"""A recipe: everything that decides which weights come out, in one YAML file that is checked before anything runs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from calibration.dataset import FOLDS, POSITIVE
from edge.engines.runtimes import RUNTIMES
from edge.errors import ConfigError, HygromaError
from edge.schema import Decoder, Rule, did_you_mean, rule
from edge.yaml_file import parse_yaml
from export.model.heads import EVERY_PART, HEADS, KEEPING, REPORTED, SPECIFIC, TOGETHER, Head
from export.model.vit import ViTConfig
from export.training.systems import BASELINES, DENSENET_STRIDE, RANDOM, DenseNetClassifier, System
from export.training.train import Schedule

QAT_WHEN = ("never", "fallback", "always")
RECIPES = Path(__file__).parent / "recipes"
SHIPPED = "shipped"  # in place of a given bundle's path: the one that comes with this package
PATCH = 16  # pixels: what the shipped graph is built for


@dataclass(frozen=True)
class TeacherRecipe:
    """init: checkpoint to start from (timm- or MAE-keyed ViT), whose sizes the others must be, or "random". new_heads: factor on
    lr for the map and hygroma heads, which start from nothing. patience: epochs in which patients set aside for it show no gain
    after which training stops, the best weights kept; 0: none are set aside, and `epochs` are trained."""

    init: str
    width: int = 384
    depth: int = 12
    heads: int = 6
    layer_scale: bool = True
    epochs: int = 4
    lr: float = 3e-4
    layer_decay: float = 0.75
    frozen_blocks: int = 9
    new_heads: float = 10.0
    patience: int = 0


@dataclass(frozen=True)
class BaselineRecipe:
    """What the paper compares with, trained on the folds' images as their teachers are: MONAI's DenseNet-169. system:
    "densenet169", "" for none. init: "random", or torchvision's weights. image: input side, pixels; 0: the recipe's. epochs: at
    most; patience: epochs in which patients set aside for it show no gain after which training stops. lr: peak learning rate,
    left out for the system's own. The batch is the recipe's."""

    system: str = field(default="", metadata=rule())
    init: str = RANDOM
    image: int = 0
    epochs: int = 50
    patience: int = 10
    lr: float | None = field(default=None, metadata=rule(low=math.ulp(0.0), expected="float above 0"))


@dataclass(frozen=True)
class StudentRecipe:
    """blocks: which of the teacher's blocks the student starts from; its depth is their number. image, width, heads: input
    side in pixels, channels, attention heads; 0: the teacher's. A thinner student starts from a selection of its teacher's
    channels (export/model/weights.py)."""

    blocks: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4, 5])
    image: int = 0
    width: int = 0
    heads: int = 0
    epochs: int = 5
    lr: float = 4e-4
    layer_decay: float = 0.75
    frozen_blocks: int = 2


@dataclass(frozen=True)
class UnlabelledRecipe:
    """Distillation on frames without labels, before the student is shown any (unlabelled.py). epochs: 0 for none. frames:
    a folder of frames besides the run's own training pictures, in every run; left out: none."""

    epochs: int = 0
    lr: float = 4e-4
    frames: str = field(default="", metadata=rule())


@dataclass(frozen=True)
class QatRecipe:
    """Quantisation-aware fine-tuning of the student (int8/qat.py). when: never; fallback, where plain INT8, corrected biases
    and float products all miss the gate; always, in every fold too."""

    when: str = "never"
    epochs: int = 1
    lr: float = 3e-6


@dataclass(frozen=True)
class PhantomRecipe:
    """Counts of phantom frames to train on (0: none) and of phantom exams to fit the decision on, half of them with a hygroma
    (0: it stays the given bundle's, or the one that decisions start from), and to measure it on (0 only where none is fitted on).
    No false flag in 600 healthy exams bounds their rate at 1 in 200 (95 %)."""

    training_frames: int = 600
    fitting_exams: int = 400
    measuring_hygromas: int = 100
    measuring_healthy: int = 600


@dataclass(frozen=True)
class HeadRecipe:
    """A head besides plane and hygroma: an answer of its own to the whole picture. name: of the graph's output. column: of the
    data set's table, with its label of a still: 0, 1, or nothing where it is not known. task: what a positive is, in words.
    threshold: the one that 98 % of the negatives stay below (specific), or that 95 % of the positives reach (keeping). gate:
    whether a conversion that fails on it refuses the bundle (every part, or together), or is told (reported)."""

    name: str
    column: str
    task: str
    threshold: str = SPECIFIC
    gate: str = REPORTED

    @property
    def head(self) -> Head:
        return Head(self.name, self.column, threshold=self.threshold, gated=self.gate, task=self.task)


@dataclass(frozen=True)
class Rung:
    """A student that the recipe's own is compared with. name: of its folder, and in the table."""

    name: str
    student: StudentRecipe


@dataclass(frozen=True)
class Ladder:
    """fold: the one whose stills all rungs are judged on, held out of their training."""

    rungs: list[Rung]
    fold: int = 0


@dataclass(frozen=True)
class Recipe:
    """data: data sets (docs/data.md): folders per class, and tables. positive: the positive folder, where it has another name.
    given: a bundle that stands in for labels which the data lack, or "shipped"; "": none. lesions: whether simulated ones are
    drawn where boxes allow it. work: where every stage leaves what it made. image: input side, pixels. tap: the hygroma head also
    reads the tokens after this many blocks, in the teacher and in the student; 0: only the last. folds: which of the four folds
    are held out in turn, two or more, since the threshold of each comes from the others; fewer than all cost less, and the
    figures' n says so. engine: a runtime on which each fold's INT8 graph is run besides, on the machine that validates; "":
    none."""

    data: list[str]
    work: str
    name: str
    version: str
    teacher: TeacherRecipe
    positive: str = POSITIVE
    given: str = field(default="", metadata=rule())
    lesions: bool = True
    image: int = 160
    tap: int = 3
    seed: int = 0
    batch: int = 32
    threads: int = 2
    folds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    unlabelled: UnlabelledRecipe = field(default_factory=UnlabelledRecipe)
    baseline: BaselineRecipe = field(default_factory=BaselineRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    qat: QatRecipe = field(default_factory=QatRecipe)
    phantom: PhantomRecipe = field(default_factory=PhantomRecipe)
    heads: list[HeadRecipe] = field(default_factory=list, metadata=rule())
    engine: str = field(default="", metadata=rule())

    @property
    def teacher_config(self) -> ViTConfig:
        t = self.teacher
        others = tuple(own.head for own in self.heads)
        return ViTConfig(self.image, PATCH, t.width, t.depth, t.heads, t.layer_scale, tap=self.tap, others=others)

    @property
    def student_config(self) -> ViTConfig:
        s, t = self.student, self.teacher_config
        return dataclasses.replace(
            t, image=s.image or t.image, width=s.width or t.width, depth=len(s.blocks), heads=s.heads or t.heads
        )

    def teacher_schedule(self, fold: int) -> Schedule:
        t = self.teacher
        return Schedule(
            t.epochs,
            self.batch,
            t.lr,
            t.layer_decay,
            frozen_blocks=t.frozen_blocks,
            new_heads=t.new_heads,
            seed=self.seed + fold,
        )

    @property
    def baseline_system(self) -> System:
        return System(self.baseline.system, self.baseline.init, self.baseline.image or self.image, None)

    def baseline_schedule(self, fold: int) -> Schedule:
        b = self.baseline
        return self.baseline_system.schedule(b.epochs, self.batch, self.seed + 400 + fold, b.lr)

    def student_schedule(self, fold: int) -> Schedule:
        s = self.student
        return Schedule(
            s.epochs, self.batch, s.lr, s.layer_decay, frozen_blocks=s.frozen_blocks, seed=self.seed + 100 + fold
        )

    def unlabelled_schedule(self, fold: int) -> Schedule:
        """Of the blocks that the student trains; its heads are not asked."""
        u, s = self.unlabelled, self.student
        return Schedule(
            u.epochs, self.batch, u.lr, s.layer_decay, frozen_blocks=s.frozen_blocks, seed=self.seed + 300 + fold
        )

    def qat_schedule(self, fold: int) -> Schedule:
        """One rate for every layer, no decay; the heads, which stay float, are not trained."""
        return Schedule(
            self.qat.epochs,
            self.batch,
            self.qat.lr,
            layer_decay=1.0,
            weight_decay=0.0,
            head_scale=0.0,
            new_heads=0.0,
            seed=self.seed + 200 + fold,
        )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Relative paths in it are relative to the recipe's folder. ConfigError names file and key."""
    raw = _read(path)
    if isinstance(raw, dict) and isinstance(raw.get("data"), str):
        raw["data"] = [raw["data"]]  # one data set needs no list
    if isinstance(raw, dict) and isinstance(raw.get("baseline"), str):
        raw["baseline"] = {"system": raw["baseline"]}  # the name alone is enough
    recipe = _Decoder(str(path), ConfigError).dataclass(Recipe, raw)
    _refuse(path, _problems(recipe))
    base = path.resolve().parent
    return dataclasses.replace(
        recipe,
        data=[str((base / source).resolve()) for source in recipe.data],
        given=recipe.given if recipe.given in ("", SHIPPED) else str((base / recipe.given).resolve()),
        work=str((base / recipe.work).resolve()),
        teacher=dataclasses.replace(recipe.teacher, init=_start(base, recipe.teacher.init)),
        baseline=dataclasses.replace(recipe.baseline, init=_start(base, recipe.baseline.init)),
        unlabelled=dataclasses.replace(
            recipe.unlabelled, frames=recipe.unlabelled.frames and str((base / recipe.unlabelled.frames).resolve())
        ),
    )


def checked(recipe: Recipe, where: str) -> Recipe:
    """A recipe that no file holds, once nothing of it is wrong. ConfigError says the key, after `where`."""
    _refuse(Path(where), _problems(recipe))
    return recipe


def _start(base: Path, init: str) -> str:
    return init if init == RANDOM else str((base / init).resolve())


def write_recipe(recipe: Recipe, path: Path) -> None:
    """What `load_recipe` reads again as the same recipe, keys that have their usual value left out."""

    def said(found: Any) -> dict[str, Any]:
        out = {}
        for own in dataclasses.fields(found):
            value = getattr(found, own.name)
            usual = own.default if own.default_factory is dataclasses.MISSING else own.default_factory()
            if value == usual:
                continue
            listed = isinstance(value, list) and value and dataclasses.is_dataclass(value[0])
            out[own.name] = said(value) if dataclasses.is_dataclass(value) else [said(v) for v in value] if listed else value
        return out

    path.write_text(yaml.safe_dump(said(recipe), sort_keys=False), encoding="utf-8")


def shipped_ladder() -> Path:
    """The rungs that come with this package."""
    return RECIPES / "ladder.yaml"


def load_ladder(path: Path, recipe: Recipe) -> Ladder:
    """Read the rungs to compare the recipe's student with, and check them against the recipe. ConfigError names file and key."""
    ladder = _Decoder(str(path), ConfigError).dataclass(Ladder, _read(path))
    if ladder.fold not in recipe.folds:
        raise ConfigError(f"{path}: fold: found {ladder.fold}; the recipe holds out {recipe.folds}")
    names = [rung.name for rung in ladder.rungs]
    for number, rung in enumerate(ladder.rungs):
        where = f"rungs[{number}]"
        if (
            not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", rung.name)
            or names.count(rung.name) > 1
            or rung.name == recipe.name
        ):
            raise ConfigError(
                f"{path}: {where}.name: found {rung.name!r}; give each rung a name of its own, of a-z 0-9 . _ -, other than "
                f"the recipe's ({recipe.name})"
            )
        own = dataclasses.replace(recipe, student=rung.student)
        _refuse(path, ((f"{where}.{key}", found, right) for key, found, right in _student_problems(own)))
    return ladder


def _read(path: Path) -> Any:
    try:
        return parse_yaml(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; export/recipes/ holds the shipped one") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


Problems = Iterator[tuple[str, object, str]]  # key, value found, what would be right


def _refuse(path: Path, problems: Problems) -> None:
    for key, found, right in problems:
        raise ConfigError(f"{path}: {key}: found {found}; {right}")


def _problems(recipe: Recipe) -> Problems:
    """What cannot work although its type is right."""
    t, phantom = recipe.teacher, recipe.phantom
    for key, found in (
        ("batch", recipe.batch),
        ("threads", recipe.threads),
        ("teacher.width", t.width),
        ("teacher.depth", t.depth),
        ("teacher.heads", t.heads),
        ("teacher.epochs", t.epochs),
        ("qat.epochs", recipe.qat.epochs),
    ):
        if found < 1:
            yield key, found, "must be 1 or more"
    if recipe.image < PATCH or recipe.image % PATCH:
        yield "image", recipe.image, f"must be a multiple of the patch side, {PATCH}"
    folds = recipe.folds
    if len(set(folds)) != len(folds) or not set(folds) <= set(range(FOLDS)):
        yield "folds", folds, f"expected different numbers from 0 to {FOLDS - 1}"
    if len(folds) < 2:
        yield "folds", folds, "give at least two: each fold's threshold is chosen on the others"
    if t.heads and t.width % t.heads:
        yield "teacher.width", t.width, f"must be a multiple of teacher.heads, {t.heads}"
    yield from _rate_problems("teacher", t, t.depth)
    yield from _baseline_problems(recipe)
    yield from _student_problems(recipe)
    taken = [*(head.name for head in HEADS), "embedding", "nuchal_map", "image"]
    for number, own in enumerate(recipe.heads):
        where = f"heads[{number}]"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", own.name) or own.name in taken:
            yield f"{where}.name", repr(own.name), f"give a name of its own, of a-z 0-9 _, other than {', '.join(taken)}"
        if own.threshold not in (SPECIFIC, KEEPING):
            yield f"{where}.threshold", own.threshold, f"expected {SPECIFIC} or {KEEPING}"
        if own.gate not in (EVERY_PART, TOGETHER, REPORTED):
            yield f"{where}.gate", own.gate, f"expected one of {', '.join((EVERY_PART, TOGETHER, REPORTED))}"
        taken.append(own.name)
    if recipe.engine and recipe.engine not in RUNTIMES:
        yield "engine", repr(recipe.engine), f"expected one of {', '.join(RUNTIMES)}, or no engine"
    if recipe.qat.when not in QAT_WHEN:
        yield "qat.when", recipe.qat.when, f"expected one of {', '.join(QAT_WHEN)}"
    if not math.isfinite(recipe.unlabelled.lr):
        yield "unlabelled.lr", recipe.unlabelled.lr, "give a finite learning rate, such as 4.0e-4"
    if recipe.unlabelled.frames and not recipe.unlabelled.epochs:
        yield "unlabelled.epochs", 0, "give 1 or more to use unlabelled.frames, or leave the folder out"
    if not math.isfinite(recipe.qat.lr):
        yield "qat.lr", recipe.qat.lr, "give a finite learning rate, such as 3.0e-6"
    if phantom.fitting_exams == 1:
        yield "phantom.fitting_exams", 1, "give at least 2: one exam with a hygroma and one without; or 0 for none"
    measured = ("measuring_hygromas", "measuring_healthy")
    for key, other in (measured, measured[::-1]):
        if not getattr(phantom, key) and (getattr(phantom, other) or phantom.fitting_exams):
            yield f"phantom.{key}", 0, "give at least 1; or 0 here, there and for fitting_exams to do without phantom exams"


def _baseline_problems(recipe: Recipe) -> Problems:
    b = recipe.baseline
    if not b.system:
        return
    if b.system not in BASELINES:
        yield "baseline.system", repr(b.system), f"expected {' or '.join(BASELINES)}, or no baseline"
        return
    for key in ("epochs", "patience"):
        if getattr(b, key) < 1:
            yield f"baseline.{key}", getattr(b, key), "must be 1 or more"
    if b.lr is not None and not math.isfinite(b.lr):
        yield "baseline.lr", b.lr, "give a finite learning rate, such as 1.0e-3"
    if (side := recipe.baseline_system.image) < DENSENET_STRIDE:
        key = "baseline.image" if b.image else "image"
        yield key, side, f"the baseline needs {DENSENET_STRIDE} pixels or more"
    if recipe.batch < (least := DenseNetClassifier.least_batch):
        yield "batch", recipe.batch, f"the baseline normalises over the pictures of a batch: give {least} or more"


def _student_problems(recipe: Recipe) -> Problems:
    t, s, config = recipe.teacher, recipe.student, recipe.student_config
    if s.epochs < 1:
        yield "student.epochs", s.epochs, "must be 1 or more"
    wrong = [number for number in s.blocks if not 0 <= number < t.depth]
    if wrong:
        yield "student.blocks", wrong[0], f"the teacher has blocks 0 to {t.depth - 1}"
    if len(set(s.blocks)) != len(s.blocks):
        yield "student.blocks", s.blocks, "name each of the teacher's blocks once at most"
    if recipe.tap > len(s.blocks):
        yield "tap", recipe.tap, f"the student has {len(s.blocks)} blocks; give at most that many, or 0 for none"
    if config.image % PATCH:
        yield "student.image", s.image, f"must be a multiple of the patch side, {PATCH}"
    if s.width > t.width:
        yield "student.width", s.width, f"the teacher has {t.width} channels; give at most that many"
    if s.heads > t.heads:
        yield "student.heads", s.heads, f"the teacher has {t.heads} heads; give at most that many"
    elif config.heads and config.width * t.heads != t.width * config.heads:
        yield "student.width", config.width, f"a head must stay as wide as the teacher's, {t.width // t.heads} channels"
    yield from _rate_problems("student", s, len(s.blocks))


def _rate_problems(name: str, stage: TeacherRecipe | StudentRecipe, depth: int) -> Problems:
    if stage.frozen_blocks > depth:
        yield f"{name}.frozen_blocks", stage.frozen_blocks, f"the {name} has {depth} blocks; give at most that many"
    if not math.isfinite(stage.lr):
        yield f"{name}.lr", stage.lr, "give a finite learning rate, such as 3.0e-4"
    if not 0 < stage.layer_decay <= 1:
        yield f"{name}.layer_decay", stage.layer_decay, "give a factor above 0, at most 1"


class _Decoder(Decoder):
    whole, mapping = "the file", "a mapping of keys"
    rules = {
        int: Rule(low=0, expected="int, 0 or more"),
        float: Rule(low=math.ulp(0.0), finite=False, expected="float above 0"),
        str: Rule(low=1, expected="str"),
        list: Rule(low=1),
    }

    def wrong(self, path: str, found: object, what: str, limits: Rule) -> HygromaError:
        if found == []:
            what = "a list with at least one entry"
        text_for_number = limits is self.rules[float] and isinstance(found, str)
        more = "; YAML reads a number as text when its point is missing: write 1.0e-4, not 1e-4" if text_for_number else ""
        return self.fail(path, found, f"expected {limits.expected or what}{more}")

    def unknown(self, path: str, found: object, known: Iterable[str]) -> HygromaError:
        close = did_you_mean(path.rpartition(".")[2], known)
        hint = f"did you mean {close!r}?" if close else f"known keys: {', '.join(known)}"
        return self.error(f"{self.file}: {path}: unknown key; {hint}")

    def missing(self, path: str, hint: Any) -> HygromaError:
        return self.error(f"{self.file}: {path}: missing; give {hint}")
