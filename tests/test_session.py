"""A session on rendered screens through the running loop: every state of the screen, and all that ends an exam."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "screen"))
from drawing import LEFT, RECT, RIGHT, flow, live, menu, screen

from edge.capture import EveryFrame, FramesSource
from edge.decision import DecisionParams, Exam
from edge.decision.assess import SIGNAL_REASONS
from edge.events import EventStore
from edge.loop import Identity, Watch
from edge.records import Scores, Signal, Verdict
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader
from edge.status import Board, StatusServer

FPS = 10
PARAMS = DecisionParams(gap_s=2.0, menu_s=1.0)
CERTAIN_S = 1.2  # seconds after which the state of a screen is said: FREEZE is the longest


class Sick:
    def score(self, crop: np.ndarray) -> Scores:
        return Scores(0.9, 0.99, 0.1, np.zeros((4, 4), np.float32))


def seconds(count: float) -> int:
    return round(count * FPS)


class Session:
    """What the daemon said of each frame; `press` is called with each verdict."""

    def __init__(self, folder: Path, images: list[np.ndarray], press: Callable[[Verdict, str], None]) -> None:
        board, self.verdicts = Board(), list[Verdict]()
        with (
            StatusServer(board, port=0) as server,
            EveryFrame(FramesSource("screens", images, FPS, fast=True)) as feed,
            EventStore(folder) as store,
        ):

            def note(verdict: Verdict) -> None:
                self.verdicts.append(verdict)
                press(verdict, server.url)

            watch = Watch(
                feed=feed,
                reader=ScreenReader(Preprocessing(96)),
                scorer=Sick(),
                exam=Exam(PARAMS),
                store=store,
                board=board,
                identity=Identity("screens", "student 0.1.0", "fake"),
                on_verdict=note,
            )
            self.summary = watch.run()


@pytest.mark.requirement("T-07")
def test_every_state_is_said_and_every_boundary_begins_an_exam(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sector = live(seconds(3))
    # name, screens, what is said of them, exam
    scenes: list[tuple[str, list[np.ndarray], str, int]] = [
        ("live", sector, "", 1),
        ("frozen", [sector[-1]] * seconds(2.5), SIGNAL_REASONS[Signal.FROZEN], 1),
        ("colour flow", [flow(image) for image in live(seconds(6), seed=1)], SIGNAL_REASONS[Signal.DOPPLER], 1),
        # longer than AFTER_HOLD_S after the hold: sooner, another layout would make the patient doubtful
        ("two pictures", [screen(rng, LEFT, RIGHT) for _ in range(seconds(2))], SIGNAL_REASONS[Signal.DUAL], 1),
        ("another fan", live(seconds(4), RECT, seed=2), "", 1),  # the same patient, seen otherwise
        ("patient list", [menu()] * seconds(2.5), SIGNAL_REASONS[Signal.MENU], 1),
        ("after the list", live(seconds(3), seed=3), "", 2),
        ("dark for a moment", [np.zeros_like(sector[0])] * seconds(1.8), SIGNAL_REASONS[Signal.NO_SIGNAL], 2),
        ("and back", live(seconds(3), seed=4), "", 2),
        ("dark for long", [np.zeros_like(sector[0])] * seconds(PARAMS.gap_s + 0.5), SIGNAL_REASONS[Signal.NO_SIGNAL], 2),
        ("after the gap", live(seconds(3), seed=5), "", 3),
        ("after the button", live(seconds(3), seed=6), "", 4),
    ]
    ends = np.cumsum([len(images) for _, images, _, _ in scenes])
    pressed_at = int(ends[-2]) - 1

    def press(verdict: Verdict, url: str) -> None:
        if verdict.frame_id == pressed_at:
            request = urllib.request.Request(f"{url}new-exam", b"{}", {"Content-Type": "application/json"}, method="POST")
            assert urllib.request.urlopen(request, timeout=10).status == 202

    session = Session(tmp_path, [image for _, images, _, _ in scenes for image in images], press)
    assert session.summary.errors == {}
    for (name, images, words, exam), end in zip(scenes, ends, strict=True):
        said = session.verdicts[end - len(images) + seconds(CERTAIN_S) : end]
        assert said and {verdict.reasons for verdict in said} == {(words,) if words else ()}, name
        assert {verdict.exam_id for verdict in said} == {exam}, name
    assert [event.exam_id for event in session.summary.events] == [1, 2, 3, 4]  # one flag each
    fan = int(ends[4]) - len(scenes[4][1])
    restarted = min(verdict.evidence for verdict in session.verdicts[fan : fan + seconds(CERTAIN_S)])
    assert restarted < PARAMS.flag_threshold / 2  # what another fan showed counts no longer
    assert session.verdicts[fan].flagged and not any(v.newly_flagged for v in session.verdicts[fan : ends[5]])
