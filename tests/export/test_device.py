"""Training on another device than the CPU, and the runs of a recipe as jobs: nothing is left behind, and nothing changes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from fakes.far_device import FAR, far_device
from test_crossval import FakeRay
from test_pipeline import inodes, tiny
from test_training import TINY, bank
from torch.nn.attention import SDPBackend, sdpa_kernel

from edge.cli import main
from edge.errors import ConfigError, InputError
from export import pipeline as stages
from export.model.vit import HygromaViT
from export.pipeline import REFIT, Pipeline
from export.recipe import Recipe, load_recipe
from export.runs import RunJob, make_run, run_recipe
from export.stages import evidence, weights
from export.training import precision
from export.training.finetune import open_device
from export.training.train import CPU, Schedule, distillation_loss, fit, predict

pytestmark = pytest.mark.usefixtures("few_ranges", "graphs_asked_once", "made_before")

COMMANDS = ("train", "distill", "quantize", "validate", "bundle", "export")
KEEP = np.arange(24)
CROPS = np.random.default_rng(0).integers(0, 255, (5, 48, 48)).astype(np.uint8)


class Stop(Exception):
    pass


def stop(epoch: int, loss: float) -> None:
    raise Stop


def trained(checkpoint: Path, **more: Any) -> dict[str, Any]:
    """The weights after two epochs, by name."""
    torch.manual_seed(0)
    model = HygromaViT(TINY)
    fit(model, bank(), KEEP, Schedule(2, batch=6, lr=3e-3), checkpoint, **more)
    assert {type(p) for p in model.parameters()} == {torch.nn.Parameter}  # back on the CPU
    assert not model.training
    return model.state_dict()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def tensors(saved: Any) -> list[Any]:
    if isinstance(saved, dict):
        return [t for value in saved.values() for t in tensors(value)]
    return [saved] if isinstance(saved, torch.Tensor) else []


def test_another_device_trains_the_same_weights_and_either_goes_on_from_the_other(tmp_path: Path) -> None:
    with sdpa_kernel(SDPBackend.MATH):  # what the other device has
        here = trained(tmp_path / "here.pt", faster=False)
        with far_device():
            there = trained(tmp_path / "there.pt", faster=False, device=FAR)
        saved = torch.load(tmp_path / "there.pt", weights_only=True)
        assert same(here, there) and same(here, saved["model"])
        assert {t.device.type for t in tensors(saved)} == {"cpu"} and len(tensors(saved["optimiser"])) > len(here)
        for first, second in ((CPU, FAR), (FAR, CPU)):
            checkpoint = tmp_path / f"{first}.pt"
            with far_device():
                with pytest.raises(Stop):  # killed after the first epoch
                    trained(checkpoint, faster=False, device=first, on_epoch=stop)
                assert same(here, trained(checkpoint, faster=False, device=second))


def test_the_stand_in_finds_what_was_left_behind(tmp_path: Path) -> None:
    """The tests here would pass whatever was forgotten, were this not so."""
    teacher = HygromaViT(TINY)
    with far_device(), pytest.raises(RuntimeError, match="two devices"):
        trained(tmp_path / "a.pt", loss=distillation_loss(teacher), device=FAR)
    with far_device():
        trained(tmp_path / "b.pt", loss=distillation_loss(teacher.to(FAR)), device=FAR)
    with far_device(), pytest.raises(RuntimeError, match="two devices"):
        HygromaViT(TINY).to(FAR)(torch.zeros(1, 3, 48, 48))


def test_predictions_of_another_device_are_the_same_and_the_model_comes_back() -> None:
    model = HygromaViT(TINY)
    with sdpa_kernel(SDPBackend.MATH):
        here = predict(model, CROPS, batch=2)
        with far_device():
            there = predict(model, CROPS, batch=2, device=FAR)
    assert {type(p) for p in model.parameters()} == {torch.nn.Parameter}
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values)


def test_products_are_in_bfloat16_on_either_device_where_that_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "precision_on", lambda device: precision.Precision(precision.BFLOAT16, 2.0, 1.0))
    asked: list[tuple[object, ...]] = []
    real = torch.autocast

    def autocast(device_type: str, dtype: Any = None, enabled: bool = True) -> Any:
        asked.append((device_type, dtype, enabled))
        return real(device_type, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", autocast)
    default = trained(tmp_path / "default.pt")
    assert same(default, trained(tmp_path / "given.pt", device=CPU))
    assert set(asked) == {("cpu", torch.bfloat16, True)}
    assert not same(default, trained(tmp_path / "full.pt", faster=False))  # so it was in effect
    asked.clear()
    with far_device(), monkeypatch.context() as patch:
        patch.setattr(
            torch, "autocast", lambda *given, **more: asked.append((*given, more)) or real("cpu", enabled=False)
        )
        trained(tmp_path / "far.pt", device=FAR)
    assert asked[0] == ("meta", torch.bfloat16, {"enabled": True})


# -- a recipe ------------------------------------------------------------------------------------------------------------


def begun(finished: Path, tmp_path: Path, *folders: str) -> Recipe:
    """The recipe with a `work` of its own, which has these folders of the finished one."""
    for folder in folders:
        shutil.copytree(finished / "work" / folder, tmp_path / "work" / folder, copy_function=os.link)
    return tiny(finished, work=str(tmp_path / "work"))


def contents(folder: Path) -> dict[str, Any]:
    """What every file says: the bytes, or of weights the tensors (PyTorch's archives hold their own name)."""
    return {
        name: tensors(torch.load(folder / name, weights_only=True))
        if name.endswith(".pt")
        else (folder / name).read_bytes()
        for name in inodes(folder)
    }


def test_a_recipe_trains_and_predicts_where_it_is_told(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = begun(finished, tmp_path, "bank", "bank_phantom", "qdq")
    fitted: list[object] = []
    predicted: list[object] = []
    monkeypatch.setattr(stages, "open_device", lambda name: {"cuda": FAR}[name])
    monkeypatch.setattr(weights, "fit", lambda *a, device, **m: (fitted.append(device), fit(*a, device=device, **m)))
    monkeypatch.setattr(evidence, "predict", lambda *a, device: (predicted.append(device), predict(*a, device=device))[1])
    with far_device():
        found = Pipeline(recipe, device="cuda").predictions(0)
    assert set(fitted) == set(predicted) == {FAR} and len(fitted) >= 2 and len(predicted) == 2
    assert np.isfinite(found["student_hygroma"]).all() and np.isfinite(found["teacher_plane"]).all()
    for folder in ("teacher", "student", "heads"):
        for path in (Path(recipe.work) / folder).glob("*.pt"):
            assert {t.device.type for t in tensors(torch.load(path, weights_only=True))} == {"cpu"}


def test_float32_on_a_gpu_is_float32_and_chooses_no_kernels_from_run_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"allow_tf32": False, "benchmark": False, "deterministic": True}
    for name, value in wanted.items():
        monkeypatch.setattr(torch.backends.cudnn, name, not value)  # put back after the test
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_device("cuda").type == "cuda"
    assert {name: getattr(torch.backends.cudnn, name) for name in wanted} == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_that_is_not_there_is_refused_before_anything_is_made(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="--device cuda: torch .* sees no CUDA device here; use --device cpu, or"):
        run_recipe(begun(finished, tmp_path), "train", device="cuda")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: d\nwork: w\nname: n\nversion: 1.0.0\nteacher: {init: t.pt}\n")
    rungs = tmp_path / "l.yaml"
    rungs.write_text("rungs: [{name: a, student: {}}]\n")
    for words in (*([command] for command in COMMANDS), ["ladder", "--rungs", str(rungs)]):
        assert main([words[0], str(recipe), *words[1:], "--device", "cuda"]) == 78
        assert "--device cuda: torch" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.yaml", "r.yaml"]


def test_on_a_cluster_the_runs_are_jobs_and_leave_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    recipe, done = begun(finished, tmp_path, "bank", "bank_phantom"), []
    run_recipe(
        recipe, "quantize", ray_address="head:6379", progress=lambda what, n, total: done.append((what, n, total))
    )
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 0}] and ray.down
    assert [step for step in done if step[0] == "runs"] == [("runs", n, 3) for n in (1, 2, 3)]
    assert not any(what.startswith(("teacher", "student")) for what, *_ in done)  # nothing was left to train here
    one, other = contents(finished / "work"), contents(tmp_path / "work")
    later = ("predictions/", "other_anatomy/", "exams/", "honesty/", "report/", "bundle", "recipe.yaml")  # not asked for
    assert {name for name in one if not name.startswith(later)} == other.keys() - {"recipe.yaml"}
    for name, value in other.items():
        if name == "recipe.yaml":
            assert load_recipe(tmp_path / "work" / name) == recipe  # the very recipe, and nobody else's
        elif name.endswith(".pt"):
            assert len(value) == len(one[name]) > 0
            assert all(torch.equal(a, b) for a, b in zip(value, one[name], strict=True)), name
        else:
            assert value == one[name], name


def test_jobs_that_start_together_find_their_folders_stamped(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that wrote one stamp at the same moment would take each other's unfinished file away."""
    recipe = begun(finished, tmp_path, "bank", "bank_phantom")
    pipeline = Pipeline(recipe)
    before = {
        name: pipeline.stamps.claim(name).joinpath("recipe.json").stat().st_ino for name in ("teacher", "student")
    }
    for name, number in before.items():
        assert pipeline.stamps.claim(name).joinpath("recipe.json").stat().st_ino == number
    other = Pipeline(dataclasses.replace(recipe, batch=4))
    assert other.stamps.claim("teacher").joinpath("recipe.json").stat().st_ino != before["teacher"]
    assert json.loads((tmp_path / "work/teacher/recipe.json").read_text())["batch"] == 4


def test_a_job_that_does_not_see_the_work_folder_says_so(finished: Path, tmp_path: Path) -> None:
    job = RunJob(tiny(finished, work=str(tmp_path / "elsewhere")), REFIT, "train", "cpu")
    with pytest.raises(
        InputError, match="elsewhere/bank: not seen on this machine; `work` in the recipe must be storage"
    ):
        make_run(job)
    assert not (tmp_path / "elsewhere").exists()


def test_a_cluster_does_not_touch_what_later_stages_left(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    recipe = begun(finished, tmp_path, "bank", "bank_phantom", "teacher", "qdq")
    recipe = dataclasses.replace(recipe, student=dataclasses.replace(recipe.student, epochs=9))
    run_recipe(recipe, "train", ray_address="head:6379")
    with pytest.raises(ConfigError, match="qdq/recipe.json: student.epochs: found 1, the recipe says 9"):
        run_recipe(recipe, "quantize", ray_address="head:6379")
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["bank", "bank_phantom", "qdq", "recipe.yaml", "teacher"]


def test_a_cluster_that_is_not_there_is_said_in_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: d\nwork: w\nname: n\nversion: 1.0.0\nteacher: {init: t.pt}\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in COMMANDS:
        assert main([command, str(recipe), "--ray", "auto"]) == 78
        assert "pip install 'hygroma-edge[ray]'" in capsys.readouterr().err


def test_a_real_cluster_of_this_machine_gives_the_same_bits(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'hygroma-edge[ray]')")
    recipe = begun(finished, tmp_path, "bank", "bank_phantom")
    run_recipe(recipe, "distill", ray_address="local")
    for folder in ("teacher", "student", "heads"):
        for path in (finished / "work" / folder).glob("*.pt"):
            one, other = (
                tensors(torch.load(p, weights_only=True)) for p in (path, Path(recipe.work) / folder / path.name)
            )
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), path
