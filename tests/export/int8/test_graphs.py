"""The float graph equals PyTorch; the INT8 graph is canonical, close to it, and really runs in INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edge.bundle import load_bundle  # noqa: E402
from edge.bundle.trust import SHIPPED_BUNDLE  # noqa: E402
from edge.engines.selftest import infer_all, sigmoid  # noqa: E402
from edge.errors import InputError  # noqa: E402
from edge.records import OUTPUT_NAMES  # noqa: E402
from export.int8.onnx_graph import build_float_graph, fold_patch_embedding  # noqa: E402
from export.int8.ort_graph import optimised_graph, run_graph  # noqa: E402
from export.int8.quantize import (  # noqa: E402
    ALPHAS,
    BINS,
    METHODS,
    TRIED,
    Histogram,
    block_linears,
    collect_histograms,
    lint_qdq,
    quantize,
    quantize_best,
    quantize_weight,
)
from export.int8.smoothquant import LINEARS, input_peaks, smooth  # noqa: E402
from export.model.torch_runner import TorchRunner  # noqa: E402
from export.model.vit import HygromaViT, ViTConfig, normalise  # noqa: E402

pytestmark = pytest.mark.kernels

Pictures = Callable[..., np.ndarray]


def test_folded_patch_embedding_equals_normalise_then_embed(tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    model = HygromaViT(config)
    model.load_state_dict(state)
    grey = np.concatenate([pictures(4, config.image), np.full((1, 1, 48, 48), 255, np.uint8)])
    with torch.inference_mode():
        expected = model.patch_embed(normalise(torch.from_numpy(grey)))
        weight, bias = fold_patch_embedding(
            state["patch_embed.proj.weight"].numpy(), state["patch_embed.proj.bias"].numpy()
        )
        found = torch.nn.functional.conv2d(
            torch.from_numpy(grey).float(), torch.from_numpy(weight), torch.from_numpy(bias), stride=config.patch
        )
    assert float((found.flatten(2).transpose(1, 2) - expected).abs().max()) < 1e-5
    graph = build_float_graph(state, config)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("patch_embed.tokens.out"))
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run(["patch_embed.tokens.out"], {"image": grey})
    np.testing.assert_allclose(tokens, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changed", [{}, {"layer_scale": False}, {"tap": 0}, {"tap": 2}], ids=str)
def test_float_graph_equals_pytorch(tiny_student: Any, pictures: Pictures, changed: dict[str, Any]) -> None:
    state, config = tiny_student
    config = dataclasses.replace(config, **changed)
    state = {name: value for name, value in state.items() if name in HygromaViT(config).state_dict()}
    if not config.tap:  # the head reads one vector less: without the early one, which stands second
        width, weight = config.width, state["hygroma_head.0.weight"]
        state["hygroma_head.0.weight"] = torch.cat([weight[:, :width], weight[:, 2 * width :]], 1)
    graph = build_float_graph(state, config)
    crops = pictures(5, 48)
    with TorchRunner(state, config) as runner:
        expected = infer_all(runner, crops)
    found = run_graph(graph, crops)
    for name in OUTPUT_NAMES:
        want = getattr(expected, name)
        assert want.std() > 1e-2  # the comparison means something
        np.testing.assert_allclose(getattr(found, name), want, atol=2e-5, rtol=1e-5)


def test_graphs_are_of_the_versions_that_old_runtimes_read(tiny_float_graph: Any, tiny_int8_graph: Any) -> None:
    for model in (tiny_float_graph, tiny_int8_graph):
        assert model.ir_version <= 10  # ONNX Runtime 1.23, the last for Python 3.10
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        assert sum(n.op_type == "LayerNormalization" for n in model.graph.node) == 6  # two a block, the last, the tap's
        assert model.graph.node[0].op_type == "Cast" and model.graph.input[0].name == "image"


def test_weights_are_stored_as_int8(tiny_float_graph: Any, tiny_int8_graph: Any) -> None:
    types = {t.name: t.data_type for t in tiny_int8_graph.graph.initializer}
    for node in block_linears(tiny_float_graph):
        assert node.input[1] not in types
        assert types[f"{node.input[1]}.int8"] == onnx.TensorProto.INT8
    assert len(tiny_int8_graph.SerializeToString()) < 0.55 * len(tiny_float_graph.SerializeToString())


def test_weight_grid_is_symmetric_per_output_and_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (32, 6)).astype(np.float32)
    weight[:, 2] = 0
    stored, scale, zero = (onnx.numpy_helper.to_array(t) for t in quantize_weight(weight, "w"))
    assert stored.dtype == zero.dtype == np.int8 and not zero.any() and stored.min() >= -127
    assert np.abs(stored * scale - weight).max(0) == pytest.approx(scale / 2, abs=float(scale.max()) / 2)
    assert not (stored * scale)[:, 2].any()


def test_every_block_linear_runs_in_int8(tiny_int8_graph: Any) -> None:
    optimised = optimised_graph(tiny_int8_graph)
    assert optimised.int8_linears == 8  # two blocks of qkv, proj, fc1, fc2
    assert not [name for name in optimised.float_linears if name.startswith("blocks.")], optimised
    assert optimised.ops["DequantizeLinear"] == 0  # nothing is dequantised only to be multiplied in float


def test_the_count_notices_a_float_linear(tiny_float_graph: Any) -> None:
    optimised = optimised_graph(tiny_float_graph)
    assert optimised.int8_linears == 0
    assert len([n for n in optimised.float_linears if n.startswith("blocks.")]) == 8


@pytest.mark.parametrize("layer_scale", [False, True])
def test_a_block_of_the_papers_vit_b16_becomes_a_canonical_graph(pictures: Pictures, layer_scale: bool) -> None:
    """USF-MAE's shape at its real width and picture size; one block of its twelve, for time."""
    config = ViTConfig(image=224, patch=16, width=768, depth=1, heads=12, layer_scale=layer_scale)
    torch.manual_seed(0)
    model, crops = HygromaViT(config).eval(), pictures(8, 224)
    choice = quantize_best(
        model.state_dict(), config, crops[:4], crops[4:], alphas=(0.0, 0.5), methods=("minmax", "mse")
    )
    assert lint_qdq(choice.model) == []
    optimised = optimised_graph(choice.model)
    assert optimised.int8_linears == 4 and not any(n.startswith("blocks.") for n in optimised.float_linears)
    with TorchRunner(model.state_dict(), config) as runner:
        wanted, found = infer_all(runner, crops), run_graph(choice.model, crops)
    assert np.abs(sigmoid(found.hygroma) - sigmoid(wanted.hygroma)).max() < 0.02
    assert np.linalg.norm(found.embedding - wanted.embedding) < 0.05 * np.linalg.norm(wanted.embedding)


def test_int8_graph_is_close_to_the_float_graph(
    tiny_float_graph: Any, tiny_int8_graph: Any, pictures: Pictures
) -> None:
    crops = pictures(64, 48, seed=9)
    expected, found = run_graph(tiny_float_graph, crops), run_graph(tiny_int8_graph, crops)
    assert np.abs(sigmoid(found.hygroma) - sigmoid(expected.hygroma)).max() < 0.05
    assert np.abs(sigmoid(found.plane) - sigmoid(expected.plane)).max() < 0.05
    gap = np.linalg.norm(found.embedding - expected.embedding, axis=1) / np.linalg.norm(expected.embedding, axis=1)
    assert 0 < gap.max() < 0.05


def test_the_method_with_the_least_heldout_error_is_chosen(tiny_student: Any, pictures: Pictures) -> None:
    choice = quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2))
    assert set(choice.errors) == {(alpha, method) for alpha in ALPHAS for method in METHODS}
    assert choice.errors[choice.alpha, choice.method] == min(choice.errors.values())
    again = quantize_best(*tiny_student, pictures(16, 48, seed=1), pictures(16, 48, seed=2))
    assert again.model.SerializeToString(deterministic=True) == choice.model.SerializeToString(deterministic=True)


def test_histograms_do_not_depend_on_the_order_of_the_crops(tiny_float_graph: Any, pictures: Pictures) -> None:
    crops = pictures(12, 48)
    there, back = collect_histograms(tiny_float_graph, crops), collect_histograms(tiny_float_graph, crops[::-1])
    assert len(there) == 8
    for name, histogram in there.items():
        assert histogram.top == pytest.approx(back[name].top, rel=1e-5)
        assert histogram.counts.sum() == back[name].counts.sum()
    with pytest.raises(InputError, match="found none"):
        collect_histograms(tiny_float_graph, crops[:0])


def test_range_methods_on_a_known_histogram() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // 4] = 1000  # all but one value within a quarter of the range
    counts[-1] = 1
    histogram = Histogram(8.0, counts)
    assert histogram.limit("minmax") == 8.0
    assert histogram.limit("percentile99.9") == pytest.approx(2.0, rel=0.01)
    assert 2.0 <= histogram.limit("mse") < 3.0
    for method in METHODS:
        assert Histogram(0.0, counts * 0).limit(method) == 1.0


def histogram(x: np.ndarray) -> Histogram:
    top = float(np.abs(x).max())
    return Histogram(top, np.histogram(np.abs(x), BINS, (0, top))[0])


def test_entropy_cuts_an_outlier_off_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    bell, even = rng.normal(size=200_000), rng.uniform(0, 3, 200_000)
    assert 4.0 < histogram(np.append(bell, 40.0)).limit("entropy") < 6.0  # deviations; the bell itself ends at 4.6
    assert histogram(even).limit("entropy") == histogram(even).top  # whatever is cut off is much
    only_the_largest = np.zeros(BINS, np.int64)
    only_the_largest[-1] = 9
    assert Histogram(2.0, only_the_largest).limit("entropy") == 2.0


def test_entropy_is_the_least_divergence_from_what_int8_leaves() -> None:
    """Against scipy's, with the levels filled one by one."""
    from scipy.stats import entropy

    found = histogram(np.random.default_rng(1).standard_t(3, 20_000))

    def divergence(kept: int) -> float:
        inside = found.counts[:kept]
        clipped = inside.astype(float)
        clipped[-1] += found.counts[kept:].sum()
        levels = [min(round((i + 0.5) / kept * 127), 127) for i in range(kept)]
        left = np.zeros(kept)
        for level in range(128):
            members = [i for i in range(kept) if levels[i] == level and inside[i]]
            left[members] = inside[members].sum() / max(1, len(members))
        left[-1] = max(left[-1], 0.5)
        return float(entropy(clipped, left))

    tried = {int(round(share * BINS)): divergence(int(round(share * BINS))) for share in TRIED[::5]}
    best = min(tried, key=lambda kept: tried[kept])
    assert found._divergence(best) == pytest.approx(tried[best], abs=1e-4)
    assert min(tried, key=found._divergence) == best
    assert divergence(round(found.limit("entropy") / found.top * BINS)) <= tried[best] + 1e-4


def edited(model: Any, edit: Callable[[Any], None]) -> Any:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    edit(out.graph)
    return out


def initializer(graph: Any, suffix: str) -> Any:
    return next(t for t in graph.initializer if t.name.endswith(suffix))


def replace(tensor: Any, value: np.ndarray) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def unsigned_activation(graph: Any) -> None:
    replace(initializer(graph, "zero_point"), np.array(128, np.uint8))


def shifted_zero(graph: Any) -> None:
    tensor = next(t for t in graph.initializer if t.name == "zero_point")
    replace(tensor, np.array(3, np.int8))


def per_tensor_weight(graph: Any) -> None:
    replace(initializer(graph, "qkv.weight.scale"), np.array(0.1, np.float32))


def quantised_bias(graph: Any) -> None:
    add = next(n for n in graph.node if n.name == "blocks.0.attn.qkv.bias_add")
    bias = onnx.numpy_helper.from_array(np.zeros((1, 1, 192), np.int32), "b32")
    graph.initializer.append(bias)
    node = onnx.helper.make_node("DequantizeLinear", ["b32", "one", "zero_point"], ["b32.dq"], name="b32.dq")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "one"))
    graph.node.insert(0, node)
    add.input[1] = "b32.dq"


def zero_scale(graph: Any) -> None:
    tensor = initializer(graph, "qkv.weight.scale")
    value = onnx.numpy_helper.to_array(tensor).copy()
    value[3] = 0.0
    replace(tensor, value)


def infinite_scale(graph: Any) -> None:
    replace(initializer(graph, "norm1.out.scale"), np.array(np.inf, np.float32))


def scales_of_rows(graph: Any) -> None:
    node = next(n for n in graph.node if n.name == "blocks.1.attn.proj.weight.dq")  # a square weight
    next(a for a in node.attribute if a.name == "axis").i = 0


def unsigned_inside(graph: Any) -> None:
    """The image a second time, as an activation."""
    graph.node.append(onnx.helper.make_node("Identity", ["image"], ["again"], name="again"))
    graph.output.append(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.UINT8, None))


def dynamic_quantiser(graph: Any) -> None:
    outputs = ["d", "d.scale", "d.zero"]
    graph.node.append(onnx.helper.make_node("DynamicQuantizeLinear", ["blocks.0.norm1.out"], outputs, name="dynamic"))


def integer_product(graph: Any) -> None:
    """As ONNX Runtime's own formats have it: int8 on both sides, and no quantiser to look at."""
    node = next(n for n in graph.node if n.name == "blocks.1.mlp.fc2")
    quantised = [next(n for n in graph.node if n.output[0] == name).input[0] for name in node.input]
    node.op_type = "MatMulInteger"
    node.input[:] = quantised


def float_linear(graph: Any) -> None:
    node = next(n for n in graph.node if n.name == "blocks.1.mlp.fc2")
    node.input[0] = node.input[0].removesuffix(".dq")


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (unsigned_activation, "zero_point is unsigned"),
        (zero_scale, "scale must be finite and above 0"),
        (infinite_scale, "scale must be finite and above 0"),
        (shifted_zero, "zero-point must be 0"),
        (per_tensor_weight, "scale must be constant, per channel"),
        (quantised_bias, "a bias must stay float"),
        (scales_of_rows, "scales must be of the weight's columns, axis 1"),
        (unsigned_inside, "again is unsigned; only the image may be"),
        (dynamic_quantiser, "d is unsigned; only the image may be"),
        (dynamic_quantiser, "dynamic: DynamicQuantizeLinear; only QuantizeLinear"),
        (integer_product, "blocks.1.mlp.fc2: MatMulInteger; only QuantizeLinear"),
        (float_linear, "blocks.1.mlp.fc2: input 0 is not quantised"),
    ],
)
def test_lint_sees_what_is_not_canonical(tiny_int8_graph: Any, edit: Callable[[Any], None], problem: str) -> None:
    assert lint_qdq(tiny_int8_graph) == []
    found = lint_qdq(edited(tiny_int8_graph, edit))
    assert any(problem in text for text in found), found


def test_the_shipped_graph_is_canonical() -> None:
    shipped = load_bundle(SHIPPED_BUNDLE)
    model = onnx.load_from_string(shipped.model)
    assert lint_qdq(model) == []
    assert shipped.manifest.provenance.quantisation.startswith(f"INT8 on {len(block_linears(model))} matrix products")


@pytest.mark.parametrize("opsets", [[("", 20)], [("", 17), ("com.microsoft", 1)], []])
def test_lint_sees_another_opset(tiny_int8_graph: Any, opsets: list[tuple[str, int]]) -> None:
    model = edited(tiny_int8_graph, lambda graph: None)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in opsets)
    assert any("expected ai.onnx 17 alone" in problem for problem in lint_qdq(model))


def test_lint_sees_a_graph_that_was_not_quantised(tiny_float_graph: Any) -> None:
    assert len(lint_qdq(tiny_float_graph)) == 16  # two sides of eight products


def test_a_missing_range_is_an_error_not_a_default(tiny_float_graph: Any) -> None:
    with pytest.raises(KeyError):
        quantize(tiny_float_graph, {})


def test_smoothing_changes_nothing_in_float_and_evens_the_inputs(tiny_student: Any, pictures: Pictures) -> None:
    state, config = tiny_student
    state = {name: value.clone() for name, value in state.items()}
    state["blocks.0.norm1.weight"][3] *= 40  # outlier channels, as trained transformers have
    state["blocks.1.mlp.fc1.weight"][5] *= 40
    crops = pictures(8, 48)
    peaks = input_peaks(state, config, crops)
    smoothed = smooth(state, config, peaks, 0.5)
    before, after = (
        run_graph(build_float_graph(state, config), crops),
        run_graph(build_float_graph(smoothed, config), crops),
    )
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=5e-4, rtol=1e-4)
    ranges = [collect_histograms(build_float_graph(s, config), crops) for s in (state, smoothed)]
    inputs = [{n.name: n.input[0] for n in block_linears(build_float_graph(s, config))} for s in (state, smoothed)]
    for linear in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2"):
        was, found = (tops[names[linear]].top for tops, names in zip(ranges, inputs, strict=True))
        assert found < 0.5 * was, linear
    assert set(peaks) == {f"blocks.{i}.{linear}" for i in range(2) for linear in LINEARS}
