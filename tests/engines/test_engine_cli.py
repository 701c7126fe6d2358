"""`hygroma engine` and `validate --engine`, with a fake GPU where one is needed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from fakes.tensorrt_fake import World

from edge.bundle import Bundle
from edge.cli import main
from edge.engines import choice, engine_build, race, tensorrt_api
from edge.engines.engine_build import Host


@pytest.fixture(autouse=True)
def machine(host: Host, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has TensorRT 10.3 and a GPU; both are fake."""
    world.ms = {"int8": 0.4, "fp16": 0.6, "mixed": 0.3}
    monkeypatch.setattr(engine_build, "this_host", lambda: host)
    monkeypatch.setattr(choice, "this_host", lambda: host)
    monkeypatch.setattr(race, "CALLS", 5)


@pytest.fixture
def given(tiny_bundle: Bundle, tmp_path: Path) -> tuple[str, ...]:
    return ("--bundle", str(tiny_bundle.path), "--allow-unsigned", "--cache", str(tmp_path / "engines"))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = main([*words, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_without_tensorrt_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # this machine as it is

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", missing)
    for action in ("build", "race", "prune"):
        assert main(["engine", action, "--cache", str(tmp_path)]) == 70
        told = capsys.readouterr().err
        assert "python3-libnvinfer" in told and "--system-site-packages" in told and "hygroma-edge[tensorrt]" in told
    assert main(["engine", "list", "--cache", str(tmp_path)]) == 0
    assert "no engines in" in capsys.readouterr().out


def test_build_race_list_prune(capsys: pytest.CaptureFixture[str], given: tuple[str, ...]) -> None:
    code, built = run(capsys, "engine", "build", "--precision", "fp16", "--batch", "4", *given)
    assert code == 0 and built["built_now"] and built["key"]["precision"] == "fp16" and built["selftest"]["count"] == 64
    code, raced = run(capsys, "engine", "race", *given)
    assert code == 0 and [c["precision"] for c in raced["candidates"]] == ["int8", "fp16", "mixed"]
    winner = next(c for c in raced["candidates"] if c["digest"] == raced["winner"])
    assert winner["precision"] == "mixed" and Path(raced["file"]).is_file()
    code, listed = run(capsys, "engine", "list", *given)
    assert code == 0 and len(listed) == 4 and {e["key"]["platform"]["gpu"] for e in listed} == {"Fake Orin"}
    code, pruned = run(capsys, "engine", "prune", *given)
    assert code == 0 and pruned["removed"] == [built["digest"]] and pruned["freed"] > 100_000
    code, again = run(capsys, "engine", "build", "--precision", "mixed", *given)
    assert code == 0 and not again["built_now"]


def test_for_people(capsys: pytest.CaptureFixture[str], given: tuple[str, ...], world: World) -> None:
    world.refuse = {"fp16"}
    assert main(["engine", "race", *given]) == 0
    out = capsys.readouterr().out
    assert "mixed  0.300 ms on the device" in out and "<- wins" in out and "fp16   out: tensorrt: no fp16 engine" in out
    assert main(["engine", "list", *given]) == 0
    assert "Fake Orin" in capsys.readouterr().out


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], given: tuple[str, ...]) -> None:
    assert main(["engine", "build", "--precision", "int4", *given]) == 70
    assert "'int4'; expected one of int8" in capsys.readouterr().err


# -- validate --engine


@pytest.fixture
def crops(tmp_path: Path, tiny_bundle: Bundle) -> Path:
    """The golden images, as if they were held-out crops: half of them called positive by the model's own answers."""
    from export.engine_gate import StoredCrops, save_crops

    golden = tiny_bundle.golden()
    labels = (golden.fp32.hygroma > np.median(golden.fp32.hygroma)).astype(np.int8)
    path = tmp_path / "crops.npz"
    save_crops(StoredCrops(golden.inputs, labels, [f"g{i}" for i in range(64)], golden.fp32), path)
    return path


def test_an_engine_is_held_against_pytorch_and_the_graph(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path
) -> None:
    assert main(["engine", "race", *given]) == 0
    capsys.readouterr()
    code, report = run(capsys, "validate", "--engine", "--crops", str(crops), *given)
    assert report["engine"] == "tensorrt-mixed" and report["n"] == 64 and report["positives"] == 32
    assert list(report["steps"]) == ["pytorch-fp32 -> qdq", "pytorch-fp32 -> tensorrt-mixed", "qdq -> tensorrt-mixed"]
    # the fake engine computes the canonical graph: it adds nothing to what that lost
    assert report["steps"]["qdq -> tensorrt-mixed"]["max_dp"] < 1e-3
    assert (
        code == (0 if report["passed"] else 3) and report["passed"] == report["steps"]["pytorch-fp32 -> qdq"]["passed"]
    )


def test_an_engine_that_loses_positives_fails_the_gate(
    given: tuple[str, ...], world: World, crops: Path, tiny_bundle: Bundle
) -> None:
    from export.engine_gate import engine_report, load_crops

    point = dataclasses.replace(tiny_bundle.manifest.operating_point, hygroma_threshold=0.5)
    bundle = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, operating_point=point))
    assert main(["engine", "build", *given]) == 0
    runner = choice.open_engine(bundle, given[-1])
    data = load_crops(crops)
    shifted = data.fp32.hygroma - np.median(data.fp32.hygroma)
    data = dataclasses.replace(data, fp32=dataclasses.replace(data.fp32, hygroma=shifted))
    world.wrong = {"int8": -100.0}
    report = engine_report(bundle, runner, data)
    step = report["steps"]["pytorch-fp32 -> tensorrt-int8"]
    assert not report["passed"] and step["positives_lost"] == 32 and "32 positives lost" in step["reasons"][0]
    assert len(step["flipped"]) == step["flips"]


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, crops: Path) -> None:
    assert main(["validate"]) == 78
    assert "needs RECIPE.yaml" in capsys.readouterr().err
    assert main(["validate", "--engine"]) == 78
    assert "--crops FILE.npz" in capsys.readouterr().err
    assert main(["validate", "--engine", "--crops", str(tmp_path / "no.npz")]) == 66
    with np.load(crops) as saved:
        arrays = dict(saved)
    for change, message in (
        ({"labels": None}, "labels missing"),
        ({"crops": arrays["crops"].astype(np.float32)}, "crops: found float32"),
        ({"ids": arrays["ids"][:3]}, "expected equal"),
    ):
        path = tmp_path / "bad.npz"
        np.savez(path, **{k: v for k, v in {**arrays, **change}.items() if v is not None})
        assert main(["validate", "--engine", "--crops", str(path)]) == 66
        assert message in capsys.readouterr().err
