"""Distillation on frames without labels: it draws the student to its teacher, on pictures that its fold may see."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

from test_pipeline import edit, prepared, still  # noqa: E402

from edge.errors import ConfigError, InputError  # noqa: E402
from export.model.vit import HygromaViT, ViTConfig, normalise  # noqa: E402
from export.model.weights import student_from_teacher  # noqa: E402
from export.pipeline import REFIT, Pipeline  # noqa: E402
from export.recipe import Recipe, UnlabelledRecipe, load_recipe  # noqa: E402
from export.stages import weights  # noqa: E402
from export.stamps import Stamps  # noqa: E402
from export.training.train import Schedule, token_distance  # noqa: E402
from export.training.unlabelled import distil_unlabelled, seen_anew  # noqa: E402

pytestmark = pytest.mark.usefixtures("made_before")

DEEP = ViTConfig(image=48, width=64, depth=3, heads=2, tap=1)


def frames(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [cv2.resize(still(rng, bool(i % 2)), (64, 64)) for i in range(count)]


def pair(student: ViTConfig) -> tuple[HygromaViT, HygromaViT]:
    """A teacher, and the student that starts as a part of it."""
    torch.manual_seed(0)
    teacher, model = HygromaViT(DEEP).eval(), HygromaViT(student)
    student_from_teacher(model, teacher, tuple(range(student.depth)))
    return teacher, model


def apart(student: HygromaViT, teacher: HygromaViT) -> float:
    x = normalise(torch.from_numpy(np.stack([cv2.resize(f, (48, 48)) for f in frames(8, seed=9)]))[:, None])
    with torch.no_grad():
        return float(token_distance(student.eval()(x).tokens, teacher(x).tokens))


@pytest.mark.parametrize(
    "shape",
    [dataclasses.replace(DEEP, depth=2), dataclasses.replace(DEEP, depth=2, width=32, heads=1)],
    ids=["shallower", "thinner"],
)
def test_the_student_comes_nearer_to_its_teacher_and_its_heads_stay(shape: ViTConfig, tmp_path: Path) -> None:
    teacher, student = pair(shape)
    before, heads = apart(student, teacher), {k: v.clone() for k, v in student.state_dict().items() if "head" in k}
    distil_unlabelled(student, teacher, frames(24, seed=1), Schedule(12, batch=8, lr=3e-3), tmp_path / "s.pt")
    assert apart(student, teacher) < 0.8 * before  # on frames that it was not shown
    assert all(torch.equal(student.state_dict()[name], value) for name, value in heads.items())


def test_a_run_that_was_cut_ends_in_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: int, loss: float) -> None:
        raise Stop

    shape, schedule, shown = dataclasses.replace(DEEP, depth=2), Schedule(3, batch=8, lr=1e-3), frames(16, seed=1)
    teacher, whole = pair(shape)
    distil_unlabelled(whole, teacher, shown, schedule, tmp_path / "whole.pt")
    _, cut = pair(shape)
    with pytest.raises(Stop):
        distil_unlabelled(cut, teacher, shown, schedule, tmp_path / "cut.pt", on_epoch=stop)
    _, resumed = pair(shape)
    distil_unlabelled(resumed, teacher, shown, schedule, tmp_path / "cut.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_frame_is_never_shown_the_same_way_twice() -> None:
    rng, frame = np.random.default_rng(0), frames(1, seed=1)[0]
    shown = [seen_anew(frame, 48, rng) for _ in range(4)]
    assert all(s.shape == (48, 48) and s.dtype == np.uint8 for s in shown)
    assert not any(np.array_equal(a, b) for a, b in zip(shown, shown[1:], strict=False))


def test_fewer_frames_than_a_batch_are_told(tmp_path: Path) -> None:
    teacher, student = pair(dataclasses.replace(DEEP, depth=2))
    with pytest.raises(InputError, match=r"found 3, fewer than one batch \(8\); add some to `unlabelled.frames`"):
        distil_unlabelled(student, teacher, frames(3, seed=1), Schedule(1, batch=8), tmp_path / "s.pt")


# -- in the pipeline


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """With a folder of ten frames of a site's own, and a bank and teachers that are made by whoever asks first."""
    base = tmp_path_factory.mktemp("unlabelled")
    out = prepared(base)
    (base / "frames/monday").mkdir(parents=True)
    for number, frame in enumerate(frames(10, seed=5)):
        cv2.imwrite(str(base / f"frames/monday/{number}.png"), frame)
    return dataclasses.replace(out, unlabelled=UnlabelledRecipe(epochs=1, frames=str(base / "frames")))


def test_a_fold_is_shown_its_own_training_pictures_and_the_sites_and_then_labels(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def spy(student: Any, teacher: Any, shown: Any, *rest: Any, **more: Any) -> None:
        seen.append([np.asarray(frame).tobytes() for frame in shown])
        distil_unlabelled(student, teacher, shown, *rest, **more)

    monkeypatch.setattr(weights, "distil_unlabelled", spy)
    pipeline = Pipeline(recipe)
    with_frames = pipeline.student(0)
    bank, (shown,) = pipeline.bank(), seen
    own = {frame.tobytes() for frame in pipeline.frames()}
    assert len(own) == 10 and own <= set(shown)
    unedited = {i: e for i, e in enumerate(bank.entries) if e.source in ("real", "cleaned", "elsewhere")}
    held = {bank.crops[i].tobytes() for i, e in unedited.items() if e.fold in (0, -1)}
    taught = {bank.crops[i].tobytes() for i, e in unedited.items() if e.fold in (1, 2, 3)}
    assert set(shown) - own == taught and not held & set(shown)
    assert Path(recipe.work, "unlabelled/fold0.pt").is_file()
    Pipeline(recipe).student(0)
    assert len(seen) == 1  # what is there is not made again
    for folder in ("student", "heads", "unlabelled"):
        shutil.rmtree(Path(recipe.work, folder))
    without = Pipeline(edit(recipe, "unlabelled", UnlabelledRecipe())).student(0)
    assert len(seen) == 1 and not Path(recipe.work, "unlabelled").exists()
    assert not torch.equal(with_frames.state_dict()["blocks.1.mlp.fc1.weight"], without.state_dict()["blocks.1.mlp.fc1.weight"])
    with pytest.raises(ConfigError, match="unlabelled.epochs: found 'nothing', the recipe says 1"):
        Pipeline(recipe).check("distill")
    shutil.rmtree(Path(recipe.work, "student"))
    shutil.rmtree(Path(recipe.work, "heads"))


def test_a_recipe_without_it_has_the_stamps_that_it_had(recipe: Recipe) -> None:
    plain = Stamps(edit(recipe, "unlabelled", UnlabelledRecipe(lr=1.0))).keys("bundle")
    assert not [key for key in plain if "unlabelled" in key or "frames" in key and "training_frames" not in key]
    keys = Stamps(recipe).keys("student")
    assert keys["unlabelled.epochs"] == 1 and keys["unlabelled.frames"].startswith("SHA-256 ")


def test_other_frames_make_another_student(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    shutil.copytree(recipe.unlabelled.frames, folder)
    same = Stamps(edit(recipe, "unlabelled.frames", str(folder))).keys("student")
    assert same == Stamps(recipe).keys("student")  # wherever they lie
    cv2.imwrite(str(folder / "monday/0.png"), frames(1, seed=77)[0])
    assert Stamps(edit(recipe, "unlabelled.frames", str(folder))).keys("student") != same


def test_a_frame_that_is_a_picture_of_the_data_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """Each still is held out of some run, the validation split's of all; other anatomy is judged in the report."""
    folder = tmp_path / "frames"
    shutil.copytree(recipe.unlabelled.frames, folder)
    picture = cv2.imread(str(Path(recipe.data[0]).parent / "ultrasound/0033.png"))
    cv2.imwrite(str(folder / "copy.jpg"), cv2.resize(picture, None, fx=1.5, fy=1.5))
    changed = edit(edit(recipe, "unlabelled.frames", str(folder)), "work", str(tmp_path / "work"))
    with pytest.raises(InputError, match=r"on which some run is judged: .*/frames/copy.jpg = 0033.png; remove them from"):
        Pipeline(changed).bank()
    assert not (tmp_path / "work/frames/frames.npy").exists()
    shutil.copy(Path(recipe.data[0]).parent / "ultrasound/cyst0.png", folder / "copy.jpg")  # what "other anatomy" is judged on
    with pytest.raises(InputError, match=r"copy.jpg = cyst0.png"):
        Pipeline(changed).bank()


def test_every_frame_that_does_not_decode_is_named(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    shutil.copytree(recipe.unlabelled.frames, folder)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no picture")
    changed = edit(edit(recipe, "unlabelled.frames", str(folder)), "work", str(tmp_path / "work"))
    with pytest.raises(InputError, match=r"(?s)a\.png: not a picture.*b\.png: not a picture"):
        Pipeline(changed).bank()


def test_too_few_frames_are_told_before_anything_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    changed = edit(edit(recipe, "batch", 85), "work", str(tmp_path / "work"))
    pipeline = Pipeline(changed)
    with pytest.raises(InputError, match=r"unlabelled frames: found \d+, fewer than one batch \(85\)"):
        pipeline.run("distill")
    assert not (tmp_path / "work/teacher/refit.pt").exists()


def test_a_recipe_that_tried_it_and_left_it_goes_on_with_what_it_had(recipe: Recipe, tmp_path: Path) -> None:
    plain = edit(edit(recipe, "unlabelled", UnlabelledRecipe()), "work", str(tmp_path / "work"))
    Pipeline(plain).student(0)
    Pipeline(edit(plain, "unlabelled", recipe.unlabelled)).frames()
    assert (tmp_path / "work/frames/frames.npy").is_file()
    Pipeline(plain).check("distill")
    with pytest.raises(ConfigError, match="unlabelled.epochs") as error:
        Pipeline(edit(plain, "unlabelled", recipe.unlabelled)).check("distill")
    assert f"delete {tmp_path / 'work/student'}, {tmp_path / 'work/heads'} to have" in str(error.value)


def test_the_card_says_what_it_was_shown(recipe: Recipe) -> None:
    found = Pipeline(recipe).provenance()
    said = "1 epochs of the teacher's tokens on training pictures and 10 of a site's own, without labels; 1 epochs of labels"
    assert said in found.recipe
    assert (found.data[-1].images, found.data[-1].licence) == (10, "not known here")
    plain = Pipeline(edit(recipe, "unlabelled", UnlabelledRecipe())).provenance()
    assert "without labels" not in plain.recipe and len(plain.data) == 3


@pytest.mark.parametrize("what", ["nothing", "empty", "broken"])
def test_frames_that_cannot_be_used_are_told_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "frames"
    if what != "nothing":
        folder.mkdir()
    if what == "broken":
        (folder / "a.png").write_bytes(b"no picture")
    changed = edit(edit(recipe, "unlabelled.frames", str(folder)), "work", str(tmp_path / "work"))
    with pytest.raises(InputError, match={"nothing": "no such folder", "empty": "holds no picture", "broken": "a.png"}[what]):
        Pipeline(changed).run("distill")
    assert not (tmp_path / "work/teacher/refit.pt").exists()


def test_a_folder_that_no_epoch_would_show_is_refused(tmp_path: Path) -> None:
    text = "data: d\nwork: w\nname: made-up\nversion: 1.0.0\nteacher: {init: t.pt}\nunlabelled: {frames: f"
    path = tmp_path / "r.yaml"
    path.write_text(text + "}\n")
    with pytest.raises(ConfigError, match="unlabelled.epochs: found 0; give 1 or more to use unlabelled.frames"):
        load_recipe(path)
    path.write_text(text + ", epochs: 2}\n")
    assert load_recipe(path).unlabelled.frames == str(tmp_path / "f")


def test_every_run_has_one(recipe: Recipe) -> None:
    Pipeline(recipe).run("distill")
    names = {p.name for p in Path(recipe.work, "unlabelled").iterdir()}
    assert {f"{run}.pt" for run in ("refit", "fold0", "fold1")} <= names and REFIT == 4
