"""Sensitivity: the layer that was made costly is found, and sparing it is where the search stops."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge.engines.selftest import sigmoid  # noqa: E402
from edge.errors import InputError  # noqa: E402
from export.int8.log_odds_shift import HEAD_BIAS, ShiftCrops  # noqa: E402
from export.int8.onnx_graph import build_float_graph  # noqa: E402
from export.int8.ort_graph import run_graph  # noqa: E402
from export.int8.quantize import Choice, FloatModel, block_linears, collect_histograms, quantize  # noqa: E402
from export.report.gate import GateLimits  # noqa: E402
from export.report.sensitivity import Measured, markdown, sensitivity, study, svg  # noqa: E402

pytestmark = pytest.mark.kernels

Pictures = Callable[..., np.ndarray]


@pytest.fixture
def data(tiny_float_graph: Any, pictures: Pictures) -> Measured:
    crops = pictures(12, 48)
    p = sigmoid(run_graph(tiny_float_graph, crops).hygroma)
    return Measured(crops, (p >= np.median(p)).astype(int), float(np.median(p)))


def limits_of(graph: Any, crops: np.ndarray) -> dict[str, float]:
    return {name: h.limit("minmax") for name, h in collect_histograms(graph, crops).items()}


def test_the_damaged_layer_is_found_and_spared_first(tiny_float_graph: Any, data: Measured) -> None:
    limits = limits_of(tiny_float_graph, data.crops)
    bad = block_linears(tiny_float_graph)[-1]
    limits[bad.input[0]] /= 1000  # all but its smallest inputs saturate
    loose = GateLimits(positives_lost=12, flips=1.0, auc_drop=1.0)
    result = sensitivity(tiny_float_graph, limits, data, loose)
    names = [n.name for n in block_linears(tiny_float_graph)]
    assert [c.layer for c in result.layers] == names
    assert max(result.layers, key=lambda c: c.only.hygroma_rms).layer == bad.name
    assert min(result.layers, key=lambda c: c.spared.hygroma_rms).layer == bad.name
    assert [s.spared for s in result.search] == [()]  # passes at once: nothing is spared without need
    impossible = sensitivity(tiny_float_graph, limits, data, GateLimits(flips=-1.0))
    assert [len(s.spared) for s in impossible.search] == list(range(len(names) + 1))
    assert impossible.search[1].spared == (bad.name,)
    assert impossible.search[-1].gate.max_dp == 0  # every linear spared is the float graph
    rows = markdown(result).splitlines()
    assert sum(r.startswith(f"| {bad.name} |") for r in rows) == 2 and f"n = {len(data.crops)}" in rows[0]
    assert len([e for e in ET.fromstring(svg(result)).iter() if e.tag.endswith("rect")]) == 2 * len(names)
    json.dumps(result.to_dict())


def test_a_spared_linear_stays_float(tiny_float_graph: Any, data: Measured) -> None:
    limits = limits_of(tiny_float_graph, data.crops)
    first = block_linears(tiny_float_graph)[0]
    stored = {t.name for t in quantize(tiny_float_graph, limits, [first.name]).graph.initializer}
    assert first.input[1] in stored and f"{first.input[1]}.int8" not in stored


def test_the_gate_of_the_search_is_the_float_students_and_a_lean_costs_no_layer(
    tiny_float_graph: Any, tiny_student: Any, data: Measured
) -> None:
    state, config = tiny_student
    shifted = build_float_graph({**state, HEAD_BIAS: state[HEAD_BIAS] + 100.0}, config)  # calls every crop a hygroma
    limits, flips = limits_of(tiny_float_graph, data.crops), GateLimits(flips=0.25)
    result = sensitivity(shifted, limits, data, flips, student=tiny_float_graph)
    healthy = int((data.labels == 0).sum())
    assert {step.gate.flips for step in result.search} == {healthy} and not result.search[-1].gate.passed
    assert result.all.flips == 0 and max(c.only.hygroma_max for c in result.layers) < 0.01
    plain = sensitivity(tiny_float_graph, limits, data, flips)
    assert plain == sensitivity(tiny_float_graph, limits, data, flips, student=tiny_float_graph)


def test_a_study_judges_graphs_that_lean_by_their_own_rounding(
    tiny_float_graph: Any, tiny_student: Any, data: Measured
) -> None:
    state, config = tiny_student
    shifted = {**state, HEAD_BIAS: state[HEAD_BIAS] + 100.0}
    limits = limits_of(tiny_float_graph, data.crops)
    model = quantize(build_float_graph(shifted, config), limits)
    choice = Choice(model, 0.0, "minmax", {}, shifted, limits, raised=100.0)
    student, shift_crops = FloatModel(state, config, data.crops, data.crops), ShiftCrops.near(state, config, data.crops)
    found = study("made-up 1.0.0, fold 0", student, choice, shift_crops, data, lambda what, done, total: None)
    assert found.result.search[0].gate.flips == int((data.labels == 0).sum())
    steps = found.result.search[1:]  # the first is the choice's own graph
    assert steps and max(step.gate.max_dp for step in steps) < 0.05  # each leans by its own rounding, not by what was chosen
    assert found.result.all.hygroma_max < 0.01 and "raised by 100.000" in found.quantisation


def test_one_class_is_refused(tiny_float_graph: Any, data: Measured) -> None:
    with pytest.raises(InputError, match="both classes"):
        sensitivity(tiny_float_graph, {}, Measured(data.crops, np.ones(12), 0.5))
