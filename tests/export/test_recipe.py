"""Every way a recipe can be wrong is said with file, key, value and fix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fakes.labelled import usf_mae_state

from edge.errors import ConfigError
from export.model.vit import HygromaViT
from export.model.weights import _DROPPED, _OURS, student_from_teacher
from export.recipe import RECIPES, load_recipe

GOOD = "data: d\nwork: w\nname: n\nversion: 1.0.0\nteacher: {init: t.pt}\n"


def teacher(setting: str) -> str:
    return GOOD.replace("{init: t.pt}", f"{{init: t.pt, {setting}}}")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_the_shipped_recipe_loads_and_paths_are_relative_to_it() -> None:
    path = Path(__file__).parents[2] / "export" / "recipes" / "shipped.yaml"
    recipe = load_recipe(path)
    assert all(Path(source).is_absolute() for source in recipe.data)
    assert recipe.student_config.depth == len(recipe.student.blocks)


def test_the_full_size_recipe_has_usf_maes_shape_and_its_student_can_be_started() -> None:
    recipe = load_recipe(RECIPES / "usf-mae.yaml")
    shipped = load_recipe(RECIPES / "shipped.yaml").student_config
    assert recipe.student_config == replace(shipped, layer_scale=False)
    with torch.device("meta"):  # made and started, not filled: 86 million weights
        teacher, student = HygromaViT(recipe.teacher_config), HygromaViT(recipe.student_config)
        student_from_teacher(student, teacher, tuple(recipe.student.blocks))
    encoder = {k: v.shape for k, v in usf_mae_state().items() if not k.startswith(_DROPPED)}
    assert {k: v.shape for k, v in teacher.state_dict().items() if not k.startswith(_OURS)} == encoder


def test_defaults_fill_what_is_not_given(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.folds == [0, 1, 2, 3]
    assert recipe.work == str(tmp_path / "w")


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "phantom: {training_frames: 0}\n",  # no phantoms in training
        GOOD + "student: {frozen_blocks: 6, layer_decay: 1}\n",  # the heads alone are trained
        GOOD + "folds: [3, 1]\n",
    ],
)
def test_the_ends_of_what_is_allowed_load(tmp_path: Path, text: str) -> None:
    load_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "imag: 160\n", "imag: unknown key; did you mean 'image'?"),
        (GOOD + "image: 161\n", "image: found 161; must be a multiple"),
        (GOOD + "image: big\n", "image: found 'big'; expected int"),
        (GOOD + "folds: [0, 7]\n", "folds: found [0, 7]"),
        (GOOD + "student: {blocks: [99]}\n", "student.blocks: found 99"),
        (GOOD + "tap: 7\n", "tap: found 7; the student has 6 blocks"),
        (GOOD + "student: {lr: -1}\n", "student.lr: found -1; expected float above 0"),
        (GOOD + "student: {lr: 1e-4}\n", "student.lr: found '1e-4'; expected float above 0; YAML reads"),
        (GOOD + "student: {lr: .inf}\n", "student.lr: found inf; give a finite learning rate"),
        (GOOD + "student: {lr: .nan}\n", "student.lr: found nan; expected float above 0"),
        (GOOD + "student: {layer_decay: 1.5}\n", "student.layer_decay: found 1.5; give a factor above 0, at most 1"),
        (GOOD + "student: {frozen_blocks: 7}\n", "student.frozen_blocks: found 7; the student has 6 blocks"),
        (GOOD + "student: {epochs: 0}\n", "student.epochs: found 0; must be 1 or more"),
        (GOOD + "student: {blocks: [0, 0]}\n", "student.blocks: found [0, 0]; name each"),
        (GOOD + "folds: [0]\n", "folds: found [0]; give at least two"),
        (GOOD + "folds: [1, 1]\n", "folds: found [1, 1]; expected different numbers"),
        (GOOD + "batch: 0\n", "batch: found 0; must be 1 or more"),
        (GOOD + "batch: -3\n", "batch: found -3; expected int, 0 or more"),
        (GOOD + "threads: 0\n", "threads: found 0; must be 1 or more"),
        (GOOD + "image: 0\n", "image: found 0; must be a multiple"),
        (teacher("width: 0"), "teacher.width: found 0; must be 1 or more"),
        (teacher("depth: 0"), "teacher.depth: found 0; must be 1 or more"),
        (teacher("heads: 0"), "teacher.heads: found 0; must be 1 or more"),
        (teacher("epochs: 0"), "teacher.epochs: found 0; must be 1 or more"),
        (teacher("heads: 7"), "teacher.width: found 384; must be a multiple of teacher.heads, 7"),
        (teacher("frozen_blocks: 13"), "teacher.frozen_blocks: found 13; the teacher has 12 blocks"),
        (teacher("lr: .inf"), "teacher.lr: found inf; give a finite"),
        (teacher("layer_decay: 2"), "teacher.layer_decay: found 2.0; give a factor"),
        (GOOD + "qat: {when: sometimes}\n", "qat.when: found sometimes; expected one of never, fallback, always"),
        (GOOD + "qat: {epochs: 0}\n", "qat.epochs: found 0; must be 1 or more"),
        (GOOD + "qat: {lr: .inf}\n", "qat.lr: found inf; give a finite"),
        (GOOD + "phantom: {fitting_exams: 1}\n", "phantom.fitting_exams: found 1; give at least 2"),
        (GOOD + "phantom: {measuring_healthy: 0}\n", "phantom.measuring_healthy: found 0; give at least 1"),
        (GOOD.replace("name: n\n", ""), "name: missing"),
        ("- a\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
