"""The command line as a script meets it: JSON, exit codes, messages. Runs on the shipped bundle and the shipped clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.phantom import render_stills
from edge import watching
from edge.cli import main
from edge.engines import choice
from edge.engines.choice import Choice
from edge.engines.openvino_runner import has_openvino
from edge.watching import SHIPPED_BUNDLE

KEYS = {"path", "frame", "signal", "assessable", "reasons", "plane", "hygroma", "ood", "ms"}
COMMANDS = [
    "demo",
    "run",
    "score",
    "events",
    "doctor",
    "train",
    "distill",
    "quantize",
    "validate",
    "bundle",
    "export",
    "sensitivity",
]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = next(f for f in render_stills(3, 30, "normal") if f.view == "standard")
    path = tmp_path_factory.mktemp("still") / "phantom.png"
    cv2.imwrite(str(path), frame.image)
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """One run of the demonstration, for every test that looks at its result."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--json", "--out", str(out)]) == 0
    return json.loads(printed.getvalue()), out


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("argv", [[], *[[c] for c in COMMANDS]])
def test_every_command_has_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--help"])
    assert stop.value.code == 0
    assert "usage: hygroma" in capsys.readouterr().out


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["score"])
    assert stop.value.code == 2


@pytest.mark.timeout(900)
def test_demo_flags_hygromas_and_nothing_else(demo: tuple[dict, Path]) -> None:
    result, _ = demo
    assert {"exams", "latency_ms", "fps", "dropped", "bundle"} <= set(result)
    assert {e["truth"] for e in result["exams"]} == {"normal", "hygroma", "frozen", "other", "lost"}
    for exam in result["exams"]:
        assert exam["flagged"] == (exam["truth"] == "hygroma"), exam
        assert exam["dropped"] == 0 and (exam["exam_id"] is None) == (exam["truth"] == "lost")
        assert (exam["seconds_to_flag"] is not None) == exam["flagged"]
    assert result["dropped"] == 0
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]


@pytest.mark.timeout(900)
def test_demo_leaves_one_evidence_image_a_flag(demo: tuple[dict, Path]) -> None:
    result, out = demo
    assert len(result["events"]) == sum(e["flagged"] for e in result["exams"])
    assert [event["exam_id"] for event in result["events"]] == [e["exam_id"] for e in result["exams"] if e["flagged"]]
    for event in result["events"]:
        assert cv2.imread(str(out / event["image_path"])) is not None


@pytest.mark.timeout(900)
def test_events_can_be_listed_shown_reviewed_and_exported(
    demo: tuple[dict, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, out = demo
    store = ["--store", str(out), "--json"]
    assert main(["events", "list", *store]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [e["id"] for e in listed] == [e["id"] for e in reversed(result["events"])]
    first = str(listed[-1]["id"])
    assert main(["events", "review", first, "dismissed", "--by", "nurse", *store]) == 0
    assert json.loads(capsys.readouterr().out)["review"] == "dismissed"
    assert main(["events", "show", first, *store]) == 0
    assert json.loads(capsys.readouterr().out)["reviewed_by"] == "nurse"
    assert main(["events", "export", str(tmp_path / "x"), *store]) == 0
    assert len(list((tmp_path / "x").glob("*.png"))) == len(listed)


def test_events_of_no_store_is_a_store_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "list", "--store", str(tmp_path / "none")]) == 74
    assert "none" in capsys.readouterr().err


def test_score_goes_on_after_an_unreadable_file(
    still: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 9)
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    files = [str(tmp_path / n) for n in ("bad.png", "empty.jpg", "cut.dcm", "cut.mp4", "missing.png")]
    assert main(["score", *files, str(still), "--json"]) == 1
    rows = lines(capsys)
    assert len(rows) == 6
    for name, row in zip(files, rows, strict=False):
        assert row["path"] == name
        assert name in row["error"]
    assert set(rows[-1]) == KEYS


def test_score_gives_probabilities_whatever_the_screen_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((480, 640, 3), np.uint8))
    blue = np.zeros((480, 640, 3), np.uint8)
    blue[..., 0] = 200
    cv2.imwrite(str(tmp_path / "blue.png"), blue)
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((3, 2), np.uint8))
    assert main(["score", str(tmp_path), "--json"]) == 0
    rows = lines(capsys)
    assert len(rows) == 3
    for row in rows:
        assert set(row) == KEYS
        assert (row["signal"], row["assessable"], row["reasons"]) == ("NO_SIGNAL", False, ["no signal"])
        assert 0 <= row["plane"] <= 1 and 0 <= row["hygroma"] <= 1


def test_score_writes_overlays(still: Path, tmp_path: Path) -> None:
    assert main(["score", str(still), "--overlay", str(tmp_path / "o")]) == 0
    (picture,) = (tmp_path / "o").glob("*.png")
    assert cv2.imread(str(picture)).shape[2] == 3


def test_score_of_a_clip_counts_frames(tmp_path: Path, still: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = cv2.imread(str(still))
    writer = cv2.VideoWriter(str(tmp_path / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (1280, 720))
    for _ in range(7):
        writer.write(image)
    writer.release()
    assert main(["score", str(tmp_path / "c.avi"), "--json", "--every", "3"]) == 0
    assert [row["frame"] for row in lines(capsys)] == [0, 3, 6]


@pytest.mark.kernels
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_run_plays_a_file(
    tmp_path: Path, still: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    if runtime == "openvino" and not has_openvino():
        pytest.skip("OpenVINO is not installed: the extra `openvino`")
    (tmp_path / "c.yaml").write_text(f"engine: {{runtime: {runtime}}}\n")
    image = cv2.imread(str(still))
    writer = cv2.VideoWriter(str(tmp_path / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (1280, 720))
    for _ in range(10):
        writer.write(image)
    writer.release()
    argv = ["run", "--source", f"file:{tmp_path / 'c.avi'}", "--as-fast-as-possible", "--no-status", "--json"]
    chosen = []

    def choose(*words: Any) -> Choice:
        chosen.append(choice.choose(*words))
        return chosen[-1]

    monkeypatch.setattr(watching, "choose", choose)
    assert main([*argv, "--events", str(tmp_path / "e"), "--config", str(tmp_path / "c.yaml")]) == 0
    assert {found.runner.name for found in chosen} == {f"{runtime}-cpu"}
    result = json.loads(capsys.readouterr().out)
    assert (result["frames"], result["dropped"], result["events"]) == (10, 0, [])


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["run"], 78, "source.uri"),
        (["run", "--source", "ftp://x"], 78, "ftp"),
        (["run", "--source", "file:/none.mp4", "--no-status"], 66, "/none.mp4"),
        (["run", "--source", "v4l2:/dev/video0", "--as-fast-as-possible"], 78, "as fast as possible"),
        (["score", "x.png", "--bundle", "/none"], 65, "/none"),
        (["export", "/none.yaml"], 78, "/none.yaml"),
    ],
)
def test_errors_have_their_codes(
    argv: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if argv[0] == "export":
        pytest.importorskip("torch")
    events = ["--events", str(tmp_path)] if argv[0] == "run" else []
    assert main([*argv, *events]) == code
    assert words in capsys.readouterr().err


def test_a_spoiled_bundle_is_refused(tmp_path: Path, still: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SHIPPED_BUNDLE, tmp_path / "b")
    with (tmp_path / "b" / "model.qdq.onnx").open("r+b") as file:
        file.seek(100_000)
        (byte,) = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte ^ 1]))
    assert main(["score", str(still), "--bundle", str(tmp_path / "b")]) == 65
    assert "model.qdq.onnx" in capsys.readouterr().err


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"source: {{uri: 'v4l2:/dev/video-none'}}\nevents: {{dir: {tmp_path / 'e'}, min_free_mb: 0}}\n")
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["bundle"]["level"] in ("ok", "warn") and "self-test passed" in findings["bundle"]["found"]
    assert findings["source"]["level"] == "fail" and "/dev/v4l/by-id" in findings["source"]["fix"]
    assert findings["events"]["level"] == "ok"


def test_doctor_of_a_missing_bundle_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--bundle", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().out
