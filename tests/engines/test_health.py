"""What the doctor says about engines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.tensorrt_fake import World

from edge.bundle import Bundle
from edge.engines.health import engine_state
from edge.engines.runtimes import PORTABLE
from edge.engines.tensorrt.build import BuildOptions
from edge.engines.tensorrt.cache import PLAN_FILE, EngineCache
from edge.engines.tensorrt.host import Host, cached_engine
from edge.engines.tensorrt.race import race
from edge.errors import EngineError


@pytest.fixture
def state(host: Host, cache: EngineCache, tiny_bundle: Bundle) -> Any:
    def call(runtime: str = "auto", installed: bool = True) -> tuple[str, str, str]:
        return engine_state(tiny_bundle, runtime, str(cache.root), lambda: host, lambda: installed)

    return call


def test_a_machine_without_tensorrt(state: Any) -> None:
    assert state("onnxruntime") == ("ok", "ONNX Runtime, as configured", "")
    assert state("auto", installed=False)[0] == "ok"
    level, _, fix = state("tensorrt", installed=False)
    assert level == "fail" and "python3-libnvinfer" in fix


def test_openvino_as_configured_or_missing(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PORTABLE, "openvino", dataclasses.replace(PORTABLE["openvino"], installed=lambda: True))
    assert state("openvino") == ("ok", "OpenVINO, as configured", "")
    monkeypatch.setitem(PORTABLE, "openvino", dataclasses.replace(PORTABLE["openvino"], installed=lambda: False))
    level, _, fix = state("openvino")
    assert level == "fail" and "hygroma-edge[openvino]" in fix


def test_before_the_first_race(state: Any, host: Host, cache: EngineCache, tiny_bundle: Bundle) -> None:
    assert state()[0] == "warn" and "hygroma engine race" in state()[2]
    assert state("tensorrt")[0] == "fail"
    cached_engine(host, cache, tiny_bundle, BuildOptions("fp16"))
    assert state() == (
        "warn",
        f"fp16 for {host.platform}, never raced; never validated on held-out images",
        state()[2],
    )


def test_the_race_is_shown(state: Any, host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    world.ms, world.wrong = {"int8": 0.5, "fp16": 0.75}, {"mixed": 4.0}
    result, _ = race(host, cache, tiny_bundle, BuildOptions("int8"))
    level, found, fix = state()
    assert level == "ok" and not fix
    assert "int8 0.500 ms (in use), fp16 0.750 ms, mixed out (self-test" in found and "Fake Orin" in found
    (cache.root / result.winner / PLAN_FILE).write_bytes(b"evil")
    level, found, fix = state()
    assert level == "warn" and "no engine that can be used" in found and "engine race" in fix


def test_a_result_that_someone_changed_breaks_nothing(
    state: Any, host: Host, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    _, path = race(host, cache, tiny_bundle, BuildOptions("int8"))
    for text in (
        '{"winner": 3, "candidates": ["x", {}], "raced_s": "y"}',
        '{"winner": "x", "candidates": null, "raced_s": 1e300}',
        '{"winner": "", "candidates": 5}',
        "[]",
        "[" * 200_000,
        "not json",
        "",
    ):
        path.write_text(text)
        assert state()[0] in ("ok", "warn")


def test_a_driver_that_is_broken(cache: EngineCache, tiny_bundle: Bundle) -> None:
    def broken() -> Host:
        raise EngineError("cuda: error 35")

    level, found, fix = engine_state(tiny_bundle, "auto", str(cache.root), broken, lambda: True)
    assert level == "warn" and "error 35" in found and fix
