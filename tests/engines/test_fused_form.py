"""The form for ONNX Runtime on x86 computes what the canonical graph does, and leaves alone what it does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.tiny_onnx import one_op
from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines import onnxruntime_runner
from edge.engines.fused_form import fuse
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner, has_vnni, open_session, session_options
from edge.onnx_bytes import fields, read_varint
from edge.records import OUTPUT_NAMES

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
        found, wanted = (outputs(m, crops[i : i + count]) for m in (fuse(bundle.model), bundle.model))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_products_take_their_bias_and_their_attention_and_nothing_else_changes(tiny_int8_graph: Any) -> None:
    model, depth = tiny_int8_graph.SerializeToString(), 2
    before, after = ops(model), ops(fuse(model))
    assert (after.pop("MatMulIntegerToFloat"), after.pop("QAttention")) == (3 * depth, depth)
    inside = {"Split": 1, "Reshape": 4, "Transpose": 4, "Softmax": 1, "MatMul": 6, "Add": 4, "DequantizeLinear": 8}
    gone = {kind: n - after.get(kind, 0) for kind, n in before.items()}
    assert {kind: n for kind, n in gone.items() if n} == {kind: n * depth for kind, n in inside.items()}
    assert set(after) <= set(before)
    onnx.checker.check_model(onnx.load_from_string(fuse(model)))


@needs_vnni
def test_a_tiny_graph_keeps_its_numbers_too(tiny_int8_graph: Any, pictures: Any) -> None:
    model, crops = tiny_int8_graph.SerializeToString(), pictures(4, 48)
    for a, b in zip(outputs(fuse(model), crops), outputs(model, crops), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


NO_ATTENTION: dict[str, tuple[str, Callable[[Any], None]]] = {  # a node of the first block, and what is done to it
    "another axis": ("blocks.0.attn.softmax", lambda node: set_int(node, "axis", 2)),
    "another order": ("blocks.0.attn.merge", lambda node: set_ints(node, "perm", [0, 2, 3, 1])),
    "keys as they are": ("blocks.0.attn.k.heads", lambda node: set_ints(node, "perm", [0, 2, 1, 3])),
    "queries and keys change places": ("blocks.0.attn.scores", lambda node: node.input.reverse()),
    "values and weights change places": ("blocks.0.attn.mix", lambda node: node.input.reverse()),
    "another function": ("blocks.0.attn.softmax", lambda node: setattr(node, "op_type", "LogSoftmax")),
    "queries stand last": ("blocks.0.attn.split", lambda node: node.output.reverse()),
}


def set_int(node: Any, name: str, value: int) -> None:
    next(a for a in node.attribute if a.name == name).i = value


def set_ints(node: Any, name: str, values: list[int]) -> None:
    next(a for a in node.attribute if a.name == name).ints[:] = values


@pytest.mark.parametrize("change", NO_ATTENTION)
def test_what_is_no_attention_keeps_its_nodes(tiny_int8_graph: Any, change: str) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_int8_graph)
    name, alter = NO_ATTENTION[change]
    alter(next(node for node in proto.graph.node if node.name == name))
    found = onnx.load_from_string(fuse(proto.SerializeToString())).graph
    assert [node.name for node in found.node if node.op_type == "QAttention"] == ["blocks.1.attn.qkv.attention"]
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in found.node) == 7


@needs_vnni
@pytest.mark.parametrize("seen", ["blocks.0.attn.q", "blocks.0.attn.softmax.out", "blocks.0.attn.qkv.bias_add.out"])
def test_attention_that_something_else_looks_into_keeps_its_nodes(tiny_int8_graph: Any, pictures: Any, seen: str) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_int8_graph)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(seen))
    model = proto.SerializeToString()
    assert ops(fuse(model))["QAttention"] == 1
    for a, b in zip(outputs(fuse(model), pictures(2, 48)), outputs(model, pictures(2, 48)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@needs_vnni
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_of_any_number_of_heads_keeps_its_numbers(tiny_student: Any, pictures: Any, heads: int) -> None:
    """A head of 64, 32 and 8 values: what the queries are divided by is a power of two for none but the first."""
    from export.int8.quantize import quantize_best

    state, config = tiny_student
    config = dataclasses.replace(config, heads=heads)
    once = {"alphas": (0.5,), "methods": ("minmax",)}
    choice = quantize_best(state, config, pictures(8, 48, seed=1), pictures(8, 48, seed=2), **once)
    model, crops = choice.model.SerializeToString(), pictures(3, 48)
    assert ops(fuse(model))["QAttention"] == config.depth
    for a, b in zip(outputs(fuse(model), crops), outputs(model, crops), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_float_graph_stays_as_it_is(tiny_float_graph: Any) -> None:
    model = tiny_float_graph.SerializeToString()
    assert fuse(model) == model


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
    fused = fuse(model)
    assert (ops(fused)["MatMulIntegerToFloat"], ops(fused)["QAttention"]) == (6, 1)  # of eight products in two blocks
    assert any(
        node.name == product.name and node.op_type == "MatMul" for node in onnx.load_from_string(fused).graph.node
    )
    crops = pictures(2, 48)
    for a, b in zip(outputs(fused, crops), outputs(model, crops), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@needs_vnni
@pytest.mark.parametrize("change", ["a zero-point without raw bytes", "scales of rows", "one bias for all"])
def test_what_only_looks_like_a_biased_product_keeps_its_numbers(
    tiny_int8_graph: Any, pictures: Any, change: str
) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(tiny_int8_graph)
    nodes, tensors = ({x.name: x for x in part} for part in (proto.graph.node, proto.graph.initializer))
    product, total = nodes["blocks.0.attn.proj"], nodes["blocks.0.attn.proj.bias_add"]
    activation, weight = (next(n for n in proto.graph.node if n.output[0] == name) for name in product.input)
    if change == "a zero-point without raw bytes":
        proto.graph.initializer.append(onnx.helper.make_tensor("three", onnx.TensorProto.INT8, [], [3]))
        quantiser = next(n for n in proto.graph.node if n.output[0] == activation.input[0])
        quantiser.input[2] = activation.input[2] = "three"
    elif change == "scales of rows":  # a square weight, so that nothing else tells
        set_int(weight, "axis", 0)
    else:
        tensors[total.input[1]].CopyFrom(onnx.numpy_helper.from_array(np.float32(0.5), total.input[1]))
    model = proto.SerializeToString()
    fused = fuse(model)
    assert ops(fused)["MatMulIntegerToFloat"] == 5  # of six beside attention
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
    assert given == [fuse(model) if vnni else model]


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
