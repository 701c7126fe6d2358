"""Version logic: what is asked of each TensorRT, and that each has it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.cuda_fake import FakeDevice
from fakes.tensorrt_fake import World, make_tensorrt, recorded

from edge.engines.tensorrt import api as tensorrt_api
from edge.engines.tensorrt.api import builder_flags, describe, load_tensorrt, make_logger, make_progress, network_flags
from edge.errors import EngineError

WEAK = {"8.6.1", "10.3.0", "10.7.0"}


@pytest.fixture(params=sorted(recorded()))
def api(request: pytest.FixtureRequest) -> Any:
    return describe(make_tensorrt(request.param, World(FakeDevice())))


def test_the_versions_of_the_issue_are_recorded() -> None:
    families = {".".join(version.split(".")[:2]) for version in recorded()}
    assert families >= {"8.6", "10.3", "10.13", "10.16", "11.4"}


def test_weak_typing_before_10_12_and_strong_typing_after(api: Any) -> None:
    assert api.strongly_typed == (api.text not in WEAK)
    assert builder_flags(api, "mixed") == (("INT8", "FP16") if api.text in WEAK else ())
    assert builder_flags(api, "int8") == (("INT8",) if api.text in WEAK else ())
    assert builder_flags(api, "fp32") == ()


def test_network_flags_are_only_those_that_exist(api: Any) -> None:
    explicit, strong = 1 << 0, 1 << 1
    expected = (0 if api.text.startswith("11.") else explicit) | (0 if api.text in WEAK else strong)
    assert network_flags(api) == expected


def test_progress_exists_from_10(api: Any) -> None:
    assert api.progress == (not api.text.startswith("8."))
    assert (make_progress(api, lambda *state: None) is None) == api.text.startswith("8.")


def test_only_the_outermost_phase_is_reported() -> None:
    seen: list[Any] = []
    monitor = make_progress(describe(make_tensorrt("10.3.0", World(FakeDevice()))), lambda *state: seen.append(state))
    monitor.phase_start("Building engine", None, 3)
    monitor.phase_start("Timing", "Building engine", 7)
    assert monitor.step_complete("Timing", 0) and monitor.step_complete("Building engine", 0)
    monitor.phase_finish("Timing")
    monitor.phase_finish("Building engine")
    assert seen == [("Building engine", 1, 3), ("Building engine", 3, 3)]


def test_an_exception_in_the_report_cancels_and_is_kept() -> None:
    def interrupt(*state: Any) -> None:
        raise KeyboardInterrupt

    monitor = make_progress(describe(make_tensorrt("11.4.0.106", World(FakeDevice()))), interrupt)
    monitor.phase_start("Building engine", None, 3)
    assert not monitor.step_complete("Building engine", 0)
    assert isinstance(monitor.raised, KeyboardInterrupt)


def test_errors_are_kept_and_logged(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger, severity = make_logger(api), api.trt.ILogger.Severity
    with caplog.at_level(logging.DEBUG, "edge.engines.tensorrt.api"):
        logger.log(severity.ERROR, "broken")
        logger.log(severity.WARNING, "odd")
        logger.log(severity.INFO, "chatter")
        logger.log(severity.VERBOSE, "more chatter")
    assert logger.errors == ["broken"]
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("ERROR", "broken"), ("WARNING", "odd"), ("DEBUG", "chatter")]  # fmt: skip


def test_a_version_before_8_6_is_refused() -> None:
    old = make_tensorrt("8.6.1", World(FakeDevice()))
    old.__version__ = "8.5.2"
    with pytest.raises(EngineError, match=r"found version 8\.5\.2; 8\.6 or newer"):
        describe(old)


def test_a_module_without_either_typing_is_refused() -> None:
    empty = SimpleNamespace(
        __name__="tensorrt", __version__="12.0", NetworkDefinitionCreationFlag=object, BuilderFlag=object
    )
    with pytest.raises(EngineError, match="found version 12.0"):
        describe(empty)


def test_a_machine_without_tensorrt_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", missing)
    with pytest.raises(EngineError, match="python3-libnvinfer.*--system-site-packages.*hygroma-edge.tensorrt."):
        load_tensorrt()
