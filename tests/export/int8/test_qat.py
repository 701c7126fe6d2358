"""Quantisation-aware fine-tuning: it brings the INT8 graph nearer to the float student, the graph is what was trained, and it
resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fakes.bundle_parts import noise  # noqa: E402

from calibration.bank import BANK_SIZE, Bank, Entry  # noqa: E402
from edge.engines.selftest import sigmoid  # noqa: E402
from export.int8.fake_quant import rounded, rounded_model  # noqa: E402
from export.int8.onnx_graph import build_float_graph  # noqa: E402
from export.int8.ort_graph import run_graph  # noqa: E402
from export.int8.qat import agreement_loss, finetune  # noqa: E402
from export.int8.quantize import Choice, agreement_error, linear_limits, lint_qdq, quantize, quantize_best  # noqa: E402
from export.int8.smoothquant import MLP_SCALE  # noqa: E402
from export.model.vit import HygromaViT, normalise  # noqa: E402
from export.recipe import QatRecipe, Recipe, TeacherRecipe  # noqa: E402
from export.training.train import Schedule  # noqa: E402

pytestmark = pytest.mark.kernels

Pictures = Callable[..., np.ndarray]
KEEP = np.arange(24)


@pytest.fixture(scope="module")
def bank() -> Bank:
    crops = [cv2.resize(crop, (BANK_SIZE, BANK_SIZE)) for crop in noise(24, 48, seed=3)[:, 0]]
    entries = [Entry(i, ("real", "lesion")[i % 2], i % 4, 1.0, float(i % 2), -1.0, None) for i in range(24)]
    return Bank(np.stack(crops), entries)


@pytest.fixture(scope="module")
def choice(tiny_student: Any) -> Choice:
    """With ranges so short that a sixth of each is clipped: something to train away."""
    found = quantize_best(*tiny_student, noise(16, 48, seed=1), noise(16, 48, seed=2), (0.5,), ("minmax",))
    limits = {name: 0.35 * limit for name, limit in found.limits.items()}
    return replace(found, limits=limits, model=quantize(build_float_graph(found.state, tiny_student[1]), limits))


def schedule(epochs: int) -> Schedule:
    recipe = Recipe("d", "w", "n", "1", TeacherRecipe("t"), batch=6, qat=QatRecipe("always", epochs, 1e-4))
    return recipe.qat_schedule(0)


@pytest.fixture(scope="module")
def tuned(choice: Choice, tiny_student: Any, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Choice:
    return finetune(choice, *tiny_student, bank, KEEP, schedule(8), tmp_path_factory.mktemp("qat") / "c.pt")


def error(choice: Choice, tiny_student: Any, crops: np.ndarray) -> float:
    """Of the INT8 graph, from the float student."""
    reference = run_graph(build_float_graph(*tiny_student), crops)
    return agreement_error(reference, run_graph(choice.model, crops))


def loss(choice: Choice, tiny_student: Any, crops: np.ndarray) -> float:
    """What is trained down, on these crops."""
    state, config = tiny_student
    reference = HygromaViT(config).eval()
    reference.load_state_dict(state)
    x = normalise(torch.from_numpy(crops))
    with torch.no_grad():
        return float(agreement_loss(rounded_student(choice, config)(x), reference(x)))


def rounded_student(choice: Choice, config: Any) -> HygromaViT:
    return rounded_model(choice.state, config, linear_limits(build_float_graph(choice.state, config), choice.limits))


def test_rounding_is_on_the_grid_and_lets_gradients_through_unless_it_clips() -> None:
    x = torch.tensor([-9.0, -0.26, 0.1, 0.24, 0.26, 9.0], requires_grad=True)
    y = rounded(x, 0.05)
    torch.testing.assert_close(y.detach(), torch.tensor([-127 * 0.05, -0.25, 0.1, 0.25, 0.25, 127 * 0.05]))
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_the_graph_comes_nearer_to_the_float_student(
    choice: Choice, tuned: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    crops = pictures(32, 48, seed=7)  # not trained on
    assert loss(tuned, tiny_student, crops) < 0.9 * loss(choice, tiny_student, crops)
    assert error(tuned, tiny_student, crops) < 0.9 * error(choice, tiny_student, crops)
    assert lint_qdq(tuned.model) == [] and tuned.limits == choice.limits
    assert "fine-tuned with rounding, 8 epochs at 0.0001" in tuned.described()
    state, _ = tiny_student
    for name, value in tuned.state.items():  # what stays float as it was stays as it was
        if name.startswith(("plane_head", "map_head", "hygroma_head")) or name.endswith(MLP_SCALE):
            torch.testing.assert_close(value, choice.state[name], rtol=0, atol=0)
    assert not torch.equal(tuned.state["blocks.0.attn.qkv.weight"], choice.state["blocks.0.attn.qkv.weight"])


def test_the_exported_graph_computes_what_was_trained(
    choice: Choice, tuned: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    config, crops = tiny_student[1], pictures(32, 48, seed=7)
    with torch.no_grad():
        trained = rounded_student(tuned, config)(normalise(torch.from_numpy(crops)))
    exported, plain = run_graph(tuned.model, crops), run_graph(choice.model, crops)
    tolerance = 0.015  # probability: a float sum's last bit decides on which side of half a step an activation falls
    for head in ("plane", "hygroma"):
        gap = np.abs(sigmoid(getattr(trained, head).numpy()) - sigmoid(getattr(exported, head)))
        assert gap.max() < tolerance and np.median(gap) < 0.2 * tolerance
    assert (
        np.abs(sigmoid(plain.hygroma) - sigmoid(exported.hygroma)).max() > tolerance
    )  # the comparison means something


def test_it_resumes_to_the_same_weights(choice: Choice, tiny_student: Any, bank: Bank, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: int, loss: float) -> None:
        raise Stop

    whole = finetune(choice, *tiny_student, bank, KEEP, schedule(2), tmp_path / "whole.pt")
    with pytest.raises(Stop):
        finetune(choice, *tiny_student, bank, KEEP, schedule(2), tmp_path / "cut.pt", stop)
    epochs: list[int] = []
    again = finetune(
        choice, *tiny_student, bank, KEEP, schedule(2), tmp_path / "cut.pt", lambda epoch, loss: epochs.append(epoch)
    )
    assert epochs == [2]
    assert again.model.SerializeToString(deterministic=True) == whole.model.SerializeToString(deterministic=True)


def test_an_unrounded_model_agrees_with_itself(tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    model = HygromaViT(config).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        here, there = (model(normalise(torch.from_numpy(pictures(4, 48, seed=s)))) for s in (1, 2))
        assert float(agreement_loss(here, here)) == 0 < float(agreement_loss(here, there))
