"""ONNX Runtime keeps nothing for its maker's servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("edge.engines.onnxruntime_runner", "benchmarks.machine", "export.int8.ort_graph")
SESSION = (
    "import importlib, sys\n"
    "importlib.import_module(sys.argv[1])\n"
    "import onnxruntime\n"
    "onnxruntime.InferenceSession(sys.argv[2], providers=['CPUExecutionProvider'])\n"
)


@pytest.mark.parametrize("module", MODULES)
def test_a_session_leaves_nothing_in_the_home_folder(module: str, tmp_path: Path, tiny_int8_graph) -> None:  # type: ignore[no-untyped-def]
    graph, home = tmp_path / "tiny.onnx", tmp_path / "home"
    graph.write_bytes(tiny_int8_graph.SerializeToString())
    home.mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(home)}
    command = [sys.executable, "-c", SESSION, module, str(graph)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if "icrosoft" in str(path) or "onnxruntime" in path.name]
