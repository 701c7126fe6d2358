"""Mixed precision: tried only where plain INT8 fails, the best linear first, plain again where nothing helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edge.bundle.manifest import GateResult  # noqa: E402
from export.mixed import MAX_SPARED, convert, ranked_linears  # noqa: E402
from export.onnx_graph import build_float_graph  # noqa: E402
from export.ort_graph import optimised_graph, run_graph  # noqa: E402
from export.quantize import Choice, agreement_error, lint_qdq, quantize, quantize_best  # noqa: E402

Pictures = Callable[..., np.ndarray]
PASSED = GateResult(True, False, 64, 32, 0, 0, 0.0, 0.01, 0.01, (), ())
FAILED = replace(PASSED, passed=False, positives_lost=1, flips=1, reasons=("1 positives lost",), flipped=("picture-3",))


@pytest.fixture
def choice(tiny_student: Any, pictures: Pictures) -> Choice:
    return quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2), alphas=(0.5,))


class Judge:
    """Passes the graph number `passing`, counted from 0; keeps what it was shown."""

    def __init__(self, passing: int):
        self.passing, self.seen = passing, []  # type: ignore[var-annotated]

    def __call__(self, model: Any) -> GateResult:
        self.seen.append(model)
        return PASSED if len(self.seen) > self.passing else FAILED


def test_a_graph_that_passes_is_left_alone(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    judge = Judge(passing=0)
    converted = convert(choice, tiny_student[1], pictures(8, 48, seed=3), judge)
    assert converted.model is choice.model and converted.spared == () and len(judge.seen) == 1


def test_linears_are_spared_one_by_one_until_the_gate_passes(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    config, crops = tiny_student[1], pictures(8, 48, seed=3)
    judge = Judge(passing=2)
    converted = convert(choice, config, crops, judge)
    assert converted.spared == tuple(ranked_linears(choice, config, crops)[:2]) and converted.gate.passed
    assert lint_qdq(converted.model, converted.spared) == []
    assert len(lint_qdq(converted.model)) == 4  # both sides of two linears are float, and said to be
    assert optimised_graph(converted.model).int8_linears == 4 * config.depth - 2
    assert "no such block linear" in lint_qdq(converted.model, (*converted.spared, "blocks.9.mlp.fc2"))[0]
    assert lint_qdq(choice.model, converted.spared) != []


def test_the_linear_that_saves_most_comes_first(choice: Choice, tiny_student: Any, pictures: Pictures) -> None:
    config, crops = tiny_student[1], pictures(16, 48, seed=3)
    ranked = ranked_linears(choice, config, crops)
    assert len(set(ranked)) == 4 * config.depth
    graph = build_float_graph(choice.state, config)
    reference = run_graph(graph, crops)
    errors = [agreement_error(reference, run_graph(quantize(graph, choice.limits, {n}), crops)) for n in ranked]
    assert errors == sorted(errors)
    assert errors[0] < agreement_error(reference, run_graph(choice.model, crops))


def test_where_nothing_passes_the_plain_graph_and_its_verdict_are_returned(
    choice: Choice, tiny_student: Any, pictures: Pictures
) -> None:
    judge = Judge(passing=99)
    converted = convert(choice, tiny_student[1], pictures(8, 48, seed=3), judge)
    assert converted.model is choice.model and converted.spared == () and converted.gate == FAILED
    assert len(judge.seen) == 1 + MAX_SPARED
