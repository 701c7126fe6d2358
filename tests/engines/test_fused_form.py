"""The form for ONNX Runtime on x86 computes what the canonical graph does, and leaves alone what it does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.tiny_onnx import one_op
from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines import onnxruntime_runner
from edge.engines.fused_form import fuse_products
from edge.engines.onnx_bytes import fields, read_varint
from edge.engines.onnxruntime_runner import OUTPUT_NAMES, OnnxRuntimeRunner, has_vnni, open_session, session_options

onnx = pytest.importorskip("onnx")
needs_vnni = pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI: its unsigned products saturate")


def outputs(model: bytes, crops: np.ndarray) -> list[np.ndarray]:
    """In ONNX Runtime with the daemon's options but for what `open_session` does to the graph."""
    session = ort.InferenceSession(
        model,
        session_options(1, False),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(onnxruntime_runner.WITHOUT_FUSIONS),
    )
    return list(session.run(OUTPUT_NAMES, {"image": crops}))


def ops(model: bytes) -> dict[str, int]:
    kinds = [node.op_type for node in onnx.load_from_string(model).graph.node]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


@needs_vnni
@pytest.mark.parametrize("count", [1, 3])
def test_the_shipped_graph_keeps_its_numbers_to_the_last_digits(count: int) -> None:
    bundle = load_bundle(SHIPPED_BUNDLE)
    crops = bundle.golden().inputs
    for i in range(0, 12, count):
        found, wanted = (outputs(m, crops[i : i + count]) for m in (fuse_products(bundle.model), bundle.model))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_every_block_product_takes_its_bias_and_nothing_else_changes(tiny_int8_graph: Any) -> None:
    model = tiny_int8_graph.SerializeToString()
    before, after = ops(model), ops(fuse_products(model))
    products = before["DequantizeLinear"] - before["QuantizeLinear"]  # one a weight, one an activation
    assert after["MatMulIntegerToFloat"] == products and "DequantizeLinear" not in after
    assert before["MatMul"] - after["MatMul"] == before["Add"] - after["Add"] == products
    rest = {"MatMul", "Add", "DequantizeLinear", "MatMulIntegerToFloat"}
    assert {k: n for k, n in before.items() if k not in rest} == {k: n for k, n in after.items() if k not in rest}
    onnx.checker.check_model(onnx.load_from_string(fuse_products(model)))


@needs_vnni
def test_a_tiny_graph_keeps_its_numbers_too(tiny_int8_graph: Any, pictures: Any) -> None:
    model, crops = tiny_int8_graph.SerializeToString(), pictures(4, 48)
    for a, b in zip(outputs(fuse_products(model), crops), outputs(model, crops), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_float_graph_stays_as_it_is(tiny_float_graph: Any) -> None:
    model = tiny_float_graph.SerializeToString()
    assert fuse_products(model) == model


@needs_vnni
@pytest.mark.parametrize("change", ["a second reader of the product", "a zero-point", "no bias", "spared"])
def test_what_does_not_fit_stays_a_quantised_product(tiny_int8_graph: Any, pictures: Any, change: str) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_int8_graph)
    nodes = {node.name: node for node in proto.graph.node}
    product, total = nodes["blocks.0.attn.qkv"], nodes["blocks.0.attn.qkv.bias_add"]
    dequantised = next(n for n in proto.graph.node if n.output[0] == product.input[0])
    if change == "a second reader of the product":
        proto.graph.node.append(onnx.helper.make_node("Identity", [product.output[0]], ["seen"], name="seen"))
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("seen"))
    elif change == "a zero-point":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(3, np.int8), "three"))
        for node in proto.graph.node:
            if node.name == dequantised.name or node.output[0] == dequantised.input[0]:
                node.input[2] = "three"
    elif change == "no bias":
        total.op_type = "Sub"
    else:
        product.input[0] = next(n for n in proto.graph.node if n.output[0] == dequantised.input[0]).input[0]
    model = proto.SerializeToString()
    fused = fuse_products(model)
    assert (
        ops(fused)["MatMulIntegerToFloat"]
        == ops(fuse_products(tiny_int8_graph.SerializeToString()))["MatMulIntegerToFloat"] - 1
    )
    assert any(
        node.name == product.name and node.op_type == "MatMul" for node in onnx.load_from_string(fused).graph.node
    )
    crops = pictures(2, 48)
    for a, b in zip(outputs(fused, crops), outputs(model, crops), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("vnni", [True, False])
def test_the_fused_form_is_for_machines_that_do_not_saturate(
    tiny_int8_graph: Any, monkeypatch: pytest.MonkeyPatch, vnni: bool
) -> None:
    given = []
    monkeypatch.setattr(onnxruntime_runner, "has_vnni", lambda: vnni)
    monkeypatch.setattr(onnxruntime_runner.ort, "InferenceSession", lambda model, *_, **__: given.append(model))
    model = tiny_int8_graph.SerializeToString()
    open_session(model, session_options(1, False))
    assert given == [fuse_products(model) if vnni else model]


def test_the_runner_still_says_what_is_no_model(tmp_path: Any) -> None:
    from edge.errors import EngineError

    whole = load_bundle(SHIPPED_BUNDLE).model
    (tmp_path / "cut.onnx").write_bytes(whole[:100_000])
    for broken in (b"", b"\xff" * 50, whole[:100_000], tmp_path / "cut.onnx", tmp_path / "none.onnx"):
        with pytest.raises(EngineError, match="cannot load the model"):
            OnnxRuntimeRunner(broken).__enter__()


def test_fields_are_read_as_they_were_written() -> None:
    model = one_op("MatMulInteger", [("a", "uint8", (300, 20))], {"b": np.ones((20, 15), np.int8)}, ("int32", 2))
    assert b"".join(raw for _, _, _, raw in fields(model)) == model
    assert [(number, read_varint(value)[0]) for number, kind, value, _ in fields(model) if kind == 0] == [(1, 8)]


@pytest.mark.parametrize("cut", [1, 7, 30, 200])
def test_a_message_that_breaks_off_is_refused(cut: int) -> None:
    model = one_op("MatMulInteger", [("a", "uint8", (300, 20))], {"b": np.ones((20, 15), np.int8)}, ("int32", 2))
    with pytest.raises(ValueError, match="breaks off|does not end"):
        list(fields(model[: len(model) - cut]))


def test_a_field_of_no_known_type_is_refused() -> None:
    with pytest.raises(ValueError, match="wire type 3"):
        list(fields(b"\x0b"))
