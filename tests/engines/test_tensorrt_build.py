"""One builder for every TensorRT: what it asks of each, driven through fakes that have only that version's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes.tensorrt_fake import World, recorded

from edge.bundle import Bundle
from edge.engines.graph_forms import PRECISIONS
from edge.engines.tensorrt.build import BuildOptions, build_engine, build_plan
from edge.engines.tensorrt.cache import PLAN_FILE, EngineCache
from edge.engines.tensorrt.host import Host, cached_engine
from edge.engines.tensorrt.layers import LayerSummary, summarise
from edge.errors import EngineError

WEAK = {"8.6.1", "10.3.0", "10.7.0"}
WEAK_FLAGS = {"int8": ["INT8", "TF32"], "fp16": ["FP16", "TF32"], "mixed": ["FP16", "INT8", "TF32"], "fp32": []}


@pytest.mark.parametrize("version", sorted(recorded()))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_builds_on_every_version(
    host_of: Callable[[str], Host], world: World, tiny_bundle: Bundle, version: str, precision: str
) -> None:
    host = host_of(version)
    seen: list[Any] = []
    options = BuildOptions(precision, batch=2, workspace_mb=64, level=4)
    built = build_engine(host.api, tiny_bundle.model, options, progress=lambda *state: seen.append(state))
    about = world.builds[-1]
    assert about["kind"] == precision and about["strong"] == (version not in WEAK)
    assert about["explicit"] is (None if version.startswith("11.") else True)
    strong_flags = [] if precision == "fp32" else ["TF32"]
    assert about["flags"] == (WEAK_FLAGS[precision] if version in WEAK else strong_flags)
    assert (about["batch"], about["level"], about["limits"]) == (2, 4, {"WORKSPACE": 64 * 2**20})
    assert about["detailed"] and built.summary == LayerSummary(2, 1, 1, 0, 0, 0, 1, 1)
    assert bool(seen) == (not version.startswith("8."))
    assert built.timing == b"+" and built.took_s > 0


@pytest.mark.parametrize("version", sorted(recorded()))
def test_tactics_of_other_libraries_can_be_kept_out(
    host_of: Callable[[str], Host], world: World, tiny_bundle: Bundle, version: str
) -> None:
    host = host_of(version)
    build_plan(host.api, tiny_bundle.model, BuildOptions("int8", library_tactics=False))
    sources = host.api.trt.TacticSource
    assert world.builds[-1]["sources"] == 1 << sources.EDGE_MASK_CONVOLUTIONS | 1 << sources.JIT_CONVOLUTIONS


def test_the_timing_cache_is_handed_on_and_a_foreign_one_dropped(host: Host, world: World, tiny_bundle: Bundle) -> None:
    _, after = build_plan(host.api, tiny_bundle.model, BuildOptions("int8"), b"mine")
    assert after == b"mine+"
    _, after = build_plan(host.api, tiny_bundle.model, BuildOptions("int8"), b"foreign")
    assert after == b"+" and world.timing_seen == [b"mine", b"foreign", b""]


def test_a_graph_that_does_not_parse_says_what_tensorrt_said(host: Host) -> None:
    with pytest.raises(EngineError, match="the graph does not parse: fake parser.*export it again"):
        build_plan(host.api, b"not a graph", BuildOptions("int8"))


def test_an_engine_that_cannot_be_built_says_what_tensorrt_said(host: Host, world: World, tiny_bundle: Bundle) -> None:
    world.refuse.add("mixed")
    with pytest.raises(EngineError, match="no mixed engine could be built: fake builder: no mixed tactic"):
        build_plan(host.api, tiny_bundle.model, BuildOptions("mixed"))


def test_ctrl_c_in_the_progress_stops_the_build(host: Host, tiny_bundle: Bundle) -> None:
    def interrupt(*state: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(host.api, tiny_bundle.model, BuildOptions("int8"), progress=interrupt)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "int4"}, "'int4'; expected one of"),
        ({"batch": 0}, "batch: found 0; expected 1 to 64"),
        ({"workspace_mb": 1}, "workspace_mb: found 1"),
        ({"level": 9}, "level: found 9; expected 0 to 5"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        BuildOptions(**{"precision": "int8", **wrong})


def test_every_option_is_in_the_key(host: Host) -> None:
    base = BuildOptions("int8")
    others = [BuildOptions("int8", batch=2), BuildOptions("int8", workspace_mb=64), BuildOptions("int8", level=1),
              BuildOptions("int8", library_tactics=False)]  # fmt: skip
    assert len({o.text(host.api) for o in [base, *others]}) == 5


def test_a_second_build_comes_from_the_cache(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    first, now = cached_engine(host, cache, tiny_bundle, BuildOptions("int8"))
    again, later = cached_engine(host, cache, tiny_bundle, BuildOptions("int8"))
    assert (now, later) == (True, False) and again == first and len(world.builds) == 1
    assert first.entry.bundle == tiny_bundle.label and first.entry.key.precision == "int8"
    assert cached_engine(host, cache, tiny_bundle, BuildOptions("int8"), force=True)[1]
    cached_engine(host, cache, tiny_bundle, BuildOptions("fp16"))
    assert world.timing_seen == [b"", b"+", b"++"]  # each build goes on from the last one's timings


def test_a_corrupt_engine_is_built_again(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    stored, _ = cached_engine(host, cache, tiny_bundle, BuildOptions("int8"))
    (cache.root / stored.entry.key.digest / PLAN_FILE).write_bytes(b"evil")
    again, now = cached_engine(host, cache, tiny_bundle, BuildOptions("int8"))
    assert now and again.plan == stored.plan and len(world.builds) == 2


def test_another_gpu_or_tensorrt_is_another_engine(
    host_of: Callable[[str], Host], world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    cached_engine(host_of("10.3.0"), cache, tiny_bundle, BuildOptions("int8"))
    world.device.name = "Fake Thor"
    assert cached_engine(host_of("10.3.0"), cache, tiny_bundle, BuildOptions("int8"))[1]
    assert cached_engine(host_of("10.16.1.11"), cache, tiny_bundle, BuildOptions("int8"))[1]


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        ("Row major Int8 format", "int8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Int8", "int8"),
        ("Row major linear FP16 format", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Row major linear UInt8 format", "other"),
        ("Int32", "other"),
    ],
)
def test_types_are_read_in_every_spelling(datatype: str, field: str) -> None:
    layer = {"Name": "x", "LayerType": "y", "Inputs": [{"Format/Datatype": datatype}]}
    found = summarise(json.dumps({"Layers": [layer]}))
    assert getattr(found, field) == found.layers == 1


def test_layer_names_alone_are_counted_as_of_no_known_type() -> None:
    found = summarise('{"Layers": ["a", "Reformatting CopyNode for x", "{ForeignNode[a...b]}"]}')
    assert (found.layers, found.other, found.reformats, found.fused) == (2, 2, 1, 1)
    assert "of no known type" in str(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_no_layer_json_is_an_error(text: str) -> None:
    with pytest.raises(EngineError, match="no layer JSON"):
        summarise(text)
