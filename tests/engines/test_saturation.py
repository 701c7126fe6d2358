"""A runtime whose INT8 products saturate is found by one product, and never used unsaid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edge.bundle import load_bundle
from edge.bundle.manifest import Tolerance
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines import onnxruntime_runner, openvino_runner
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner, has_vnni, session_options
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.saturation import EXACT, INPUT, OUTPUT, probe, saturates
from edge.engines.scorer import Scorer
from edge.engines.selftest import SAME_GRAPH_TOLERANCE, run_selftest, stricter
from edge.errors import EngineError
from edge.hardware import VNNI, cpu_flags

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed: the extra `openvino`")


def vpmaddubsw(x: np.ndarray) -> np.ndarray:
    """The probe's product as a processor without VNNI makes it: pairs of u8 x s8 products stop at 32767, and 128 times the sum of
    the weights is taken off for the shift from signed to unsigned."""
    pair = min(2 * 255 * 127, 32767)
    return np.full((1, 16, 64), 32 * pair - 128 * 64 * 127, np.float32)


def runs(options: ort.SessionOptions) -> Callable[[np.ndarray], np.ndarray]:
    session = ort.InferenceSession(probe(), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run([OUTPUT], {INPUT: x})[0])


def test_the_probe_is_a_model_that_a_checker_takes() -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(onnx.load_from_string(probe()), full_check=True)


@pytest.mark.requirement("X-02")
def test_a_saturating_product_is_told_from_an_exact_one() -> None:
    assert not saturates(lambda x: np.full((1, 16, 64), EXACT, np.float32))
    assert saturates(vpmaddubsw)
    assert saturates(lambda x: np.full((1, 16, 64), np.nan, np.float32))


@pytest.mark.requirement("X-02")
def test_onnx_runtime_is_exact_here_and_would_not_be_without_the_option_on_avx2() -> None:
    assert not saturates(runs(session_options(1, spinning=False)))
    unguarded = ort.SessionOptions()
    unguarded.log_severity_level = 4
    if cpu_flags() & VNNI:
        assert not saturates(runs(unguarded))
    elif "avx2" in cpu_flags():
        assert saturates(runs(unguarded))


@pytest.mark.requirement("X-02")
def test_onnx_runtime_does_not_start_where_it_saturates(monkeypatch: pytest.MonkeyPatch, tiny_int8_graph: Any) -> None:
    monkeypatch.setattr(onnxruntime_runner, "saturates", lambda multiply: saturates(vpmaddubsw))
    with pytest.raises(EngineError, match="saturate on this processor"), OnnxRuntimeRunner(
        tiny_int8_graph.SerializeToString()
    ):
        pass


@needs_openvino
@pytest.mark.requirement("X-02")
def test_openvino_computes_in_int8_where_that_is_exact_and_in_float32_elsewhere(tiny_int8_graph: Any) -> None:
    """On this processor, whichever it is."""
    openvino = openvino_runner.import_openvino()
    default = openvino_runner._product(openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"})
    with OpenVinoRunner(tiny_int8_graph.SerializeToString()) as runner:
        if saturates(default):
            assert runner.int8_products == 0 and "computed in float32" in runner.note
        else:
            assert runner.int8_products == 8 and runner.note == ""
    if has_vnni():
        assert not saturates(default)
    elif "avx2" in cpu_flags() and not cpu_flags() & VNNI:
        assert saturates(default)


@needs_openvino
@pytest.mark.requirement("X-02")
def test_a_processor_without_vnni_is_said_and_counted_as_a_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe stands in for the processor, so that this runs on every one."""
    asked: list[bool] = []

    def probed(multiply: Callable[[np.ndarray], np.ndarray]) -> bool:
        asked.append(saturates(multiply))
        return len(asked) == 1  # INT8 saturates; with the switch it does not

    monkeypatch.setattr(openvino_runner, "saturates", probed)
    bundle = load_bundle(SHIPPED_BUNDLE)
    runner = OpenVinoRunner(bundle.model)
    with caplog.at_level(logging.WARNING), Scorer(bundle, runner) as scorer:
        assert scorer.fallback == runner.note != ""
        assert runner.int8_products == 0
    assert [r.message for r in caplog.records] == [runner.note]
    assert asked[1] is False  # the switch itself is exact here, whatever this processor is


@needs_openvino
@pytest.mark.requirement("X-02")
def test_openvino_does_not_start_where_nothing_makes_it_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runner, "saturates", lambda multiply: True)
    with pytest.raises(EngineError, match="engine.runtime: onnxruntime"), OpenVinoRunner(b"any"):
        pass


@needs_openvino
@pytest.mark.requirement("X-02")
def test_the_self_test_refuses_a_saturating_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the probe ever be wrong. With VNNI nothing saturates, so that the self-test passes there."""
    wrong = saturates(openvino_runner._product(openvino_runner.import_openvino().Core(), {}))
    monkeypatch.setattr(openvino_runner, "saturates", lambda multiply: False)
    bundle = load_bundle(SHIPPED_BUNDLE)
    with OpenVinoRunner(bundle.model) as runner:
        arguments = runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration
        if not wrong:
            run_selftest(*arguments)
        else:
            with pytest.raises(EngineError, match=r"limit 0.05\)"):
                run_selftest(*arguments)


def test_the_stricter_of_two_limits_is_taken_figure_by_figure() -> None:
    assert stricter(Tolerance(0.1, 0.01, 0.2), SAME_GRAPH_TOLERANCE) == Tolerance(0.05, 0.01, 0.05)


