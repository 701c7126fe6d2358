"""The lean: rounding that pulls towards "no hygroma" is made up for, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from export.lean import HEAD_BIAS, NEAR, lean  # noqa: E402
from export.onnx_graph import build_float_graph  # noqa: E402
from export.ort_graph import run_graph  # noqa: E402
from export.quantize import Choice, lint_qdq, quantize_best  # noqa: E402

Pictures = Callable[..., np.ndarray]


@pytest.fixture
def choice(tiny_student: Any, pictures: Pictures) -> Choice:
    return quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2), (0.5,), ("mse",))


def logits(state: Any, config: Any, choice: Choice, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the hygroma head [N]: float, INT8."""
    return run_graph(build_float_graph(state, config), crops).hygroma, run_graph(choice.model, crops).hygroma


def test_on_the_crops_it_was_fitted_on_hardly_any_near_falls(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    crops = pictures(64, 48, seed=3)
    leaning = lean(choice, *tiny_student, crops)
    before, plain = logits(*tiny_student, choice, crops)
    _, after = logits(*tiny_student, leaning, crops)
    near = np.abs(before) < NEAR
    assert near.sum() >= 16 and (plain < before)[near].any()  # or there was nothing to make up for
    assert (plain < before)[near].mean() > 0.2 and (after < before - 1e-4)[near].mean() <= 0.05
    assert after == pytest.approx(plain + leaning.raised, abs=1e-4)


def test_it_moves_one_bias_and_says_so(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    leaning = lean(choice, *tiny_student, pictures(64, 48, seed=3))
    assert lint_qdq(leaning.model) == [] and leaning.limits == choice.limits
    changed = [
        tensor.name
        for tensor, before in zip(leaning.model.graph.initializer, choice.model.graph.initializer, strict=True)
        if tensor.SerializeToString() != before.SerializeToString()
    ]
    assert changed == [HEAD_BIAS]
    assert f"raised by {leaning.raised:.3f}" in leaning.described() and "raised" not in choice.described()


def test_rounding_that_only_lifts_is_left_alone(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    lower = {**state, HEAD_BIAS: state[HEAD_BIAS] - 100.0}  # the float student then says less than INT8 on every crop
    untouched = lean(choice, lower, config, pictures(16, 48, seed=3))
    assert untouched.raised == 0.0
    assert untouched.model.SerializeToString() == choice.model.SerializeToString()
