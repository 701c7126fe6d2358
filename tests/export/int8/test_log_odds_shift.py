"""The logit offset: rounding that pulls towards "no hygroma" is made up for, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edge.errors import InputError  # noqa: E402
from export.int8.log_odds_shift import HEAD_BIAS, NEAR, ShiftCrops, read_shifts, shift_logit  # noqa: E402
from export.int8.onnx_graph import build_float_graph  # noqa: E402
from export.int8.ort_graph import run_graph  # noqa: E402
from export.int8.quantize import Choice, block_linears, lint_qdq, quantize_best  # noqa: E402

pytestmark = pytest.mark.kernels

Pictures = Callable[..., np.ndarray]


@pytest.fixture
def choice(tiny_student: Any, pictures: Pictures) -> Choice:
    return quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2), (0.5,), ("mse",))


def logits(state: Any, config: Any, choice: Choice, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the hygroma head [N]: float, INT8."""
    return run_graph(build_float_graph(state, config), crops).hygroma, run_graph(choice.model, crops).hygroma


def shifted_choice(choice: Choice, state: Any, config: Any, crops: np.ndarray) -> Choice:
    return shift_logit(choice, config, ShiftCrops.near(state, config, crops))


def test_on_the_crops_it_was_fitted_on_hardly_any_near_falls(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    crops = pictures(64, 48, seed=3)
    shifted = shifted_choice(choice, *tiny_student, crops)
    before, plain = logits(*tiny_student, choice, crops)
    _, after = logits(*tiny_student, shifted, crops)
    near = np.abs(before) < NEAR
    assert near.sum() >= 16 and (plain < before)[near].any()  # or there was nothing to make up for
    assert (plain < before)[near].mean() > 0.2 and (after < before - 1e-4)[near].mean() <= 0.035  # 2 of 64
    assert after == pytest.approx(plain + shifted.raised, abs=1e-4)


def test_no_crop_to_measure_it_on_is_told(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    with pytest.raises(InputError, match="crops for the logit offset: found none; give training images"):
        ShiftCrops.near(*tiny_student, pictures(1, 48, seed=3)[:0])


def test_it_moves_one_bias_and_says_so(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    shifted = shifted_choice(choice, *tiny_student, pictures(64, 48, seed=3))
    assert lint_qdq(shifted.model) == [] and shifted.limits == choice.limits
    changed = [
        tensor.name
        for tensor, before in zip(shifted.model.graph.initializer, choice.model.graph.initializer, strict=True)
        if tensor.SerializeToString() != before.SerializeToString()
    ]
    assert changed == [HEAD_BIAS]
    assert f"raised by {shifted.raised:.3f}" in shifted.described()


def test_rounding_that_only_lifts_is_left_alone(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    lower = {**state, HEAD_BIAS: state[HEAD_BIAS] - 100.0}  # the float student then says less than INT8 on every crop
    untouched = shifted_choice(choice, lower, config, pictures(16, 48, seed=3))
    assert untouched.raised == 0.0 and "raised by 0.000, since rounding made hardly any fall" in untouched.described()
    assert untouched.model.SerializeToString() == choice.model.SerializeToString()


def test_a_graph_with_spared_linears_leans_by_its_own_rounding(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    state, config = tiny_student
    shift_crops = ShiftCrops.near(state, config, pictures(64, 48, seed=3))
    shifted = shift_logit(choice, config, shift_crops)
    everything = [node.name for node in block_linears(build_float_graph(state, config))]
    kept_float = shift_logit(shifted, config, shift_crops, everything)  # nothing is rounded, so hardly anything falls
    assert shifted.raised > 100 * kept_float.raised and kept_float.raised < 1e-4
    some = shift_logit(shifted, config, shift_crops, everything[:4])
    assert lint_qdq(some.model, everything[:4]) == [] and some.raised != shifted.raised
    again = shift_logit(some, config, shift_crops)  # of a choice that leans already it is measured anew, not added
    assert again.raised == pytest.approx(shifted.raised, abs=1e-5)


def test_a_lean_is_read_back_from_what_the_stages_left(
    choice: Choice, tiny_student: Any, pictures: Pictures, tmp_path: Path
) -> None:
    state, config = tiny_student
    shifted = shifted_choice(choice, state, config, pictures(64, 48, seed=3))
    prefix = "hygroma_head."
    head = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    for run, model in (("refit", shifted.model), ("fold0", choice.model), ("fold1", choice.model)):
        onnx.save(model, str(tmp_path / f"{run}.onnx"))
        torch.save({"hygroma": head, "plane": {}}, tmp_path / f"{run}.pt")
    (tmp_path / "fold1.pt").unlink()
    found = read_shifts(tmp_path, tmp_path, ["refit", "fold0", "fold1", "fold2"])
    assert found == {"refit": pytest.approx(shifted.raised, abs=1e-6), "fold0": 0.0} and shifted.raised > 0
    (tmp_path / "fold0.onnx").write_bytes(b"cut")
    with pytest.raises(InputError, match="fold0.onnx: cannot be read .*delete it"):
        read_shifts(tmp_path, tmp_path, ["fold0"])
