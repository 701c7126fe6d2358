"""What differs between TensorRT versions, asked of the module itself. The one place that imports `tensorrt`.

Weakly typed networks with precision flags up to 10.11, strongly typed ones from 10.12 (docs/design.md#tensorrt). Nothing here
compares versions but that one choice: names come and go, so `hasattr` decides.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.errors import EngineError

log = logging.getLogger(__name__)

STRONG_FROM = (10, 12)  # the first version whose release notes deprecate weak typing
INSTALL = (
    "on a Jetson: `apt install python3-libnvinfer` and a venv made with `--system-site-packages`; "
    "elsewhere: `pip install 'hygroma-edge[tensorrt]'`"
)


@dataclass(frozen=True)
class Api:
    """A TensorRT module and what it can do.

    strongly_typed: the network's own types decide, else flags do. explicit_batch: the flag exists and must be given.
    progress: IProgressMonitor exists.
    """

    trt: Any
    text: str
    version: tuple[int, ...]
    strongly_typed: bool
    explicit_batch: bool
    progress: bool


def load_tensorrt() -> Any:
    """The `tensorrt` module. EngineError that says what to install when there is none, or it cannot be loaded."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(f"tensorrt: cannot be imported ({error}); {INSTALL}") from error


def describe(trt: Any) -> Api:
    """EngineError for a version that cannot take explicit quantisation in one of the two ways."""
    text = str(trt.__version__)
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    version = tuple(int(part) for part in match.groups(default="0")) if match else (0,)
    network, flags = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
    can_be_strong = hasattr(network, "STRONGLY_TYPED")
    can_be_weak = hasattr(flags, "FP16") and hasattr(flags, "INT8")
    if version < (8, 6) and trt.__name__ == "tensorrt" or not (can_be_strong or can_be_weak):
        raise EngineError(f"tensorrt: found version {text}; 8.6 or newer is needed")
    return Api(
        trt=trt,
        text=text,
        version=version,
        strongly_typed=can_be_strong and (version >= STRONG_FROM or not can_be_weak),
        explicit_batch=hasattr(network, "EXPLICIT_BATCH"),
        progress=hasattr(trt, "IProgressMonitor"),
    )


def network_flags(api: Api) -> int:
    """The bit mask for `create_network`."""
    flags = api.trt.NetworkDefinitionCreationFlag
    mask = 0
    if api.explicit_batch:
        mask |= 1 << int(flags.EXPLICIT_BATCH)
    if api.strongly_typed:
        mask |= 1 << int(flags.STRONGLY_TYPED)
    return mask


def builder_flags(api: Api, precision: str) -> tuple[str, ...]:
    """Names of the BuilderFlags for one of `graph_forms.PRECISIONS`; none where the network is strongly typed."""
    if api.strongly_typed:
        return ()
    return {"int8": ("INT8",), "fp16": ("FP16",), "mixed": ("INT8", "FP16"), "fp32": ()}[precision]


def make_logger(api: Api) -> Any:
    """A TensorRT logger that writes to Python's log and keeps the errors in its list `errors`, for messages."""
    severity = api.trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,  # TensorRT's INFO is hundreds of lines a build
        severity.VERBOSE: logging.NOTSET,
    }

    base: Any = api.trt.ILogger

    class Logger(base):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            numeric = levels.get(level, logging.DEBUG)
            if numeric >= logging.ERROR:
                self.errors.append(message)
            if numeric > logging.NOTSET:
                log.log(numeric, "%s", message)

    return Logger()


def make_progress(api: Api, report: Callable[[str, int, int], None]) -> Any:
    """A progress monitor that calls `report(phase, done, total)` for the outermost phase's steps; None where this
    TensorRT has none. An exception in `report` (Ctrl-C) cancels the build."""
    if not api.progress:
        return None

    base: Any = api.trt.IProgressMonitor

    class Monitor(base):
        def __init__(self) -> None:
            super().__init__()
            self.raised: BaseException | None = None
            self._totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._totals[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            total = self._totals.pop(phase_name, None)
            if total is not None:
                self._say(phase_name, total, total)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._totals:
                self._say(phase_name, step + 1, self._totals[phase_name])
            return self.raised is None

        def _say(self, *state: Any) -> None:
            try:
                report(*state)
            except BaseException as error:  # nothing may cross the C++ caller; build_plan raises it again
                self.raised = error

    return Monitor()
