"""Corrected biases, then mixed precision: tried only where plain INT8 fails, plain again where nothing helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edge.bundle.manifest import GateResult  # noqa: E402
from export.int8.convert import MAX_FLOAT, convert, ranked_linears  # noqa: E402
from export.int8.fake_quant import correct_biases, rounded_model  # noqa: E402
from export.int8.log_odds_shift import HEAD_BIAS, ShiftCrops, shift_logit  # noqa: E402
from export.int8.onnx_graph import build_float_graph  # noqa: E402
from export.int8.ort_graph import optimised_graph, run_graph  # noqa: E402
from export.int8.quantize import (  # noqa: E402
    Choice,
    FloatModel,
    agreement_error,
    block_linears,
    lint_qdq,
    quantize,
    quantize_best,
)
from export.model.vit import HygromaViT, normalise  # noqa: E402

pytestmark = pytest.mark.kernels

Pictures = Callable[..., np.ndarray]
PASSED = GateResult(True, False, 64, 32, 0, 0, 0.0, 0.01, 0.01, (), ())
FAILED = replace(PASSED, passed=False, positives_lost=1, flips=1, reasons=("1 positives lost",), flipped=("picture-3",))


@pytest.fixture
def choice(tiny_student: Any, pictures: Pictures) -> Choice:
    return quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2), alphas=(0.5,))


@pytest.fixture
def shift_crops(tiny_student: Any, pictures: Pictures) -> ShiftCrops:
    return ShiftCrops.near(*tiny_student, pictures(32, 48, seed=5))


class Judge:
    """Passes the graph number `passing`, counted from 0; keeps what it was shown."""

    def __init__(self, passing: int):
        self.passing, self.seen = passing, []  # type: ignore[var-annotated]

    def __call__(self, model: Any) -> GateResult:
        self.seen.append(model)
        return PASSED if len(self.seen) > self.passing else FAILED


def test_a_graph_that_passes_is_left_alone(
    choice: Choice, tiny_student: Any, pictures: Pictures, shift_crops: ShiftCrops
) -> None:
    judge = Judge(passing=0)
    converted = convert(choice, FloatModel(*tiny_student, pictures(16, 48, seed=1), pictures(8, 48, seed=3)), shift_crops, judge)
    assert converted.model is choice.model and converted.kept_float == () and len(judge.seen) == 1


def test_corrected_biases_are_tried_first(choice: Choice, tiny_student: Any, pictures: Pictures, shift_crops: ShiftCrops) -> None:
    judge = Judge(passing=1)
    converted = convert(choice, FloatModel(*tiny_student, pictures(16, 48, seed=1), pictures(8, 48, seed=3)), shift_crops, judge)
    assert converted.corrected and converted.kept_float == () and len(judge.seen) == 2
    assert lint_qdq(converted.model) == []
    changed = [
        t.name
        for t, before in zip(converted.model.graph.initializer, choice.model.graph.initializer, strict=True)
        if t.SerializeToString() != before.SerializeToString()
    ]
    ends = {f"blocks.{i}.{end}.bias" for i in range(tiny_student[1].depth) for end in ("attn.proj", "mlp.fc2")}
    assert set(changed) == ends | {HEAD_BIAS}  # no weight, no range; its lean is measured again


def test_the_rounded_model_computes_what_the_graph_computes(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    config, crops = tiny_student[1], pictures(8, 48, seed=3)
    graph = build_float_graph(choice.state, config)
    limits = {node.name: choice.limits[node.input[0]] for node in block_linears(graph)}
    with torch.no_grad():
        found = rounded_model(choice.state, config, limits)(normalise(torch.from_numpy(crops)))
    float_gap = np.abs(run_graph(graph, crops).embedding - run_graph(choice.model, crops).embedding).mean()
    assert np.abs(found.embedding.numpy() - run_graph(choice.model, crops).embedding).mean() < 0.2 * float_gap


def test_corrected_branches_have_the_float_mean(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    crops = pictures(16, 48, seed=1)
    graph = build_float_graph(choice.state, config)
    coarse = {
        node.name: 0.3 * choice.limits[node.input[0]] for node in block_linears(graph)
    }  # clips: a bias to correct
    aim = HygromaViT(config).eval()
    aim.load_state_dict(state)
    wanted = last_block_mean(aim, crops)
    before = last_block_mean(rounded_model(choice.state, config, coarse), crops)
    fixed = correct_biases(FloatModel(state, config, crops, crops), choice.state, coarse)
    after = last_block_mean(rounded_model(fixed, config, coarse), crops)
    assert (
        before - wanted
    ).norm() > 1e-2  # what passes on from branch to branch is their sum, so the last block's output
    assert (after - wanted).norm() < 1e-3


def last_block_mean(model: HygromaViT, crops: np.ndarray) -> Any:
    """[W]: the mean of the last block's tokens, before the norm."""
    seen: list[Any] = []
    handle = model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.mean((0, 1))))
    with torch.no_grad():
        model(normalise(torch.from_numpy(crops)))
    handle.remove()
    return seen[0]


def test_linears_are_spared_one_by_one_until_the_gate_passes(
    choice: Choice, tiny_student: Any, pictures: Pictures, shift_crops: ShiftCrops
) -> None:
    config, crops = tiny_student[1], pictures(8, 48, seed=3)
    judge = Judge(passing=3)
    converted = convert(choice, FloatModel(*tiny_student, pictures(16, 48, seed=1), crops), shift_crops, judge)
    assert converted.kept_float == tuple(ranked_linears(choice, config, crops)[:2]) and converted.gate.passed
    assert lint_qdq(converted.model, converted.kept_float) == []
    assert len(lint_qdq(converted.model)) == 4  # both sides of two linears are float, and said to be
    assert optimised_graph(converted.model).int8_linears == 4 * config.depth - 2
    assert "no such block linear" in lint_qdq(converted.model, (*converted.kept_float, "blocks.9.mlp.fc2"))[0]
    assert lint_qdq(choice.model, converted.kept_float) != []
    own = shift_logit(choice, config, shift_crops, converted.kept_float)
    assert converted.choice.raised == own.raised and own.model == converted.model


def test_the_linear_that_saves_most_comes_first(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    config, crops = tiny_student[1], pictures(16, 48, seed=3)
    ranked = ranked_linears(choice, config, crops)
    assert len(set(ranked)) == 4 * config.depth
    graph = build_float_graph(choice.state, config)
    reference = run_graph(graph, crops)
    errors = [agreement_error(reference, run_graph(quantize(graph, choice.limits, {n}), crops)) for n in ranked]
    assert errors == sorted(errors)
    assert errors[0] < agreement_error(reference, run_graph(choice.model, crops))


def test_weights_are_finetuned_only_where_sparing_did_not_do(
    choice: Choice, tiny_student: Any, pictures: Pictures, shift_crops: ShiftCrops
) -> None:
    asked: list[Choice] = []
    tuned = replace(choice, model=onnx.ModelProto(), finetuned="1 epochs")

    def finetune(given: Choice) -> Choice:
        asked.append(given)
        return tuned

    student = FloatModel(*tiny_student, pictures(16, 48, seed=1), pictures(8, 48, seed=3))
    kept_float = convert(choice, student, shift_crops, Judge(passing=1 + MAX_FLOAT), finetune=finetune)
    assert len(kept_float.kept_float) == MAX_FLOAT and not asked
    converted = convert(choice, student, shift_crops, Judge(passing=2 + MAX_FLOAT), finetune=finetune)
    assert asked == [choice] and converted.choice is tuned and converted.finetuned and converted.kept_float == ()
    assert convert(choice, student, shift_crops, Judge(passing=99), finetune=finetune).model is choice.model


def test_where_nothing_passes_the_plain_graph_and_its_verdict_are_returned(
    choice: Choice, tiny_student: Any, pictures: Pictures, shift_crops: ShiftCrops
) -> None:
    judge = Judge(passing=99)
    converted = convert(choice, FloatModel(*tiny_student, pictures(16, 48, seed=1), pictures(8, 48, seed=3)), shift_crops, judge)
    assert converted.model is choice.model and converted.kept_float == () and converted.gate == FAILED
    assert len(judge.seen) == 2 + MAX_FLOAT
