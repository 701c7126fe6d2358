"""The GPU benchmark, without a GPU: its dry run, and that a missing TensorRT fails loudly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import gpu
from edge.records import RawOutputs
from export.report.engine_gate import StoredCrops, save_crops

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run(out: Path, *words: str, cwd: Path = SCRIPT.parent, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), **more}
    return subprocess.run([str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=250, cwd=cwd)


RECIPE = (
    "data: d\nwork: w\nname: made-up\nversion: 1.0.0\nimage: 32\ntap: 2\n"
    "teacher: {init: t.pt, width: 64, depth: 3, heads: 2, frozen_blocks: 1}\nstudent: {blocks: [0, 1], frozen_blocks: 1}\n"
)


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A dry run with all that it can be given. Any graph of this toolchain may be the teacher; here the shipped student's."""
    from edge.bundle.trust import SHIPPED_BUNDLE

    folder = tmp_path_factory.mktemp("dry")
    (folder / "r.yaml").write_text(RECIPE)
    words = ("--dry-run", "--teacher", str(SHIPPED_BUNDLE / "model.qdq.onnx"))
    return run(folder / "out", *words, cwd=folder, RECIPE="r.yaml"), folder / "out"


def test_a_dry_run_goes_through_and_claims_nothing(dry: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = dry
    assert done.returncode == 0, done.stderr
    assert "nothing was run on a GPU" in done.stdout
    report = json.loads((out / "gpu.json").read_text())
    assert report["dry"] and report["torch"]["ms"] == {} and report["engines"]["candidates"] == []
    assert report["torch"]["shapes"]["ViT-B/16"]["width"] == 768
    student = report["torch"]["shapes"]["student"]
    assert (student["width"], student["depth"], student["tap"]) == (384, 5, 3)  # the shipped one, all of it
    assert "nothing was run on a GPU" in (out / "gpu.md").read_text()


def test_an_earlier_runs_parts_are_not_in_the_report(tmp_path: Path) -> None:
    """A dry run's `train` part would call what was measured afterwards a dry run."""
    (tmp_path / "gpu-train.json").write_text('{"dry": true, "took_s": 60.0, "recipe": "old.yaml"}')
    run(tmp_path, "--part", "report", PYTHON="true")  # no part is run
    assert not list(tmp_path.glob("gpu-*.json"))


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
    words = ["--dry-run", "--teacher", str(tmp_path / "teacher.onnx"), "--out", str(tmp_path)]
    assert gpu.main(["--part", "engines", *words]) == 1
    gpu.main(["--part", "report", *words])
    assert "teacher.onnx: no INT8 graph of this toolchain" in json.loads((tmp_path / "gpu.json").read_text())["engines"]["error"]


def test_a_teacher_is_timed_as_itself(dry: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = dry
    assert done.returncode == 0, done.stderr
    shapes = json.loads((out / "gpu.json").read_text())["torch"]["shapes"]
    assert shapes["teacher"] == shapes["student"] and shapes["teacher"]["image"] == 192


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    tolerance = {"probability": 0.01, "embedding": 0.1, "map": 0.1}
    candidate = {"precision": "int8", "passed": True, "reason": "", "device_p50_ms": 0.5, "device_p99_ms": 0.75,
                 "fp32": tolerance, "layers": "9 layers"}  # fmt: skip
    out = candidate | {"precision": "fp16", "passed": False, "reason": "self-test", "device_p50_ms": None}
    engines = {"batch": 1, "candidates": [candidate, out], "compared_on": "64 golden images",
               "teacher": [{"precision": "int8", "p50": 2.0, "p99": 3.0, "layers": "50 layers",
                            "largest_dp_on_noise": 0.0123},
                           {"precision": "fp16", "error": "tensorrt: no"}],
               "platform": {"gpu": "G", "tensorrt": "10.3", "cuda": "12.6"}}  # fmt: skip
    (tmp_path / "gpu-engines.json").write_text(json.dumps(engines))
    ms = {name: {"p50": 1.0, "p99": 2.0} for name in ("student fp32", "teacher bf16 compiled", "ViT-B/16 bf16")}
    (tmp_path / "gpu-torch.json").write_text(json.dumps({"batch": 1, "ms": ms}))
    train = {"recipe": "r.yaml", "device": "cuda: G", "took_s": 7200.0}
    (tmp_path / "gpu-train.json").write_text(json.dumps(train))
    assert gpu.write_report(tmp_path, dry=False) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "| TensorRT int8 | 1 | 0.500 | 0.750 | max dp 0.0100; 9 layers |" in text
    assert (
        "| TensorRT fp16 | 1 | - | - | out: self-test |" in text
        and "| PyTorch student fp32 | 1 | 1.000 | 2.000 | the bundle's |" in text
    )
    assert "| PyTorch teacher bf16 compiled | 1 | 1.000 | 2.000 | of --teacher |" in text
    assert "| PyTorch ViT-B/16 bf16 | 1 | 1.000 | 2.000 | the paper's size, random weights |" in text
    assert "| TensorRT teacher int8 | 1 | 2.000 | 3.000 | max dp 0.0123 from ONNX Runtime on noise; 50 layers |" in text
    assert "| TensorRT teacher fp16 | 1 | - | - | tensorrt: no |" in text
    assert "dry run" not in text and "Trained r.yaml on cuda: G in 120 minutes." in text


def test_a_dry_run_with_a_recipe_makes_its_models(dry: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = dry
    assert done.returncode == 0, done.stderr
    trained = json.loads((out / "gpu.json").read_text())["train"]
    shapes = {name: (s["width"], s["depth"], s["tap"], s["image"]) for name, s in trained["shapes"].items()}
    assert shapes == {"teacher": (64, 3, 2, 32), "student": (64, 2, 2, 32)}  # `tap` is the recipe's, in both
    assert trained["environment"]["bundle"]["label"] and trained["before"]["load_average"]


def test_training_finds_a_recipe_beside_the_caller_and_its_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def fails(command: list[str], **_: object) -> None:
        asked.append(command)
        raise subprocess.CalledProcessError(66, command)

    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu.subprocess, "run", fails)
    monkeypatch.setattr(gpu, "fingerprint", lambda *_, **__: {})
    assert gpu.main(["--part", "train", "--recipe", "r.yaml", "--out", "out"]) == 1
    assert asked[0][-3:] == ["--device", "cuda", str(tmp_path / "r.yaml")]  # the training runs in another folder
    assert "status 66" in json.loads((tmp_path / "out" / "gpu-train.json").read_text())["error"]
    assert "status 66" in capsys.readouterr().err


def test_training_says_on_what_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: None)
    monkeypatch.setattr(gpu, "fingerprint", lambda *_, **__: {"bundle": {"label": "b"}, "git": "g", "board": "", "gpu": "G",
                                                            "cpu": {"model": "c"}, "versions": {}})  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made-up GPU")
    words = ["--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path)]
    assert gpu.main(["--part", "train", *words]) == 0 and gpu.main(["--part", "report", *words]) == 0
    assert f"Trained {tmp_path / 'r.yaml'} on cuda: made-up GPU in 0 minutes." in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--teacher", "--crops"])
def test_a_file_that_is_not_there_is_named_before_any_gpu_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    words = ["--part", "engines", "--dry-run", "--out", str(tmp_path), word, str(tmp_path / "nothing")]
    assert gpu.main(words) == 1 and f"{tmp_path / 'nothing'}" in capsys.readouterr().err


def test_crops_of_another_size_are_refused_before_any_engine_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fp32 = RawOutputs(np.zeros(2), np.zeros(2), np.zeros((2, 8)), np.zeros((2, 2, 2)))
    save_crops(StoredCrops(np.zeros((2, 1, 32, 32), np.uint8), np.array([0, 1]), ["a", "b"], fp32), tmp_path / "c.npz")
    words = ["--part", "engines", "--dry-run", "--out", str(tmp_path), "--crops", str(tmp_path / "c.npz")]
    assert gpu.main(words) == 1 and "crops: found 32 pixels; this bundle takes 192" in capsys.readouterr().err


class FakeTorch:
    """Of CUDA only what `graph_times` calls: every replay takes 2 ms."""

    now = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = FakeTorch.now

        def elapsed_time(self, other: FakeTorch.Event) -> float:
            return other.at - self.at

    class Graph:
        def replay(self) -> None:
            FakeTorch.now += 2.0

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    def __init__(self) -> None:
        stream = self.Stream()
        self.cuda = SimpleNamespace(
            Stream=self.Stream, current_stream=lambda: stream, stream=lambda s: nullcontext(), CUDAGraph=self.Graph,
            graph=lambda g: nullcontext(), Event=self.Event, synchronize=lambda: None,
        )  # fmt: skip


def test_a_captured_graph_is_timed_by_its_replays() -> None:
    calls: list[int] = []
    times = gpu.graph_times(FakeTorch(), lambda: calls.append(1))
    assert len(calls) == 4  # three before the capture, one in it: what is timed is the graph
    assert times.shape == (gpu.CALLS,) and set(times) == {2.0}
