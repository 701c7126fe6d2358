"""Every way a recipe can be wrong is said with file, key, value and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge.errors import ConfigError
from export.recipe import load_recipe

GOOD = "data: d\nwork: w\nname: n\nversion: 1.0.0\nteacher: {init: t.pt}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_the_shipped_recipe_loads_and_paths_are_relative_to_it() -> None:
    path = Path(__file__).parents[2] / "export" / "recipes" / "shipped.yaml"
    recipe = load_recipe(path)
    assert Path(recipe.data).is_absolute()
    assert recipe.student_config.depth == len(recipe.student.blocks)


def test_defaults_fill_what_is_not_given(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.folds == [0, 1, 2, 3]
    assert recipe.work == str(tmp_path / "w")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "imag: 160\n", "imag: unknown key; did you mean 'image'?"),
        (GOOD + "image: 161\n", "image: found 161; must be a multiple"),
        (GOOD + "image: big\n", "image: found 'big'; expected int"),
        (GOOD + "folds: [0, 7]\n", "folds: found [0, 7]"),
        (GOOD + "student: {blocks: [99]}\n", "student.blocks: found 99"),
        (GOOD + "student: {lr: -1}\n", "student.lr: found -1; expected float above 0"),
        (GOOD.replace("name: n\n", ""), "name: missing"),
        ("- a\n", "expected a mapping"),
        ("a: [\n", "not readable as YAML"),
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
