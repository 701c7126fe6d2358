"""What a recipe's data sets hold, what can be learned from them, and what is said of what they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from calibration.dataset import HOLDOUT, UNASSIGNED, UNKNOWN, Dataset, LabelledImage
from edge.errors import InputError
from export.data import NO_HYGROMA, Data, digest_of, grouped, lacks, open_data, require_learnable
from export.recipe import PhantomRecipe, Recipe, TeacherRecipe

BOXES = {"nt_box": (10.0, 20.0, 40.0, 26.0), "thalami_box": (12.0, 5.0, 30.0, 14.0)}
RECIPE = Recipe(["d"], "work", "name", "1", TeacherRecipe("random"))


def image(number: int, hygroma: float, **said: Any) -> LabelledImage:
    return LabelledImage(Path(f"{number}.png"), f"{number}.png", f"P{number}", hygroma=hygroma, **said)


def data(*images: LabelledImage) -> Data:
    own = [replace(one, path=Path(f"{i}.png"), name=f"{i}.png", patient=f"P{i}") for i, one in enumerate(images)]
    return Data([Dataset(Path("d"), Path("."), ("normal", "hygroma"), own, patients_known=True)])


HEALTHY, SICK, OTHER = image(0, 0.0), image(1, 1.0), image(2, UNKNOWN, plane=0.0)
EDITABLE = image(3, 0.0, plane=1.0, **BOXES)


@pytest.mark.parametrize(("found", "recipe", "words"), [
    (data(OTHER, OTHER), RECIPE, "other anatomy alone; name a data set with nuchal views too"),
    (data(HEALTHY, HEALTHY), RECIPE, "no image with hygroma 1 to train on, and none that a lesion can be drawn into"),
    (data(EDITABLE), replace(RECIPE, lesions=False), "(`lesions` is false)"),
    (data(SICK), RECIPE, "no image with hygroma 0 to train on"),
    (data(EDITABLE, replace(HEALTHY, fold=HOLDOUT)), RECIPE, "1 held-out images, none of them a healthy standard plane"),
])  # fmt: skip
def test_what_nothing_can_be_learned_from_is_refused_with_the_fix(found: Data, recipe: Recipe, words: str) -> None:
    with pytest.raises(InputError) as error:
        require_learnable(found, recipe)
    assert words in str(error.value) and str(error.value).startswith("d: ")


@pytest.mark.parametrize("found", [data(SICK, HEALTHY), data(EDITABLE), data(SICK, EDITABLE, OTHER)])
def test_what_can_be_learned_from_is_let_be(found: Data) -> None:
    require_learnable(found, RECIPE)


def said(found: Data, **keys: Any) -> str:
    return " ".join(lacks(found, replace(RECIPE, **keys)))


def test_each_ingredient_that_lacks_is_said_with_its_price_and_no_other() -> None:
    bare, whole = data(SICK, HEALTHY), data(
        *[image(0, 1.0, plane=1.0, site="A")] * 40,
        image(1, 0.0, plane=1.0, site="B", nt_mm=1.5, **BOXES),
        image(2, 0.0, plane=1.0, fold=HOLDOUT, **BOXES),
        replace(OTHER, plane=0.0),
    )  # fmt: skip
    shown = Dataset(Path("o"), Path("."), ("normal", "hygroma"), [replace(OTHER, fold=HOLDOUT)], patients_known=True)
    whole = Data([*whole.sets, shown])
    assert lacks(whole, RECIPE) == []
    for words in (
        "1 images of real hygromas of 1 patients, fewer than 40 of 20",
        "No simulated lesions (no healthy standard plane has both boxes)",
        "there is no plane head, and the device cannot tell",
        "there is no nuchal map",
        "No thickness",
        "No held-out split",
        "No other anatomy held out",
        "Images of one site",
    ):
        assert words in said(bare), words
    assert "imitates the given bundle's" in said(bare, given="shipped") and "there is no plane head" not in said(
        bare, given="shipped"
    )
    none = PhantomRecipe(0, 0, 0, 0)
    assert "No phantom frames" in said(whole, phantom=none) and "fitted on no exam" in said(whole, phantom=none)
    assert NO_HYGROMA in said(data(EDITABLE)) and NO_HYGROMA not in said(bare)


@pytest.mark.parametrize(("positives", "patients", "drawn", "real"), [
    (40, 40, True, True), (39, 39, True, False), (40, 19, True, False), (40, 20, True, True), (3, 3, False, True),
    (0, 0, True, False),
])  # fmt: skip
def test_the_gate_stands_on_real_positives_where_there_are_enough_or_no_others(
    positives: int, patients: int, drawn: bool, real: bool
) -> None:
    own = [replace(image(i, 1.0), patient=f"S{i % max(1, patients)}") for i in range(positives)]
    sets = [Dataset(Path("d"), Path("."), ("normal", "hygroma"), [*own, EDITABLE if drawn else HEALTHY], True)]
    assert Data(sets).stands_on_real == real


def pictures(folder: Path, count: int, patient: str = "") -> list[LabelledImage]:
    """Of blurred noise: no two alike; every other one a hygroma."""
    rng, out = np.random.default_rng(0), []
    folder.mkdir()
    for i in range(count):
        noise = cv2.GaussianBlur(rng.normal(0, 60, (80, 100)).astype(np.float32), (0, 0), 5)
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), np.clip(100 + 300 * noise / noise.std() / 8, 0, 255).astype(np.uint8))
        out.append(LabelledImage(path, path.name, patient and f"{patient}{i}", hygroma=float(i % 2)))
    return out


def test_copies_stay_in_one_fold_and_every_fold_has_both_classes(tmp_path: Path) -> None:
    images = pictures(tmp_path / "d", 16)
    copy = tmp_path / "d" / "copy.jpg"
    cv2.imwrite(str(copy), cv2.imread(str(images[0].path)))
    found = Data(
        [
            Dataset(
                tmp_path, tmp_path, ("normal", "hygroma"), [*images, replace(images[0], path=copy, name="copy")], False
            )
        ]
    )
    groups, folds = grouped(found, 0, lambda done, total: None)
    assert groups[0] == groups[-1] and folds[0] == folds[-1] and len(set(groups)) == 16
    assert all({i % 2 for i in np.flatnonzero(folds[:16] == fold)} == {0, 1} for fold in range(4))


def test_every_image_that_cannot_be_read_is_named_before_anything_is_made(tmp_path: Path) -> None:
    images = pictures(tmp_path / "d", 8, "P")
    for i in (2, 5):
        images[i].path.write_bytes(b"no picture")
    found = Data([Dataset(tmp_path, tmp_path, ("normal", "hygroma"), images, patients_known=True)])
    with pytest.raises(InputError, match=r"(?s)2\.png.*5\.png"):
        grouped(found, 0, lambda done, total: None)


def test_a_digest_says_what_was_said_and_shown_and_not_where_it_lies(tmp_path: Path) -> None:
    images = pictures(tmp_path / "d", 4, "P")
    before = digest_of(images)
    (tmp_path / "d").rename(tmp_path / "e")
    moved = [replace(one, path=tmp_path / "e" / one.name) for one in images]
    assert digest_of(moved) == before
    for other in (
        replace(moved[1], hygroma=0.0),
        replace(moved[1], nt_box=(1.0, 2.0, 3.0, 4.0)),
        replace(moved[1], fold=2),
    ):
        assert digest_of([moved[0], other, *moved[2:]]) != before
    moved[3].path.write_bytes(moved[2].path.read_bytes())
    assert digest_of(moved) != before


def test_a_recipe_names_one_data_set_or_several(tmp_path: Path) -> None:
    images = pictures(tmp_path / "d", 8)
    for kind, finding in (("normal", 0), ("hygroma", 1)):
        (tmp_path / "d" / kind).mkdir()
        for one in images:
            if one.hygroma == finding:
                one.path.rename(tmp_path / "d" / kind / one.name)
    (tmp_path / "t.csv").write_text("path,plane,split\nd/normal/0.png,other,holdout\n")
    found = open_data(replace(RECIPE, data=[str(tmp_path / "d")]))
    assert (
        [still.fold for still in found.stills] == [UNASSIGNED] * 8 and len(found.positives) == 4 and not found.holdout
    )
    with pytest.raises(InputError, match="0.png: in two of the data sets"):
        open_data(replace(RECIPE, data=[str(tmp_path / "d"), str(tmp_path / "t.csv")]))
