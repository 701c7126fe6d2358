"""`hygroma engine` and `validate --engine`, with a fake GPU where one is needed."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from fakes.tensorrt_fake import World

from edge.bundle import Bundle
from edge.bundle.manifest import GateResult
from edge.cli import main
from edge.engines import choice
from edge.engines.health import engine_state
from edge.engines.openvino_runner import has_openvino
from edge.engines.selftest import SAME_GRAPH_TOLERANCE
from edge.engines.tensorrt import api as tensorrt_api
from edge.engines.tensorrt import host as engine_host
from edge.engines.tensorrt import race
from edge.engines.tensorrt.host import Host
from edge.errors import EngineError

GATE = GateResult(True, False, 64, 32, 0, 1, 0.0, 0.01, 0.01, (), ("secret-name.png",))


@pytest.fixture(autouse=True)
def machine(host: Host, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has TensorRT 10.3 and a GPU; both are fake."""
    world.ms = {"int8": 0.4, "fp16": 0.6, "mixed": 0.3}
    monkeypatch.setattr(engine_host, "this_host", lambda: host)
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


def test_one_that_fails_its_check_does_not_stay_as_the_newest(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], world: World, tmp_path: Path
) -> None:
    _, good = run(capsys, "engine", "build", *given)
    world.wrong = {"fp16": 4.0}
    assert main(["engine", "build", "--precision", "fp16", *given]) == 70
    assert "self-test of tensorrt-fp16" in capsys.readouterr().err
    _, listed = run(capsys, "engine", "list", *given)
    assert [entry["digest"] for entry in listed] == [good["digest"]]  # what the daemon will take
    assert len(list((tmp_path / "engines" / "quarantine").iterdir())) == 1


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], given: tuple[str, ...]) -> None:
    assert main(["engine", "build", "--precision", "int4", *given]) == 70
    assert "'int4'; expected one of int8" in capsys.readouterr().err


# -- validate --engine


@pytest.fixture
def crops(tmp_path: Path, tiny_bundle: Bundle) -> Path:
    """The golden images, as if they were held-out crops: half of them called positive by the model's own answers."""
    from export.report.engine_gate import StoredCrops, save_crops

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


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Lets every engine pass the gate from now on, or none."""
    from export.report import engine_gate

    def call(passed: bool) -> None:
        verdict = dataclasses.replace(GATE, passed=passed)
        monkeypatch.setattr(engine_gate, "gate", lambda *given: verdict)

    return call


@pytest.fixture
def doctor(tiny_bundle: Bundle, given: tuple[str, ...], host: Host) -> Callable[[], tuple[str, str, str]]:
    return lambda: engine_state(tiny_bundle, "auto", given[-1], lambda: host, lambda: True)


def test_what_was_validated_is_kept_beside_the_engine_and_one_that_failed_is_not_taken(
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    crops: Path,
    tiny_bundle: Bundle,
    host: Host,
    judged: Any,
    doctor: Any,
) -> None:
    assert main(["engine", "race", *given]) == 0
    assert "mixed never validated on held-out images" in doctor()[1] and doctor()[0] == "ok"
    judged(True)
    capsys.readouterr()
    code, report = run(capsys, "validate", "--engine", "--crops", str(crops), *given)
    assert code == 0
    kept = Path(report["file"]).read_text()
    assert "secret-name.png" not in kept and "secret-name.png" in json.dumps(report)
    level, found, _ = doctor()
    assert level == "ok" and "mixed passed the gate on held-out images on 20" in found
    assert "0 of 32 positives lost, 1 of 64 decisions flipped" in found
    judged(False)
    assert main(["validate", "--engine", "--crops", str(crops), *given]) == 3
    level, found, fix = doctor()
    assert level == "warn" and "mixed not taken: it FAILED the gate" in found and "int8 0.400 ms (in use)" in found and fix
    chosen = choice.choose(tiny_bundle, "auto", 1, given[-1], lambda: host, lambda: True)
    assert chosen.runner.name == "tensorrt-int8"  # the next fastest; said and counted
    assert chosen.fallback == "tensorrt-int8 runs, since tensorrt-mixed failed on held-out images"
    assert main(["engine", "prune", *given]) == 0
    assert Path(report["file"]).is_file() and "mixed not taken" in doctor()[1]
    assert choice.open_engine(tiny_bundle, given[-1]).name == "tensorrt-int8"
    capsys.readouterr()
    code, again = run(capsys, "validate", "--engine", "--crops", str(crops), *given)
    assert code == 3 and again["engine"] == "tensorrt-mixed"  # the same command judges the same engine
    judged(True)
    code, other = run(capsys, "validate", "--engine", "--precision", "fp16", "--crops", str(crops), *given)
    assert code == 0 and other["engine"] == "tensorrt-fp16" and "mixed not taken" in doctor()[1]
    assert main(["validate", "--engine", "--crops", str(crops), *given]) == 0
    assert choice.open_engine(tiny_bundle, given[-1]).name == "tensorrt-mixed" and doctor()[0] == "ok"


def test_where_every_engine_failed_it_is_said_how_to_go_on(
    given: tuple[str, ...], crops: Path, tiny_bundle: Bundle, judged: Any, doctor: Any
) -> None:
    assert main(["engine", "build", *given]) == 0
    judged(False)
    assert main(["validate", "--engine", "--crops", str(crops), *given]) == 3
    with pytest.raises(EngineError, match=r"every engine .* failed on held-out images \(tensorrt-int8\); judge it .*--force"):
        choice.open_engine(tiny_bundle, given[-1])
    level, found, fix = doctor()
    assert level == "warn" and "int8 not taken: it FAILED" in found and "validate --engine" in fix
    record = next(Path(given[-1]).glob("validated-*.json"))
    for change in ({"passed": None}, {"passed": "true"}, {"validated_s": 1e300}, {"validated_s": "x"}, {"steps": 3}):
        record.write_text(json.dumps(json.loads(record.read_text()) | change))
        assert "FAILED" in doctor()[1]
    record.write_text("[" * 200_000)
    assert doctor()[0] == "warn"


def test_a_precision_that_is_not_there_or_means_nothing_is_told(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path
) -> None:
    words = ("validate", "--engine", "--crops", str(crops), *given)
    assert main([*words, "--precision", "fp32"]) == 70
    assert "no verified fp32 engine" in (said := capsys.readouterr().err) and "engine build --precision fp32" in said
    assert main([*words, "--runtime", "onnxruntime", "--precision", "fp16"]) == 78
    assert "--precision: found fp16 with onnxruntime" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_keeps_nobody_from_judging(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    words = ("validate", "--engine", "--runtime", "onnxruntime", "--crops", str(crops), *given[:-1])
    for folder in ("/proc/nowhere", str(tmp_path / "engines")):
        code = main([*words, folder, "--json"])
        done = capsys.readouterr()
        report = json.loads(done.out)
        assert code in (0, 3) and (report["file"] is None) == ("not kept" in done.err) == (folder == "/proc/nowhere")
    assert engine_state(tiny_bundle, "onnxruntime", str(tmp_path / "file/below"))[0] == "ok"


def test_what_was_validated_on_the_processor_is_shown_too(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    words = ("validate", "--engine", "--runtime", "onnxruntime", "--crops", str(crops), *given)
    code, report = run(capsys, *words)
    level, found, fix = engine_state(tiny_bundle, "onnxruntime", given[-1])
    assert (level, bool(fix)) == (("fail", True) if code else ("ok", False))
    assert found.startswith("ONNX Runtime, as configured; ") and "on held-out images on 20" in found
    plane = report["steps"]["pytorch-fp32 -> onnxruntime-cpu"]["plane"]
    assert plane["assessable"] > 0 and 0 <= plane["lost"] <= plane["assessable"] and plane["max_dp"] >= plane["p99_dp"]
    assert main([*words]) == code
    assert f"planes, not gated: {plane['lost']} of {plane['assessable']} assessable ones lost" in capsys.readouterr().out
    for text in ("[]", "not json", '{"sha256": 3}', Path(report["file"]).read_text().replace('"n": 64', '"n": []')):
        Path(report["file"]).write_text(text)
        assert engine_state(tiny_bundle, "onnxruntime", given[-1])[0] in ("ok", "fail")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_other_runtimes_are_held_against_the_same_gate(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path, tmp_path: Path, runtime: str
) -> None:
    if runtime == "openvino" and not has_openvino():
        pytest.skip("OpenVINO is not installed: the extra `openvino`")
    code, report = run(capsys, "validate", "--engine", "--runtime", runtime, "--crops", str(crops), *given)
    assert report["engine"] == f"{runtime}-cpu" and report["n"] == 64 and code == (0 if report["passed"] else 3)
    assert report["steps"][f"qdq -> {runtime}-cpu"]["largest"]["probability"] < SAME_GRAPH_TOLERANCE.probability
    config = tmp_path / "hygroma.yaml"
    config.write_text(f"engine: {{runtime: {runtime}}}\n")
    _, again = run(capsys, "validate", "--engine", "--config", str(config), "--crops", str(crops), *given)
    assert again["engine"] == f"{runtime}-cpu" and again["steps"] == report["steps"]


def test_an_engine_that_loses_positives_fails_the_gate(
    given: tuple[str, ...], world: World, crops: Path, tiny_bundle: Bundle
) -> None:
    from export.report.engine_gate import engine_report, load_crops

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


def test_the_gate_is_printed_with_what_its_images_allow_to_be_said(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path
) -> None:
    words = ("validate", "--engine", "--runtime", "onnxruntime", "--crops", str(crops), *given)
    code, report = run(capsys, *words)
    assert main([*words]) == code
    said = capsys.readouterr().out
    step = report["steps"]["pytorch-fp32 -> onnxruntime-cpu"]
    # of 32 positives; Clopper and Pearson's bound where none was lost
    assert step["positives_lost"] or step["positives_lost_bound"] == pytest.approx(1 - 0.05 ** (1 / 32))
    assert (
        f"loses at most {step['positives_lost_bound']:.1%} of positives (95 %), McNemar p {step['mcnemar_p']:.3g}"
        in said
    )
    assert "fp32 -> onnxruntime-cpu: " in said and 0 <= step["mcnemar_p"] <= 1


def test_crops_of_another_model_or_size_are_refused(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], crops: Path, tmp_path: Path
) -> None:
    with np.load(crops) as saved:
        arrays = dict(saved)
    for change, message in (
        ({"fp32_embedding": arrays["fp32_embedding"][:, :5]}, "fp32_embedding: found [64, 5]"),
        ({"fp32_nuchal_map": arrays["fp32_nuchal_map"][:, :1]}, "fp32_nuchal_map: found [64, 1"),
        ({"crops": arrays["crops"][:, :, :32, :32]}, "crops: found 32 pixels; this bundle takes 48"),
    ):
        np.savez(tmp_path / "other.npz", **{**arrays, **change})
        words = ("validate", "--engine", "--runtime", "onnxruntime", "--crops", str(tmp_path / "other.npz"))
        assert main([*words, *given]) == 66
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04", b"\x93NUMPY", None])
def test_a_damaged_file_of_crops_is_refused(
    capsys: pytest.CaptureFixture[str], crops: Path, tmp_path: Path, broken: bytes | None
) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(crops.read_bytes()[:-2000] if broken is None else broken)
    assert main(["validate", "--engine", "--crops", str(path)]) == 66
    assert "cut.npz: " in capsys.readouterr().err


def twos(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return arrays["labels"] * 2


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("labels", lambda a: np.int8(1), r"found entries of shapes .*'labels': \[\].*expected as many of each"),
        ("labels", lambda a: a["labels"][:5], r"found entries of shapes .*'labels': \[5\].*expected as many of each"),
        ("labels", lambda a: np.stack([a["labels"]] * 2, 1), r"labels: found int8 \[64, 2\]; expected integers \[N\]"),
        ("labels", lambda a: a["labels"].astype(str), r"labels: found <U\d+ \[64\]; expected integers"),
        ("labels", lambda a: a["labels"].astype(object), "labels: damaged, or not an array of numbers or text"),
        ("labels", twos, r"labels: found \[0, 2\]; expected 0 and 1, some of both"),
        ("labels", lambda a: np.ones_like(a["labels"]), r"labels: found \[1\]; expected 0 and 1, some of both"),
        ("ids", lambda a: np.arange(64), r"ids: found int64 \[64\]; expected text \[N\]"),
        ("crops", lambda a: a["crops"][:, 0], r"crops: found uint8 \[64, 48, 48\]; expected uint8 \[N,1,S,S\]"),
        ("fp32_plane", lambda a: np.float32(1), r"found entries of shapes .*'fp32_plane': \[\]"),
        ("fp32_plane", lambda a: a["fp32_plane"].astype(np.float64), "fp32_plane: found float64; expected float32"),
        ("fp32_plane", lambda a: a["fp32_plane"] * np.nan, "fp32_plane: found 64 values that are no numbers"),
        ("fp32_plane", None, "fp32_plane missing, found crops, labels, ids"),
    ],
)
def test_a_malformed_file_of_crops_is_named_with_what_was_found_and_the_fix(
    capsys: pytest.CaptureFixture[str], crops: Path, tmp_path: Path, name: str, change: Any, words: str
) -> None:
    with np.load(crops) as saved:
        arrays = dict(saved)
    arrays[name] = change(arrays) if change else arrays.pop(name)
    np.savez(tmp_path / "odd.npz", **{key: array for key, array in arrays.items() if change or key != name})
    assert main(["validate", "--engine", "--crops", str(tmp_path / "odd.npz")]) == 66
    assert re.search(
        f"odd.npz: {words}.*; write it with `hygroma validate RECIPE --crops FILE`", capsys.readouterr().err
    )


def test_what_is_no_file_of_crops_is_told_in_our_own_words(
    capsys: pytest.CaptureFixture[str], crops: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.npz").write_text("crops")
    np.save(tmp_path / "one.npy", np.zeros(3))
    flipped = bytearray(crops.read_bytes())
    flipped[200:400] = bytes(200)  # inside the first array's compressed bytes
    (tmp_path / "flipped.npz").write_bytes(flipped)
    (tmp_path / "index.npz").write_bytes(crops.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    for name, words in (
        ("text.npz", "no .npz archive"),
        ("index.npz", "no .npz archive"),
        ("one.npy", "no .npz archive"),
        ("absent.npz", "cannot be read (No such file or directory)"),
        (".", "cannot be read (Is a directory)"),
        ("flipped.npz", "crops: damaged"),
    ):
        assert main(["validate", "--engine", "--crops", str(tmp_path / name)]) == 66
        said = capsys.readouterr().err
        assert f"{tmp_path / name}: {words}" in said and "; write it with" in said and "pickle" not in said


@pytest.mark.parametrize("words", [("build",), ("race",), ("list",), ("prune",)], ids=" ".join)
def test_a_cache_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("no folder")
    bundle = given[:3]
    code = main(["engine", *words, *bundle, "--cache", str(tmp_path / "file")])
    done = capsys.readouterr()
    assert code == 70 and f"{tmp_path / 'file'}: is a file" in done.err and "Building" not in done.err


@pytest.mark.parametrize("action", ["build", "race"])
def test_a_cache_that_cannot_be_written_is_found_before_building(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], action: str
) -> None:
    assert main(["engine", action, *given[:3], "--cache", "/proc/self/engines"]) == 70
    said = capsys.readouterr().err
    assert "/proc/self/engines: cannot be written (" in said and "Building" not in said


@pytest.mark.parametrize("damage", ["entry.json", "engine.plan", "SHA256SUMS", "race", "timing"])
def test_a_damaged_cache_is_set_aside_and_built_again(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], tmp_path: Path, damage: str
) -> None:
    _, raced = run(capsys, "engine", "race", *given)
    root = tmp_path / "engines"
    for path in [*root.rglob(damage), *root.glob(f"{damage}-*")]:
        path.write_bytes(path.read_bytes()[:-3] + b"\xff\x00{")
    code, listed = run(capsys, "engine", "list", *given)
    assert code == 0 and len(listed) == (3 if damage in ("race", "timing") else 0)
    code, again = run(capsys, "engine", "race", *given)
    built = [c["built_now"] for c in again["candidates"]]
    assert code == 0 and again["winner"] == raced["winner"] and built == [damage not in ("race", "timing")] * 3
    code, pruned = run(capsys, "engine", "prune", *given)
    assert code == 0 and not (root / "quarantine").exists()


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], tmp_path: Path
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))  # less than an engine's size
    try:
        code = main(["engine", "build", *given])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert code == 70 and "cannot store the engine (File too large)" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "engines").iterdir()] == []


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
        ({"ids": arrays["ids"][:3]}, "expected as many of each"),
        ({"labels": arrays["labels"] + 1}, "labels: found [1, 2]"),
        ({"fp32_plane": np.full(64, np.nan, np.float32)}, "fp32_plane: found 64 values that are no numbers"),
    ):
        path = tmp_path / "bad.npz"
        np.savez(path, **{k: v for k, v in {**arrays, **change}.items() if v is not None})
        assert main(["validate", "--engine", "--crops", str(path)]) == 66
        assert message in capsys.readouterr().err
