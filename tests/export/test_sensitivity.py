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
from export.gate import GateLimits  # noqa: E402
from export.ort_graph import run_graph  # noqa: E402
from export.quantize import block_linears, collect_histograms, quantize  # noqa: E402
from export.sensitivity import Measured, markdown, sensitivity, svg  # noqa: E402

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


def test_one_class_is_refused(tiny_float_graph: Any, data: Measured) -> None:
    with pytest.raises(InputError, match="both classes"):
        sensitivity(tiny_float_graph, {}, Measured(data.crops, np.ones(12), 0.5))
