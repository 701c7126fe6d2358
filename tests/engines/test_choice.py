"""Which runner a bundle gets, and that no fallback is silent."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
from fakes.tensorrt_fake import World

from edge.bundle import Bundle
from edge.engines.choice import Choice, choose, find_engine
from edge.engines.health import engine_state
from edge.engines.runtimes import PORTABLE
from edge.engines.scorer import Scorer
from edge.engines.tensorrt.build import BuildOptions
from edge.engines.tensorrt.cache import PLAN_FILE, EngineCache
from edge.engines.tensorrt.host import Host, cached_engine
from edge.engines.tensorrt.race import race
from edge.errors import EngineError


@pytest.fixture
def pick(host: Host, cache: EngineCache, tiny_bundle: Bundle) -> Any:
    def call(runtime: str, installed: bool = True, broken: str = "") -> Choice:
        def find() -> Host:
            if broken:
                raise EngineError(broken)
            return host

        return choose(tiny_bundle, runtime, 1, str(cache.root), find, lambda: installed)

    return call


def test_onnxruntime_is_onnxruntime(pick: Any) -> None:
    assert pick("onnxruntime").runner.name == "onnxruntime-cpu"


def test_a_machine_without_tensorrt_falls_back_from_nothing(pick: Any, caplog: pytest.LogCaptureFixture) -> None:
    choice = pick("auto", installed=False)
    assert choice.runner.name == "onnxruntime-cpu" and choice.fallback == "" and not caplog.records


def test_openvino_is_taken_only_when_asked_for(pick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PORTABLE, "openvino", dataclasses.replace(PORTABLE["openvino"], installed=lambda: True))
    assert pick("openvino").runner.name == "openvino-cpu"
    assert pick("auto", installed=False).runner.name == "onnxruntime-cpu"
    monkeypatch.setitem(PORTABLE, "openvino", dataclasses.replace(PORTABLE["openvino"], installed=lambda: False))
    with pytest.raises(EngineError, match=r"engine.runtime openvino: .* pip install 'hygroma-edge\[openvino\]'"):
        pick("openvino")


@pytest.mark.requirement("E-02")
def test_a_head_that_a_runtime_does_not_give_is_refused_with_the_one_that_does(
    host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = dataclasses.replace(tiny_bundle.manifest.heads, others={"sharp": 0.5})
    bundle = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, heads=heads))
    monkeypatch.setitem(PORTABLE, "openvino", dataclasses.replace(PORTABLE["openvino"], installed=lambda: True))
    words = "engine.runtime {}: gives the heads plane and hygroma alone, and .* has sharp too; set engine.runtime: onnxruntime"
    for runtime in ("openvino", "tensorrt"):
        with pytest.raises(EngineError, match=words.format(runtime)):
            choose(bundle, runtime, 1, str(cache.root), lambda: host, lambda: True)
    auto = choose(bundle, "auto", 1, str(cache.root), lambda: host, lambda: True)
    assert auto.runner.name == "onnxruntime-cpu" and "has sharp too" in auto.fallback
    assert choose(bundle, "onnxruntime", 1).runner.name == "onnxruntime-cpu"
    for build in (cached_engine, race):
        with pytest.raises(EngineError, match=words.format("tensorrt")):
            build(host, cache, bundle, BuildOptions("int8"))
    assert not world.device.live and not list(cache.root.glob("*"))
    assert engine_state(bundle, "auto", str(cache.root), lambda: host, lambda: True)[0] == "warn"
    level, found, fix = engine_state(bundle, "tensorrt", str(cache.root), lambda: host, lambda: True)
    assert level == "fail" and "has sharp too" in found and "engine.runtime: onnxruntime" in fix
    with pytest.raises(EngineError, match=words.format("openvino")):  # a finding of `hygroma doctor`
        engine_state(bundle, "openvino")


def test_auto_takes_the_races_winner(
    pick: Any, host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.ms = {"int8": 1.0, "fp16": 2.0, "mixed": 0.5}
    race(host, cache, tiny_bundle, BuildOptions("int8"))
    choice = pick("auto")
    assert choice.runner.name == "tensorrt-mixed" and choice.fallback == ""
    with Scorer(tiny_bundle, choice.runner) as scorer:
        assert scorer.selftest is not None and scorer.runner_name == "tensorrt-mixed"
    assert not world.device.live


def test_without_a_race_it_takes_the_newest_engine(
    pick: Any, host: Host, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    for precision in ("int8", "fp16"):
        cached_engine(host, cache, tiny_bundle, BuildOptions(precision))
    cached_engine(host, cache, tiny_bundle, BuildOptions("mixed", batch=8))
    assert pick("auto").runner.name == "tensorrt-fp16"


def test_a_race_that_nobody_won_is_no_engine(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    world.wrong = dict.fromkeys(("int8", "fp16", "mixed"), 4.0)
    with pytest.raises(EngineError):
        race(host, cache, tiny_bundle, BuildOptions("int8"))
    assert find_engine(tiny_bundle, cache, host)[0] is None


def test_one_built_after_a_race_that_nobody_won_is_taken(
    pick: Any, host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.wrong = dict.fromkeys(("int8", "fp16", "mixed"), 4.0)
    with pytest.raises(EngineError):
        race(host, cache, tiny_bundle, BuildOptions("int8"))
    cached_engine(host, cache, tiny_bundle, BuildOptions("fp32"))
    assert pick("auto").runner.name == "tensorrt-fp32"
    level, found, _ = engine_state(tiny_bundle, "auto", str(cache.root), lambda: host, lambda: True)
    assert (level, found) == ("warn", f"fp32 for {host.platform}, never raced; never validated on held-out images")


def test_a_race_of_another_batch_chooses_no_engine_for_the_daemon(
    pick: Any, host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.ms = {"int8": 1.0, "fp16": 2.0, "mixed": 0.5}
    first, _ = race(host, cache, tiny_bundle, BuildOptions("int8"))
    world.ms = {"int8": 1.0, "fp16": 0.1, "mixed": 0.5}
    race(host, cache, tiny_bundle, BuildOptions("int8", batch=8))
    found, _ = find_engine(tiny_bundle, cache, host)
    assert found is not None and found.entry.key.digest == first.winner
    assert pick("auto").runner.name == "tensorrt-mixed"


def test_auto_without_an_engine_says_so_and_tensorrt_refuses(pick: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        choice = pick("auto")
    assert choice.runner.name == "onnxruntime-cpu"
    assert "no verified engine" in choice.fallback and "hygroma engine race" in choice.fallback
    assert "falls back to ONNX Runtime" in caplog.text
    with pytest.raises(EngineError, match="no verified engine for this bundle on Fake Orin"):
        pick("tensorrt")


def test_auto_with_a_corrupt_engine_falls_back(pick: Any, host: Host, cache: EngineCache, tiny_bundle: Bundle) -> None:
    result, _ = race(host, cache, tiny_bundle, BuildOptions("int8"))
    (cache.root / result.winner / PLAN_FILE).write_bytes(b"evil")
    choice = pick("auto")
    assert choice.runner.name == "onnxruntime-cpu" and "no verified engine" in choice.fallback


def test_auto_with_an_engine_that_fails_the_golden_images_falls_back(
    pick: Any, host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    race(host, cache, tiny_bundle, BuildOptions("int8"))
    world.wrong = dict.fromkeys(("int8", "fp16", "mixed"), 4.0)  # a new driver, say
    choice = pick("auto")
    assert choice.runner.name == "onnxruntime-cpu" and "self-test of tensorrt-" in choice.fallback


def test_auto_with_a_broken_driver_falls_back(pick: Any) -> None:
    assert "error 35" in pick("auto", broken="cuda: error 35").fallback
    with pytest.raises(EngineError, match="error 35"):
        pick("tensorrt", broken="cuda: error 35")


def test_an_engine_of_another_bundle_is_not_taken(
    host: Host, cache: EngineCache, tiny_bundle: Bundle, fake_bundle: Bundle
) -> None:
    cached_engine(host, cache, tiny_bundle, BuildOptions("int8"))
    assert find_engine(tiny_bundle, cache, host)[0] is not None
    assert find_engine(fake_bundle, cache, host)[0] is None
