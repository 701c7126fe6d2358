"""Every graph that is shipped parses and builds as a strongly typed engine in NVIDIA's own builder, on a machine without a GPU.

TensorRT-RTX is TensorRT's sibling with the same parser. A build shows that the graph parses and is legal when strongly typed, no
more: RTX lists INT8 as weight-only GEMM, and neither compute capability 8.7 (Orin) nor 9.0. Tactics, fusion, latency and numbers
stay open.
"""

from __future__ import annotations

import pytest

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: pip install -e '.[rtx]' (95 MB)")
pytest.importorskip("onnx")

from edge.bundle import ANYONE, load_bundle
from edge.engines.graph_forms import PRECISIONS
from edge.engines.tensorrt.api import describe
from edge.engines.tensorrt.build import BuildOptions, build_plan
from edge.errors import EngineError
from edge.watching import SHIPPED_BUNDLE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_shipped_graph_builds_in_every_form(precision: str) -> None:
    api = describe(rtx)
    assert api.strongly_typed
    phases: list[tuple[str, int, int]] = []
    model = load_bundle(SHIPPED_BUNDLE, ANYONE).model
    plan, timing = build_plan(api, model, BuildOptions(precision), progress=lambda *state: phases.append(state))
    assert len(plan) > 10_000 and timing
    assert phases and phases[-1][1] == phases[-1][2]


def test_what_is_no_graph_is_refused_in_tensorrts_words() -> None:
    with pytest.raises(EngineError, match="does not parse: .*MODEL_DESERIALIZE_FAILED"):
        build_plan(describe(rtx), b"not a graph", BuildOptions("int8"))


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_a_block_of_the_papers_teacher_builds_too(precision: str) -> None:
    """The shape of USF-MAE's ViT-B/16, one block of its twelve."""
    torch = pytest.importorskip("torch")
    from export.int8.onnx_graph import build_float_graph
    from export.int8.quantize import block_linears, quantize
    from export.model.vit import HygromaViT, ViTConfig

    torch.manual_seed(0)
    config = ViTConfig(image=224, patch=16, width=768, depth=1, heads=12, layer_scale=False)
    graph = build_float_graph(HygromaViT(config).state_dict(), config)
    model = quantize(graph, {node.input[0]: 4.0 for node in block_linears(graph)}).SerializeToString()
    plan, _ = build_plan(describe(rtx), model, BuildOptions(precision))
    assert len(plan) > 1_000_000
