"""Derived forms compute what the canonical graph does, to the tolerances that the module states."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

onnx = pytest.importorskip("onnx")

from edge.bundle import load_bundle
from edge.bundle.manifest import Calibration, Tolerance
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines import selftest
from edge.engines.graph_forms import (
    FP16_TOLERANCE,
    MIXED_TOLERANCE,
    graph_for,
    half_typed,
    strip_quantisers,
)
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.selftest import SAME_GRAPH_TOLERANCE, difference
from edge.errors import EngineError
from edge.records import OUTPUT_NAMES, RawOutputs

CALIBRATION = Calibration(1.0, 1.0)


def run(model: bytes, crops: np.ndarray) -> RawOutputs:
    with OnnxRuntimeRunner(model) as runner:
        return selftest.infer_all(runner, crops)  # a graph of several tests is asked once (tests/conftest.py)


def run_plainly(model: bytes, crops: np.ndarray) -> RawOutputs:
    """ONNX Runtime without its optimiser: nothing fused, every quantiser a node of its own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return RawOutputs(*session.run(OUTPUT_NAMES, {"image": crops}))


def run_by_definition(model: bytes, crops: np.ndarray) -> RawOutputs:
    """The onnx package's own reference, whose quantisers begin at opset 19 and mean the same there."""
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load_from_string(model)
    proto.opset_import[0].version = 19
    return RawOutputs(*ReferenceEvaluator(proto).run(list(OUTPUT_NAMES), {"image": crops}))


def run_in_openvino(model: bytes, crops: np.ndarray) -> RawOutputs:
    if not has_openvino():
        pytest.skip("OpenVINO is not installed: the extra `openvino`")
    with OpenVinoRunner(model) as runner:
        return selftest.infer_all(runner, crops)  # a graph of several tests is asked once (tests/conftest.py)


def assert_within(found: RawOutputs, wanted: RawOutputs, limit: Tolerance) -> None:
    measured = asdict(difference(found, wanted, CALIBRATION))
    assert all(measured[name] <= value for name, value in asdict(limit).items()), measured


@pytest.fixture(scope="module")
def canonical(tiny_int8_graph: Any) -> bytes:
    return bytes(tiny_int8_graph.SerializeToString())


def test_which_form_is_for_what(canonical: bytes) -> None:
    assert graph_for(canonical, "int8", True) == graph_for(canonical, "int8", False) == canonical
    assert graph_for(canonical, "mixed", False) == canonical
    assert graph_for(canonical, "mixed", True) == half_typed(canonical)
    assert graph_for(canonical, "fp16", False) == graph_for(canonical, "fp32", True) == strip_quantisers(canonical)
    assert graph_for(canonical, "fp16", True) == half_typed(strip_quantisers(canonical))
    with pytest.raises(EngineError, match="'int4'; expected one of int8"):
        graph_for(canonical, "int4", True)


def test_stripping_leaves_the_float_graph_with_the_quantised_weights(tiny_float_graph: Any, pictures: Any) -> None:
    """The float graph whose block weights are rounded to the canonical grid is what stripping must give back."""
    from export.int8.quantize import block_linears, quantize, quantize_weight

    wanted = onnx.ModelProto()
    wanted.CopyFrom(tiny_float_graph)
    rounded = {n.input[1] for n in block_linears(wanted)}
    for tensor in wanted.graph.initializer:
        if tensor.name in rounded:
            weight = onnx.numpy_helper.to_array(tensor)
            values, scale, _ = (onnx.numpy_helper.to_array(t) for t in quantize_weight(weight, "w"))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32) * scale, tensor.name))
    stripped = strip_quantisers(quantize(tiny_float_graph, defaultdict(lambda: 1.0)).SerializeToString())
    assert not any("Quantize" in node.op_type for node in onnx.load_from_string(stripped).graph.node)
    crops = pictures(8, 48)
    a, b = run(stripped, crops), run(wanted.SerializeToString(), crops)
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "limit"), [("fp16", FP16_TOLERANCE), ("mixed", MIXED_TOLERANCE)])
def test_fp16_typed_forms_keep_the_numbers(canonical: bytes, pictures: Any, precision: str, limit: Tolerance) -> None:
    crops = pictures(32, 48)
    sibling = canonical if precision == "mixed" else strip_quantisers(canonical)
    assert_within(run(graph_for(canonical, precision, True), crops), run(sibling, crops), limit)


@pytest.mark.parametrize(("precision", "limit"), [("fp16", FP16_TOLERANCE), ("mixed", MIXED_TOLERANCE)])
def test_of_the_shipped_bundle_too(precision: str, limit: Tolerance) -> None:
    bundle = load_bundle(SHIPPED_BUNDLE)
    inputs = bundle.golden().inputs[::4]  # ONNX Runtime has no kernels of float16: it casts there and back
    sibling = bundle.model if precision == "mixed" else strip_quantisers(bundle.model)
    assert_within(run(graph_for(bundle.model, precision, True), inputs), run(sibling, inputs), limit)


@pytest.mark.parametrize("other", [run_plainly, run_by_definition, run_in_openvino])
def test_whoever_computes_the_canonical_graph_gives_the_same_numbers(
    canonical: bytes, pictures: Any, other: Any
) -> None:
    crops = pictures(32, 48)
    assert_within(other(canonical, crops), run(canonical, crops), SAME_GRAPH_TOLERANCE)


@pytest.mark.parametrize("other", [run_plainly, run_in_openvino])
def test_the_shipped_graph_too(other: Any) -> None:
    bundle = load_bundle(SHIPPED_BUNDLE)
    inputs = bundle.golden().inputs
    assert_within(other(bundle.model, inputs), run(bundle.model, inputs), SAME_GRAPH_TOLERANCE)


def test_the_page_states_the_tolerances_that_are_tested() -> None:
    """docs/notebook/quantisation.md"""
    pytest.importorskip("torch")
    from export.bundle import TOLERANCE_FACTOR, TOLERANCE_FLOOR

    page = (Path(__file__).parents[2] / "docs" / "notebook" / "quantisation.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    stated = {row[0]: row[2] for row in rows if len(row) == 4}

    def words(limit: Tolerance) -> str:
        return ", ".join(f"{value:.2f}".removeprefix("0") for value in asdict(limit).values())

    for form in ("ONNX's reference", "ONNX Runtime without its optimiser", "OpenVINO 2026.4"):
        assert stated[f"canonical, {form}"] == words(SAME_GRAPH_TOLERANCE)
    assert stated["FP16-typed, quantisers stripped"] == words(FP16_TOLERANCE)
    assert stated['FP16-typed, with quantisers ("mixed")'] == words(MIXED_TOLERANCE)
    at_start = f"twice what the canonical graph differs from PyTorch by, plus {words(TOLERANCE_FLOOR)}"
    assert stated["any runner, at every start"] == at_start and TOLERANCE_FACTOR == 2


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_nothing_stays_fp32_inside(canonical: bytes, precision: str) -> None:
    model = onnx.load_from_string(graph_for(canonical, precision, True))
    assert not [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    single = [v.name for v in inferred.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    assert not single
    assert model.opset_import[0].version >= 19
    original = onnx.load_from_string(canonical).graph
    assert list(model.graph.input) == list(original.input) and list(model.graph.output) == list(original.output)


def test_mixed_keeps_every_int8_weight_bit_for_bit(canonical: bytes) -> None:
    def weights(data: bytes) -> dict[str, bytes]:
        tensors = onnx.load_from_string(data).graph.initializer
        return {
            t.name: onnx.numpy_helper.to_array(t).tobytes() for t in tensors if t.data_type == onnx.TensorProto.INT8
        }

    assert weights(canonical) and weights(half_typed(canonical)) == weights(canonical)


def test_an_operator_never_looked_at_is_refused(canonical: bytes) -> None:
    model = onnx.load_from_string(canonical)
    model.graph.node[0].op_type = "Resize"
    with pytest.raises(EngineError, match="found Resize; no FP16 form"):
        half_typed(model.SerializeToString())


def test_a_weight_beyond_fp16_is_refused(canonical: bytes) -> None:
    model = onnx.load_from_string(canonical)
    tensor = next(t for t in model.graph.initializer if t.name == "norm.weight")
    value = onnx.numpy_helper.to_array(tensor).copy()
    value[0] = 70000
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    with pytest.raises(EngineError, match="norm.weight holds 70000; FP16 ends at 65504"):
        half_typed(model.SerializeToString())


def test_a_scale_too_small_for_fp16_does_not_become_zero(canonical: bytes) -> None:
    model = onnx.load_from_string(canonical)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("weight.scale"))
    value = onnx.numpy_helper.to_array(tensor).copy()
    value[0] = 1e-9
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    half = onnx.load_from_string(half_typed(model.SerializeToString()))
    assert all(onnx.numpy_helper.to_array(t).min() > 0 for t in half.graph.initializer if t.name.endswith(".scale"))


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        strip_quantisers(b"\xff\xff not a graph")
