"""The race: the fastest that still computes what was validated, and what is written down about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tensorrt_fake import World

from edge.bundle import Bundle
from edge.engines.selftest import sigmoid
from edge.engines.tensorrt.build import BuildOptions
from edge.engines.tensorrt.cache import EngineCache
from edge.engines.tensorrt.host import Host
from edge.engines.tensorrt.race import race, result_name
from edge.errors import EngineError

OPTIONS = BuildOptions("int8")


def test_the_fastest_that_passes_wins(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    world.ms = {"int8": 1.0, "fp16": 0.5, "mixed": 0.7}
    result, path = race(host, cache, tiny_bundle, OPTIONS)
    assert result.best is not None and result.best.precision == "fp16"
    assert [c.precision for c in result.candidates] == ["int8", "fp16", "mixed"]
    for candidate in result.candidates:
        assert candidate.passed and not candidate.reason and candidate.captured and candidate.built_now
        assert candidate.device_p50_ms == candidate.device_p99_ms == pytest.approx(world.ms[candidate.precision])
        assert candidate.host_p50_ms is not None and candidate.qdq is not None and candidate.fp32 is not None
        assert "1 reformats" in candidate.layers
    written = json.loads(path.read_text())
    assert path.name == result_name(result.onnx_sha256, host.platform) and written["winner"] == result.best.digest
    assert written["platform"]["gpu"] == "Fake Orin" and written["candidates"][1]["device_p50_ms"] == 0.5


def test_a_fast_engine_with_wrong_numbers_is_out(
    host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.ms = {"int8": 0.1, "fp16": 0.5, "mixed": 0.7}
    world.wrong = {"int8": 4.0}
    result, _ = race(host, cache, tiny_bundle, OPTIONS)
    assert result.best is not None and result.best.precision == "fp16"
    out = result.candidates[0]
    assert not out.passed and "self-test of tensorrt-int8" in out.reason and out.device_p50_ms is None


def test_an_engine_that_cannot_be_built_is_out(
    host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.refuse = {"mixed"}
    result, _ = race(host, cache, tiny_bundle, OPTIONS)
    assert [c.passed for c in result.candidates] == [True, True, False]
    assert "no mixed engine could be built" in result.candidates[2].reason


def test_when_none_passes_the_reasons_are_written_and_said(
    host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle
) -> None:
    world.refuse, world.wrong = {"mixed", "fp16"}, {"int8": 4.0}
    with pytest.raises(EngineError, match="no candidate passed .int8: self-test.*mixed: .*ONNX Runtime goes on"):
        race(host, cache, tiny_bundle, OPTIONS)
    written = cache.read_json(next(cache.root.glob("race-*.json")).name)
    assert written is not None and written["winner"] == "" and len(written["candidates"]) == 3


def test_engines_are_reused_unless_forced(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    race(host, cache, tiny_bundle, OPTIONS)
    result, _ = race(host, cache, tiny_bundle, OPTIONS)
    assert len(world.builds) == 3 and not any(c.built_now for c in result.candidates)
    race(host, cache, tiny_bundle, OPTIONS, force=True)
    assert len(world.builds) == 6


def test_the_device_is_left_empty(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    race(host, cache, tiny_bundle, OPTIONS)
    assert not world.device.live


def test_a_tie_goes_the_same_way_every_time(host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle) -> None:
    world.ms = {"int8": 1.0, "fp16": 1.0, "mixed": 1.0}
    result, _ = race(host, cache, tiny_bundle, OPTIONS)
    assert result.best is not None and result.best.precision == "fp16"


def test_one_that_breaks_while_timed_is_out(
    host: Host, world: World, cache: EngineCache, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ms = {"int8": 0.1}
    from edge.engines.tensorrt.runner import TensorRTRunner

    times = TensorRTRunner.device_times

    def breaks(self: TensorRTRunner, repeats: int) -> object:
        if self.name == "tensorrt-int8":
            raise EngineError("cuda: error 719")
        return times(self, repeats)

    monkeypatch.setattr(TensorRTRunner, "device_times", breaks)
    result, _ = race(host, cache, tiny_bundle, OPTIONS)
    assert not result.candidates[0].passed and "719" in result.candidates[0].reason
    assert result.best is not None and result.best.precision != "int8"


def test_the_gpu_benchmark_races_and_gates_every_engine(
    host: Host, world: World, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`benchmarks/gpu.sh --crops FILE`, all of it but the GPU."""
    from benchmarks import gpu
    from export.report.engine_gate import StoredCrops, save_crops

    golden = tiny_bundle.golden()
    p = sigmoid(golden.fp32.hygroma / tiny_bundle.manifest.calibration.hygroma_temperature)
    labels = (p >= np.median(p)).astype(np.int8)
    save_crops(StoredCrops(golden.inputs, labels, [str(i) for i in range(64)], golden.fp32), tmp_path / "c.npz")
    world.refuse = {"mixed"}
    monkeypatch.setattr("edge.engines.tensorrt.host.this_host", lambda: host)
    words = ["--bundle", str(tiny_bundle.path), "--out", str(tmp_path / "out"), "--crops", str(tmp_path / "c.npz")]
    assert gpu.main(["--part", "engines", *words]) == 0 and gpu.main(["--part", "report", *words]) == 0
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())["engines"]
    assert [c["passed"] for c in found["candidates"]] == [True, True, False]
    assert [g["engine"] for g in found["gates"]] == ["tensorrt-int8", "tensorrt-fp16"]  # those that the race let pass
    assert found["environment"]["bundle"]["sha256"] == tiny_bundle.sha256 and "load_average" in found["after"]
    step = found["gates"][0]["steps"]["pytorch-fp32 -> tensorrt-int8"]
    text = (tmp_path / "out" / "gpu.md").read_text()
    said = "passed" if found["gates"][0]["passed"] else "FAILED"
    assert (
        f"tensorrt-int8 against PyTorch FP32 on 64 held-out crops: gate {said}, {step['positives_lost']} of 32" in text
    )
    assert "Fake Orin, TensorRT 10.3.0" in text and "compared on 64 held-out crops" in text


def test_the_teachers_engines_are_built_and_timed_too(host: Host, world: World, tiny_int8_graph: Any) -> None:
    """`benchmarks/gpu.sh --teacher`"""
    from benchmarks.gpu import teacher_engines

    world.refuse = {"fp16"}
    int8, fp16 = teacher_engines(host, tiny_int8_graph.SerializeToString(), BuildOptions("int8"))
    assert int8["precision"] == "int8" and int8["p99"] >= int8["p50"] > 0
    assert fp16["precision"] == "fp16" and "no fp16 engine" in fp16["error"]
