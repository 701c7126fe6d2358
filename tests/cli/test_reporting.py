"""What the command line says about flags that were not written, about interruptions, and where events go. No model runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.phantom import PhantomSource
from edge.capture import FeedStats
from edge.cli import main
from edge.cli.common import TORCH, LogHandler, Progress
from edge.cli.main import make_parser
from edge.config import Config
from edge.demo import TrueExam
from edge.loop import STAGES, Summary
from edge.metrics import LatencySummary
from edge.records import Signal, Verdict
from edge.status.board import Board, NewExamRequest
from edge.watching import keep_at_home

ROOT = Path(__file__).parents[2]
CLEAN = Summary(
    frames=3,
    seconds=1.0,
    frames_by_signal={"OK": 3},
    not_assessable={},
    duplicates=0,
    errors={},
    feed=FeedStats(read=3),
    exams=(),
    events=(),
    lost_events=0,
    store_problem="",
    stopped=False,
    latencies={stage: LatencySummary() for stage in STAGES},
)
LOST = dataclasses.replace(CLEAN, lost_events=2, store_problem="/x/events.db: cannot be written (disk full)")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(str(tmp_path / "c.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for level in range(0, 50, 10):
        writer.write(np.full((240, 320, 3), level, np.uint8))
    writer.release()
    return tmp_path / "c.avi"


class Stage:
    """Stands in for `open_watching`: keeps the configuration it was given and ends with the summary it was told."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.config = Config()
        self.board = Board()
        self.pictures = 0

    @contextmanager
    def __call__(self, config: Config, source: Any, on_verdict: Any = None) -> Iterator[SimpleNamespace]:
        self.config = config
        url = "http://127.0.0.1:1/" if config.status.enabled else ""
        scorer = SimpleNamespace(label="student", runner_name="fake")
        store = SimpleNamespace(root=Path(config.events.dir))
        watch = SimpleNamespace(run=lambda: self.play(source, on_verdict), summary=lambda: self.summary)
        yield SimpleNamespace(watch=watch, scorer=scorer, store=store, board=self.board, url=url)

    def play(self, source: Any, on_verdict: Any) -> Summary:
        """A verdict on each of the first `pictures` pictures."""
        if self.pictures:
            with source:
                for _ in range(self.pictures):
                    frame = source.read()
                    on_verdict(Verdict(frame.id, frame.t_mono_ns, 3, Signal.OK, True, (), .9, .1, 1.0, 0.0, 3.0, False, False))
        return self.summary


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(CLEAN)
    monkeypatch.setattr("edge.watching.open_watching", stage)
    monkeypatch.setattr("edge.demo.open_watching", stage)
    return stage


def argv_of(command: str, folder: Path) -> list[str]:
    run = ["run", "--source", "file:c.avi", "--no-status", "--events", str(folder)]
    return run if command == "run" else ["demo", "--out", str(folder)]


@pytest.mark.parametrize("command", ["run", "demo"])
def test_flags_that_were_not_written_are_said_and_are_no_success(
    command: str, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = argv_of(command, tmp_path)
    assert main([*argv, "--json"]) == 0 and json.loads(capsys.readouterr().out)["lost_events"] == 0
    assert main(argv) == 0 and "NOT WRITTEN" not in capsys.readouterr().out
    stage.summary = LOST
    assert main([*argv, "--json"]) == 1 and json.loads(capsys.readouterr().out)["lost_events"] == 2
    assert main(argv) == 1
    said = capsys.readouterr().out
    assert "2 flags raised but NOT WRITTEN: /x/events.db: cannot be written (disk full)" in said
    assert command == "demo" or "2 flagged" in said


def test_a_demo_that_is_interrupted_is_no_success(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.summary = dataclasses.replace(CLEAN, stopped=True)
    for more in ([], ["--serve"]):
        assert main(["demo", "--json", "--out", str(tmp_path), *more]) == 130
    assert capsys.readouterr().out == ""


@pytest.mark.requirement("F-01")
@pytest.mark.parametrize(("summary", "code"), [(CLEAN, 0), (LOST, 1)])
def test_a_served_demo_prints_its_table_and_begins_again(
    summary: Summary, code: int, stage: Stage, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("edge.demo.CLIP", clip)
    monkeypatch.setattr("edge.demo.read_session", lambda: (25.0, 5, [TrueExam("exam-1-normal", "normal", 0, 4)]))
    stage.summary, stage.pictures = dataclasses.replace(summary, stopped=True), 12
    assert main(["demo", "--serve", "--json", "--out", str(tmp_path)]) == code
    told = json.loads(capsys.readouterr().out)  # once, of the first round
    (exam,) = told["exams"]
    assert (told["bundle"], exam["frames"], exam["dropped"], exam["exam_id"]) == ("student", 5, 0, 3)
    assert stage.board.requests() == [NewExamRequest()] * 2  # the first patient is not the last one
    stage.pictures = 3  # Ctrl-C before the clip's end
    assert main(["demo", "--serve", "--json", "--out", str(tmp_path)]) == 130


@pytest.mark.requirement("F-01")
def test_a_demo_on_a_slow_machine_says_which_exam_lost_pictures(
    stage: Stage, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.demo.CLIP", clip)
    exams = [TrueExam("exam-1-normal", "normal", 0, 4), TrueExam("exam-2-hygroma", "hygroma", 5, 1106)]
    monkeypatch.setattr("edge.demo.read_session", lambda: (25.0, 1107, exams))
    stage.summary = dataclasses.replace(CLEAN, feed=FeedStats(read=1107, dropped=1102))
    stage.pictures = 5
    assert main(["demo", "--out", str(tmp_path)]) == 0
    normal, hygroma = [line for line in capsys.readouterr().out.splitlines() if " no " in line][:2]
    assert "dropped" not in normal and normal.startswith("3 ")  # the daemon's own number
    assert hygroma.startswith("- ") and "1102 pictures dropped" in hygroma


def test_a_run_says_why_nothing_was_assessable_and_how_far_it_is(
    stage: Stage, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(Progress, "_drawn", None)
    stage.summary = dataclasses.replace(CLEAN, not_assessable={"frozen": 3, "not the nuchal plane": 400})
    stage.pictures = 5
    argv = ["run", "--source", f"file:{clip}", "--as-fast-as-possible", "--no-status", "--events", str(tmp_path)]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "not assessable, by reason: 400 not the nuchal plane, 3 frozen" in said.out
    assert "frame 1/5" in said.err and said.err.endswith("\r")  # the bar is wiped before the result


def test_a_log_line_stands_on_its_own_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress, handler = Progress(), LogHandler()
    progress("frame", 1, 2)
    handler.emit(logging.LogRecord("edge.loop", logging.WARNING, "", 0, "suspected", None, None))
    bar, wiped, line = capsys.readouterr().err.rsplit("\r", 2)
    assert "frame 1/2" in bar and not wiped.strip() and "suspected" in line and line.endswith("\n")


def test_a_demo_whose_port_is_taken_serves_on_another(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.status.server.port_problem", lambda host, port: "Address already in use")
    assert main(["demo", "--serve", "--json", "--out", str(tmp_path)]) == 0
    assert stage.config.status.enabled and stage.config.status.port == 0
    said = capsys.readouterr().err
    assert "port 8600 cannot be had (Address already in use)" in said and "http://127.0.0.1:1/" in said
    monkeypatch.setattr("edge.status.server.port_problem", lambda host, port: "")
    assert main(["demo", "--serve", "--json", "--out", str(tmp_path)]) == 0
    assert stage.config.status.port == 8600


def test_a_demo_that_has_nowhere_to_write_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file" / "o")]) == 78
    assert "--out" in capsys.readouterr().err


def test_who_named_no_store_and_may_not_write_the_default_one_gets_his_own(
    stage: Stage,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(
        "edge.watching.why_unwritable", lambda folder: "no" if str(folder) == "/var/lib/hygroma" else ""
    )
    run = ["run", "--source", f"file:{clip}"]
    with caplog.at_level(logging.WARNING):
        assert main(run) == 0
    assert stage.config.events.dir == str(tmp_path / "state" / "hygroma")
    (line,) = [record.message for record in caplog.records if "events go to" in record.message]
    assert str(tmp_path / "state" / "hygroma") in line
    assert main([*run, "--events", "/var/lib/hygroma"]) == 0
    assert stage.config.events.dir == "/var/lib/hygroma"
    (tmp_path / "c.yaml").write_text("source: {name: room}")
    assert main([*run, "--config", str(tmp_path / "c.yaml")]) == 0
    assert stage.config.events.dir == "/var/lib/hygroma"


def test_the_users_own_place_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("edge.watching.why_unwritable", lambda folder: "no")
    for unusable in ("", "relative/state"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert keep_at_home(Config()).events.dir == str(tmp_path / ".local" / "state" / "hygroma")
    monkeypatch.setattr("edge.watching.why_unwritable", lambda folder: "")
    assert keep_at_home(Config()) == Config()


def test_a_store_that_was_named_and_fails_is_told_and_the_watching_starts(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "e"
    argv = [
        "run",
        "--source",
        f"file:{clip}",
        "--as-fast-as-possible",
        "--no-status",
        "--json",
        "--events",
        str(folder),
    ]
    assert main(argv) == 0  # no flag was raised, so none was lost
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == 5 and result["store"] == str(folder) and str(folder) in result["store_problem"]
    assert any("flags cannot be written" in record.message for record in caplog.records)


def test_the_phantom_can_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Short(PhantomSource):
        left = 4

        def read(self) -> np.ndarray | None:
            self.left -= 1
            return super().read() if self.left >= 0 else None

    monkeypatch.setattr("calibration.phantom.PhantomSource", Short)
    argv = ["run", "--source", "phantom:", "--as-fast-as-possible", "--no-status", "--json", "--events", str(tmp_path)]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["source"], result["frames"], result["dropped"]) == ("phantom", 4, 0)


@pytest.mark.parametrize(
    ("argv", "verbose"),
    [
        ("run", False),
        ("run -v", True),
        ("-v run", True),
        ("events list --store x -v", True),
        ("events -v list --store x", True),
        ("-v events list --store x", True),
    ],
)
def test_verbose_is_taken_anywhere(argv: str, verbose: bool) -> None:
    assert make_parser().parse_args(argv.split()).verbose is verbose


def test_a_missing_toolchain_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "export"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["export", "x.yaml"]) == 78
    said = capsys.readouterr().err
    assert f"pip install {TORCH}, then pip install -e '.[toolchain]'" in said and "gigabytes of CUDA" in said
    for page in ("Makefile", "docs/install.md"):
        assert f"pip install {TORCH}" in (ROOT / page).read_text() or f" {TORCH}" in (ROOT / page).read_text()


def test_an_impossible_event_number_is_a_store_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edge.events import EventStore

    EventStore(tmp_path).open()
    for argv in (
        ["show", "9" * 30],
        ["review", "9" * 30, "confirmed", "--by", "A"],
        ["export", str(tmp_path / "o"), "9" * 30],
    ):
        assert main(["events", *argv, "--store", str(tmp_path)]) == 74
        assert "2**63" in capsys.readouterr().err


def test_overlays_that_cannot_be_written_are_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["score", "x.png", "--bundle", "/none", "--overlay", str(tmp_path / "file" / "o")]) == 78
    assert "--overlay" in capsys.readouterr().err
