"""The GPU benchmark, without a GPU: its dry run, and that a missing TensorRT fails loudly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out)}
    return subprocess.run([str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=250)


def test_a_dry_run_goes_through_and_claims_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing was run on a GPU" in done.stdout
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["dry"] and report["torch"]["ms"] == {} and report["engines"]["candidates"] == []
    assert report["torch"]["shapes"]["teacher"]["width"] == 768
    student = report["torch"]["shapes"]["student"]
    assert (student["width"], student["depth"], student["tap"]) == (384, 5, 3)  # the shipped one, all of it
    assert "nothing was run on a GPU" in (tmp_path / "gpu.md").read_text()


def test_without_a_gpu_it_fails_and_says_why(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: run benchmarks/gpu.sh itself")
    done = run(tmp_path)
    assert done.returncode == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert "error" in report["engines"] and "error" in report["torch"] and not report["dry"]


def test_another_graph_than_one_is_refused_in_a_dry_run_too(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"no graph")
    done = run(tmp_path, "--dry-run", "--teacher", str(tmp_path / "teacher.onnx"))
    assert done.returncode == 1
    assert "graph: cannot be read" in json.loads((tmp_path / "gpu.json").read_text())["engines"]["error"]


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import gpu
    finally:
        sys.path.pop(0)
    tolerance = {"probability": 0.01, "embedding": 0.1, "map": 0.1}
    candidate = {"precision": "int8", "passed": True, "reason": "", "device_p50_ms": 0.5, "device_p99_ms": 0.75,
                 "fp32": tolerance, "layers": "9 layers"}  # fmt: skip
    out = candidate | {"precision": "fp16", "passed": False, "reason": "self-test", "device_p50_ms": None}
    engines = {"batch": 1, "candidates": [candidate, out], "compared_on": "64 golden images",
               "teacher": [{"precision": "int8", "p50": 2.0, "p99": 3.0, "layers": "50 layers"},
                           {"precision": "fp16", "error": "tensorrt: no"}],
               "platform": {"gpu": "G", "tensorrt": "10.3", "cuda": "12.6"}}  # fmt: skip
    (tmp_path / "gpu-engines.json").write_text(json.dumps(engines))
    (tmp_path / "gpu-torch.json").write_text(json.dumps({"batch": 1, "ms": {"student fp32": {"p50": 1.0, "p99": 2.0}}}))
    assert gpu.write_report(tmp_path, dry=False) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "| TensorRT int8 | 1 | 0.500 | 0.750 | max dp 0.0100; 9 layers |" in text
    assert (
        "| TensorRT fp16 | 1 | - | - | out: self-test |" in text
        and "| PyTorch student fp32 | 1 | 1.000 | 2.000 |" in text
    )
    assert "| TensorRT teacher int8 | 1 | 2.000 | 3.000 | 50 layers |" in text
    assert "| TensorRT teacher fp16 | 1 | - | - | tensorrt: no |" in text
    assert "dry run" not in text
