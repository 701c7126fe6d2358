"""What is said of the weights that a teacher starts from: what is known of that very file, or what can be read off it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from calibration.bank import Bank  # noqa: E402
from calibration.dataset import Dataset, LabelledImage  # noqa: E402
from edge.bundle.manifest import Provenance  # noqa: E402
from export.data import Data  # noqa: E402
from export.recipe import Recipe, TeacherRecipe  # noqa: E402
from export.report import provenance as sources  # noqa: E402

SHARED = Path(__file__).parents[4] / "shared/weights/vit_small_patch14_dinov2_224_fp16.safetensors"


def said_of(init: Path) -> str:
    return said(TeacherRecipe(str(init), width=768, depth=6, heads=12)).initialisation


def said(teacher: TeacherRecipe, **keys: Any) -> Provenance:
    """Of four images that nobody owns, two of them with a hygroma."""
    images = [LabelledImage(Path(f"{i}.png"), f"{i}.png", hygroma=float(i % 2)) for i in range(4)]
    found = Data([Dataset(Path("d"), Path("d"), ("normal", "hygroma"), images, patients_known=False)])
    recipe = Recipe(["d"], "work", "name", "1", teacher, **keys)
    return sources.provenance(recipe, found, Bank(np.zeros((0, 8, 8), np.uint8), []))


def test_another_file_is_not_called_dinov2(tmp_path: Path) -> None:
    init = tmp_path / "vit_small_patch14_dinov2_224_fp16.safetensors"  # the name alone says nothing
    init.write_bytes(b"a USF-MAE checkpoint")
    said = said_of(init)
    assert "Oquab" not in said and "could not be reached" not in said
    assert said.startswith(f"{init.name}, SHA-256 {hashlib.sha256(b'a USF-MAE checkpoint').hexdigest()}: ")
    assert "6 blocks, 768 wide, 12 heads, given by whoever wrote the recipe" in said


def test_the_known_file_is_described_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = tmp_path / "start.pt"
    init.write_bytes(b"known")
    monkeypatch.setattr(sources, "DINOV2_SHA256", hashlib.sha256(b"known").hexdigest())
    assert said_of(init) == f"start.pt. {sources.DINOV2_INITIALISATION}"


@pytest.mark.skipif(not SHARED.is_file(), reason="the weights lie beside the repository, or nowhere")
def test_the_known_file_is_the_one_that_ships_with_the_project() -> None:
    assert said_of(SHARED).startswith(f"{SHARED.name}. ViT-S/14 DINOv2 backbone")


def test_what_the_data_lack_is_said_and_nothing_of_data_that_were_not_used() -> None:
    limits = " ".join(said(TeacherRecipe("random")).limits)
    for text in ("there is no plane head", "there is no nuchal map", "No thickness", "Nobody said whose", "No held-out split"):
        assert text in limits
    assert "simulated lesions flatter" not in limits and "No image of a real" not in limits
    assert "2 images of real hygromas" in limits
    given = said(TeacherRecipe("random"), given="shipped")
    assert "imitates the given bundle's" in " ".join(given.limits)
    assert "planes and nuchal boxes as the shipped bundle calls them" in given.recipe
    assert [(source.name, source.images) for source in given.data] == [(sources.UNKNOWN_SOURCE, 4)]
