"""The loop with every stage a fake: what it counts, what it survives, what ends it."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.capture import FeedStats
from edge.decision import DecisionParams, Exam
from edge.decision.exam import HELD_S
from edge.errors import EngineError, HygromaError, StoreError
from edge.events import Clips, Disk, EventStore, NewEvent, Retention
from edge.events.clip import AFTER_NS, decode_webp
from edge.events.keeper import RETRY_NS
from edge.loop import FAILURES_IN_A_ROW_MAX, HISTORY_POINTS, LATE_NS, Identity, Watch
from edge.records import Event, Fan, Frame, Reading, Scores, Signal, Verdict
from edge.screen.geometry import full_fan
from edge.sd_notify import Notifier
from edge.status.board import Board, NewExamRequest, ReviewRequest, SameExamRequest, Snapshot
from edge.status.render import to_prometheus

STEP_NS = 100_000_000  # nanoseconds between the fake feed's frames
IMAGE = np.full((8, 8), 100, np.uint8)
CROP = np.full((16, 16), 100, np.uint8)
MAP = np.full((2, 2), 0.5, np.float32)


class Clock:
    now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class FakeFeed:
    """`script`: one character a turn; "." is a frame, " " a time-out."""

    name, media_time = "fake:", False

    def __init__(self, clock: Clock, script: str, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.clock, self.script, self.at = clock, script, at or {}
        self.turn = self.frames = 0

    def __enter__(self) -> FakeFeed:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def next(self, timeout_s: float) -> Frame | None:
        self.clock.now_ns += STEP_NS
        if self.ended:
            return None
        self.at.get(self.turn, lambda: None)()
        self.turn += 1
        if self.script[self.turn - 1] == " ":
            return None
        self.frames += 1
        return Frame(self.frames - 1, self.clock.now_ns, IMAGE + 40 * (self.frames % 2))

    @property
    def ended(self) -> bool:
        return self.turn >= len(self.script)

    def stats(self) -> FeedStats:
        return FeedStats(read=self.frames)


class FakeReader:
    def __init__(self, duplicate_every: int = 0, broken: Callable[[int], bool] = lambda frame_id: False) -> None:
        self.duplicate_every, self.broken = duplicate_every, broken

    def read(self, frame: Frame) -> Reading:
        if self.broken(frame.id):
            raise ValueError("odd screen")
        duplicate = bool(self.duplicate_every) and frame.id % self.duplicate_every == 1
        return Reading(frame.id, frame.t_mono_ns, Signal.OK, full_fan(IMAGE.shape), CROP, duplicate)


class FakeScorer:
    def __init__(self, hygroma: float = 0.99, broken: Callable[[int], bool] = lambda call: False) -> None:
        self.hygroma, self.broken, self.calls = hygroma, broken, 0

    def score(self, crop: np.ndarray) -> Scores:
        self.calls += 1
        if self.broken(self.calls):
            raise RuntimeError("device lost")
        return Scores(0.9, self.hygroma, 0.1, MAP)


class FailingStore(EventStore):
    """Refuses until told otherwise."""

    failing = True

    def commit(self, new: NewEvent) -> Event:
        if self.failing:
            raise StoreError("events.db: the disk is full")
        return super().commit(new)


class Bench:
    """One Watch with its fakes."""

    def __init__(
        self, tmp_path: Path, script: str, at: dict[int, Callable[[], object]] | None = None, **stages: Any
    ) -> None:
        self.clock, self.board = Clock(), Board()
        self.verdicts: list[Verdict] = []
        self.store = stages.pop("store", None) or EventStore(tmp_path, clock_ns=self.clock)
        self.feed = FakeFeed(self.clock, script, at)
        self.scorer = stages.pop("scorer", FakeScorer())
        self.watch = Watch(
            feed=self.feed,
            reader=stages.pop("reader", FakeReader()),
            scorer=self.scorer,
            exam=Exam(DecisionParams()),
            store=self.store,
            board=self.board,
            identity=stages.pop("identity", Identity("fake:", "student 0.1.0", "fake")),
            clock_ns=self.clock,
            on_verdict=self.verdicts.append,
            **stages,
        )

    def shown(self) -> Snapshot:
        snapshot = self.board.latest()
        assert snapshot is not None
        return snapshot


@pytest.mark.requirement("T-05")
def test_a_run_without_end_remembers_its_last_flags_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.events.keeper.COMMITTED_MAX", 2)
    bench: Bench
    new_exam = {turn: lambda: bench.board.ask(NewExamRequest()) for turn in (40, 80)}
    bench = Bench(tmp_path, "." * 120, new_exam)
    summary = bench.watch.run()
    assert [event.exam_id for event in summary.events] == [2, 3] and len(bench.store.events()) == 3


def words(verdict: Verdict) -> str:
    return verdict.reasons[0] if verdict.reasons else "assessable"


@pytest.mark.requirement("T-07")
def test_a_sick_exam_becomes_one_committed_event_and_is_shown(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 50)
    summary = bench.watch.run()
    assert (summary.frames, summary.frames_by_signal, summary.lost_events) == (50, {"OK": 50}, 0)
    assert (summary.store_problem, summary.stopped) == ("", False)
    (event,) = summary.events
    assert [kept.id for kept in bench.store.events()] == [event.id]
    assert bench.store.image(event).startswith(b"\x89PNG")
    assert event.frame_id == next(verdict.frame_id for verdict in bench.verdicts if verdict.newly_flagged)
    snapshot = bench.shown()
    assert snapshot.verdict is not None and snapshot.verdict.flagged
    assert snapshot.events == tuple(bench.store.events()) and not snapshot.degraded and snapshot.view is not None
    assert snapshot.view.image.mean() in (100, 140) and snapshot.nuchal_map is MAP
    assert [row.flagged for row in summary.exams] == [True] and summary.exams[0].assessable_frames == 50
    assert summary.latencies["infer"].count == 50 and summary.latencies["flag"].count == 1


def test_a_duplicate_is_not_scored_again_and_keeps_its_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 20, reader=FakeReader(duplicate_every=2))
    summary = bench.watch.run()
    assert (bench.scorer.calls, summary.duplicates) == (10, 10)
    assert {words(verdict) for verdict in bench.verdicts} == {"assessable"}


@pytest.mark.requirement("T-02")
def test_silence_becomes_no_signal_within_a_second_and_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "..." + " " * 10 + "..", stall_s=0.6)
    bench.watch.run()
    stalled = [verdict for verdict in bench.verdicts if words(verdict) == "no signal"]
    assert bench.verdicts[2].t_mono_ns + 10**9 >= stalled[0].t_mono_ns
    assert words(bench.verdicts[-1]) == "assessable" and bench.verdicts[-1].exam_id == 1


@pytest.mark.requirement("T-08")
def test_a_camera_that_was_away_for_an_hour_comes_back_to_another_exam(tmp_path: Path) -> None:
    away = range(20, 3620)

    def second() -> None:
        bench.clock.now_ns += 1_000_000_000 - STEP_NS

    bench = Bench(tmp_path, "." * 20 + " " * len(away) + "." * 20, dict.fromkeys(away, second), scorer=FakeScorer(0.01))
    with bench.store:
        summary = bench.watch.run()
    assert summary.seconds > 3600 and summary.frames == 40 and summary.errors == {}
    silent = bench.verdicts[20:-20]
    assert {words(verdict) for verdict in silent} == {"no signal"} and len(silent) >= len(away) - 1
    assert [row.exam_id for row in summary.exams] == [1, 2]
    assert all(verdict.assessable and verdict.exam_id == 2 for verdict in bench.verdicts[-20:])
    assert len(bench.shown().history) <= HISTORY_POINTS


def test_a_failing_store_does_not_stop_the_watching_and_loses_nothing(tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    store = FailingStore(tmp_path)

    def repair() -> None:
        seen.append(bench.shown())
        store.failing = False

    bench = Bench(tmp_path, "." * 60, {30: repair}, store=store)
    summary = bench.watch.run()
    assert any("events cannot be written" in problem for problem in seen[0].degraded)
    assert seen[0].verdict is not None and seen[0].verdict.flagged
    assert len(summary.events) == 1 and summary.lost_events == 0 and summary.frames == 60
    assert 1 <= summary.errors["store"] <= 2 + 30 * STEP_NS // RETRY_NS
    assert bench.shown().degraded == ()


def test_a_store_that_never_works_is_reported_at_the_end(tmp_path: Path) -> None:
    summary = Bench(tmp_path, "." * 30, store=FailingStore(tmp_path)).watch.run()
    assert (summary.events, summary.lost_events) == ((), 1)
    assert "the disk is full" in summary.store_problem


class FullDisk(Disk):
    """Full from `fill` on, until something is removed."""

    full = False

    def fill(self) -> None:
        self.full = True

    def write(self, path: Path, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().write(path, data)

    def remove(self, path: Path) -> None:
        self.full = self.full and not path.exists()
        super().remove(path)

    def free_bytes(self, path: Path) -> int:
        return 0 if self.full else 10**12


def test_a_disk_that_is_full_when_a_flag_comes_gives_room_by_what_was_dismissed(tmp_path: Path) -> None:
    disk = FullDisk()
    with EventStore(tmp_path, Retention(), disk) as store:
        seen = store.commit(
            NewEvent(1, "fake:", 0, 0, "2026-11-23T10:00:00.000+00:00", 0.9, 6.0, "student 0.1.0", b"seen")
        )
        store.review(seen.id, "dismissed", "nurse A")
        summary = Bench(tmp_path, "." * 60, {1: disk.fill}, store=store).watch.run()
        assert summary.errors == {"store": 1} and summary.lost_events == 0
        assert [event.id for event in store.events()] == [event.id for event in summary.events] != [seen.id]


class LockedStore(EventStore):
    """Refuses reviews until told otherwise, as while another program writes."""

    failing = True

    def review(self, event_id: int, review: str, by: str) -> Event:
        if self.failing:
            raise StoreError("events.db: locked")
        return super().review(event_id, review, by)


def test_a_review_waits_for_a_store_that_fails(tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    store = LockedStore(tmp_path)

    def repair() -> None:
        seen.append(bench.shown())
        store.failing = False

    at = {30: lambda: bench.board.ask(ReviewRequest(1, "confirmed", "nurse A")), 40: repair}
    bench = Bench(tmp_path, "." * 80, at, store=store)
    with store:
        bench.watch.run()
        assert "1 review waits to be written" in seen[0].degraded and bench.shown().degraded == ()
        assert (store.show(1).review, store.show(1).reviewed_by) == ("confirmed", "nurse A")


def test_a_passing_engine_failure_is_counted_and_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 20, scorer=FakeScorer(broken=lambda call: call in (3, 4)))
    summary = bench.watch.run()
    assert summary.errors == {"engine": 2}
    assert [words(verdict) for verdict in bench.verdicts[1:5]] == ["assessable", *["no model answer"] * 2, "assessable"]


def test_a_lasting_engine_failure_ends_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 100, scorer=FakeScorer(broken=lambda call: call > 5))
    with pytest.raises(EngineError, match="device lost"):
        bench.watch.run()
    assert bench.feed.frames == 5 + FAILURES_IN_A_ROW_MAX


def test_a_screen_that_cannot_be_read_costs_that_frame(tmp_path: Path) -> None:
    summary = Bench(tmp_path, "." * 20, reader=FakeReader(broken=lambda frame_id: frame_id == 4)).watch.run()
    assert summary.errors == {"screen": 1} and summary.frames_by_signal == {"OK": 19}
    with pytest.raises(HygromaError, match="odd screen"):
        Bench(tmp_path, "." * 50, reader=FakeReader(broken=lambda frame_id: True)).watch.run()


def test_the_operators_requests_are_obeyed(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "." * 60,
        {
            30: lambda: bench.board.ask(NewExamRequest()),
            40: lambda: bench.board.ask(ReviewRequest(1, "dismissed", "nurse A")),
            41: lambda: bench.board.ask(ReviewRequest(99, "dismissed", "nurse A")),
        },
    )
    summary = bench.watch.run()
    assert [event.exam_id for event in summary.events] == [1, 2]
    assert bench.store.show(1).reviewed_by == "nurse A"
    assert summary.errors == {"store": 1}  # there is no event 99


MENU_S, GAP_S = DecisionParams().menu_s, DecisionParams().gap_s


@pytest.mark.parametrize(
    ("between", "signal", "exams"),
    [
        (MENU_S + 0.2, Signal.MENU, [1, 2]),  # the new-patient screen
        (MENU_S - 0.4, Signal.MENU, [1]),
        (GAP_S + 0.2, Signal.NO_SIGNAL, [1, 2]),  # a black screen
        (GAP_S - 0.4, Signal.NO_SIGNAL, [1]),
        (GAP_S + 0.2, None, [1, 2]),  # a source that gives nothing
        (GAP_S - 0.4, None, [1]),
    ],
)
def test_the_running_loop_ends_an_exam(tmp_path: Path, between: float, signal: Signal | None, exams: list[int]) -> None:
    turns = round(between * 1e9 / STEP_NS)
    reader = FakeReader()
    if signal is not None:
        reader = ShowsInBetween(range(30, 30 + turns), signal)
    bench = Bench(tmp_path, "." * 30 + (" " if signal is None else ".") * turns + "." * 30, reader=reader)
    summary = bench.watch.run()
    assert [event.exam_id for event in summary.events] == exams == [row.exam_id for row in summary.exams]


def test_another_fan_in_the_running_loop_is_the_same_patient_seen_otherwise(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 60, reader=ShowsInBetween(range(30, 31), Signal.OK, layout_changed=True))
    summary = bench.watch.run()
    assert [event.exam_id for event in summary.events] == [1]
    before, after = bench.verdicts[29], bench.verdicts[30]
    assert after.evidence < before.evidence and after.flagged and not after.newly_flagged


@pytest.mark.requirement("H-03")
def test_a_flag_after_an_unsure_boundary_says_so_wherever_it_is_read(tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    turns = round((HELD_S + 1) * 1e9 / STEP_NS)
    end = 30 + turns + 30
    at = {
        30 + turns + 2: lambda: seen.append(bench.shown()),
        end: lambda: bench.board.ask(SameExamRequest()),
        end + 3: lambda: seen.append(bench.shown()),
    }
    reader = ShowsInBetween(range(30, 30 + turns), Signal.FROZEN)
    bench = Bench(tmp_path, "." * (end + 10), at, reader=reader)
    summary = bench.watch.run()
    asked, answered = seen
    assert asked.verdict is not None and not asked.verdict.flagged and asked.verdict.question in asked.degraded
    assert answered.verdict is not None and answered.verdict.exam_id == 1 and answered.degraded == ()
    assert [(event.exam_id, bool(event.boundary)) for event in bench.store.events()] == [(2, True), (1, False)]
    assert "no live picture for" in bench.store.events()[0].boundary
    assert [(row.exam_id, bool(row.boundary)) for row in summary.exams] == [(1, True), (2, True)]


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize(("noise", "told"), [(0.4, False), (1.9, True)])
def test_noise_that_hides_a_freeze_is_a_problem_with_its_figure(tmp_path: Path, noise: float, told: bool) -> None:
    class Noisy(FakeReader):
        def read(self, frame: Frame) -> Reading:
            return replace(super().read(frame), noise=noise)

    bench = Bench(tmp_path, "." * 5, reader=Noisy())
    bench.watch.run()
    assert bench.shown().noise == noise
    assert any("frozen picture cannot be told" in p and "1.9" in p for p in bench.shown().degraded) == told


@pytest.mark.requirement("H-05")
@pytest.mark.parametrize("after", ["new exam", "menu", "another layout"])
def test_a_withheld_picture_is_shown_once_its_fan_is_sure_whatever_exam_is_under_way(tmp_path: Path, after: str) -> None:
    class Unsettled(FakeReader):
        def read(self, frame: Frame) -> Reading:
            reading = super().read(frame)
            if after == "menu" and 12 <= frame.id < 30:
                return Reading(frame.id, frame.t_mono_ns, Signal.MENU, None)
            changed = after == "another layout" and frame.id == 12
            fan = Fan("rect", (0, 0, 3, 8)) if after == "another layout" and frame.id >= 12 else reading.fan
            return replace(reading, fan=fan, settled=frame.id >= 32, layout_changed=changed)

    at = {12: lambda: bench.board.ask(NewExamRequest())} if after == "new exam" else {}
    bench = Bench(tmp_path, "." * 40, at, reader=Unsettled())
    bench.watch.run()
    first = bench.store.events()[-1]
    assert first.exam_id == 1 and first.image_path.endswith("-shown.png") == (after != "another layout")


@pytest.mark.requirement("H-06")
@pytest.mark.parametrize("spacing", [4, 10, 20])  # turns of .1 s between pictures: 2.5 to .5 a second
def test_a_slow_source_is_not_lost_between_its_pictures_and_is_told_when_it_is(tmp_path: Path, spacing: int) -> None:
    script = ("." + " " * (spacing - 1)) * 12
    bench = Bench(tmp_path, script + " " * 100)
    bench.watch.run()
    silent = [verdict.t_mono_ns for verdict in bench.verdicts if words(verdict) == "no signal"]
    second = bench.verdicts[0].t_mono_ns + spacing * STEP_NS
    last = second + 10 * spacing * STEP_NS
    assert not [t for t in silent if second < t < last]
    assert min(t for t in silent if t > last) - last <= (2.5 * spacing + 3) * STEP_NS


class ShowsInBetween(FakeReader):
    """Frames of `ids` are not like the others."""

    def __init__(self, ids: range, signal: Signal, layout_changed: bool = False) -> None:
        super().__init__()
        self.ids, self.signal, self.layout_changed = ids, signal, layout_changed

    def read(self, frame: Frame) -> Reading:
        reading = super().read(frame)
        if frame.id not in self.ids:
            return reading
        if self.signal is Signal.OK:
            return replace(reading, layout_changed=self.layout_changed)
        return Reading(frame.id, frame.t_mono_ns, self.signal, None)


def test_the_watchdog_is_fed_by_finished_loops_only(tmp_path: Path) -> None:
    class Heard(Notifier):
        def __init__(self) -> None:
            super().__init__({})
            self.messages: list[str] = []

        def _send(self, message: str) -> None:
            self.messages.append(message.split("=")[0])

    heard = Heard()
    bench = Bench(tmp_path, "." * 20, notifier=heard, scorer=FakeScorer(broken=lambda call: True))
    with pytest.raises(EngineError):
        bench.watch.run()
    assert heard.messages.count("WATCHDOG") == FAILURES_IN_A_ROW_MAX - 1
    assert heard.messages.index("READY") < heard.messages.index("WATCHDOG")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    bench = Bench(tmp_path, "." * 1000, {50: lambda: os.kill(os.getpid(), number)})
    summary = bench.watch.run()
    assert 50 <= summary.frames < 1000 and len(summary.events) == 1 and summary.stopped
    assert signal.getsignal(number) is before


def test_it_runs_beside_the_main_thread_too(tmp_path: Path) -> None:
    results = []
    bench = Bench(tmp_path, "." * 10)
    thread = threading.Thread(target=lambda: results.append(bench.watch.run().frames))
    thread.start()
    thread.join(20)
    assert results == [10]


@pytest.mark.requirement("T-03")
def test_a_frame_that_was_held_up_decides_nothing(tmp_path: Path) -> None:
    """The newest frame behind a flag is at most 500 ms old: a process that was stopped must not flag on what it saw before."""

    class Slow(FakeScorer):
        def score(self, crop: np.ndarray) -> Scores:
            scores = super().score(crop)
            if self.calls == 4:
                seen.append(bench.shown())
                bench.clock.now_ns += LATE_NS + 1
            return scores

    seen: list[Snapshot] = []
    bench = Bench(tmp_path, "." * 12, scorer=Slow())
    summary = bench.watch.run()
    assert summary.errors == {"late": 1} and len(bench.verdicts) == 11 and len(summary.events) == 1
    assert summary.events[0].latency_ms <= LATE_NS / 1e6
    assert bench.shown().degraded == ()


def test_a_flag_gets_the_seconds_around_it_once_they_are_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "." * 100)
    summary = bench.watch.run()
    (event,) = bench.store.events()
    clip = bench.store.clip(event)
    assert clip is not None and summary.errors == {}
    images, ms_each = decode_webp(clip)
    flag = next(verdict.frame_id for verdict in bench.verdicts if verdict.newly_flagged)
    assert ms_each == STEP_NS / 1e6 and len(images) == flag + 1 + AFTER_NS // STEP_NS
    assert abs(images[1].mean() - images[0].mean()) == pytest.approx(40, abs=4)
    assert bench.shown().events[0].clip_path == event.clip_path


def test_a_clip_that_cannot_be_made_costs_no_flag(tmp_path: Path) -> None:
    def broken(images: list[np.ndarray], ms_each: int) -> bytes:
        raise ValueError("no encoder")

    bench = Bench(tmp_path, "." * 60, clips=Clips(broken))
    summary = bench.watch.run()
    assert len(summary.events) == 1 and summary.errors == {"store": 1} and bench.store.events()[0].clip_path == ""


def test_a_clip_shows_its_own_exam_only(tmp_path: Path) -> None:
    """The flag of a second exam, a moment after the first: its clip begins with its own first picture."""
    bench = Bench(tmp_path, "." * 100, {30: lambda: bench.board.ask(NewExamRequest())})
    bench.watch.run()
    second, first = bench.store.events()
    started = next(verdict.frame_id for verdict in bench.verdicts if verdict.exam_id == 2)
    images, _ = decode_webp(bench.store.clip(second) or b"")
    assert len(images) == second.frame_id - started + 1 + AFTER_NS // STEP_NS
    images, _ = decode_webp(bench.store.clip(first) or b"")
    assert len(images) == min(first.frame_id + 1 + AFTER_NS // STEP_NS, started)


@pytest.mark.requirement("T-17")
def test_an_override_of_the_decision_stands_on_the_page_and_with_every_flag(tmp_path: Path) -> None:
    identity = Identity("fake:", "student 0.1.0", "fake", overrides=("flag_threshold 3 instead of 6",))
    bench = Bench(tmp_path, "." * 20, identity=identity)
    bench.watch.run()
    snapshot = bench.shown()
    assert "the configuration overrides the bundle's decision: flag_threshold 3 instead of 6" in snapshot.degraded
    (event,) = bench.store.events()
    assert event.overrides == "flag_threshold 3 instead of 6"
    metrics = to_prometheus(snapshot, bench.clock.now_ns)
    assert "hygroma_decision_overrides 1" in metrics


@pytest.mark.requirement("M-01")
def test_what_the_bundle_has_no_head_for_stands_on_the_page_as_long_as_it_watches(tmp_path: Path) -> None:
    lacking = ("this bundle cannot tell views: hold the plane", "this bundle has no nuchal map")
    bench = Bench(tmp_path, "." * 20, identity=Identity("fake:", "student 0.1.0", "fake", lacking=lacking))
    bench.watch.run()
    assert set(lacking) <= set(bench.shown().degraded)
