"""The daemon's one loop: receive, read the screen, infer, decide, commit, publish. It reads in that order, top to
bottom.

Every stage comes in through the constructor, so that each can be replaced by a fake. Nothing that goes wrong in the
store or with a single frame stops the watching: it is counted and shown as degraded.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edge.capture.feed import Feed, FeedStats
from edge.capture.rhythm import Rhythm
from edge.clock import WallClock
from edge.decision.exam import Exam
from edge.errors import EngineError, HygromaError
from edge.events.clip import Clips
from edge.events.keeper import Keeper
from edge.events.store import EventStore
from edge.metrics import Latency, LatencySummary
from edge.records import Event, Frame, Reading, Scores, Signal, Verdict
from edge.screen.held import NOISE_MAX
from edge.screen.view import View, look
from edge.sd_notify import Notifier
from edge.status.board import (
    Board,
    BundleState,
    ExamRow,
    NewExamRequest,
    Request,
    SameExamRequest,
    Snapshot,
)

log = logging.getLogger(__name__)

POLL_S = 0.2  # seconds to wait for a frame: with stall_s <= .75 a lost source is reported within 1 s
FAILURES_IN_A_ROW_MAX = 10  # a third of a second at 30 fps: past a hiccup, and systemd's restart is the better cure
PUBLISH_NS = 100_000_000  # nanoseconds between snapshots: ten a second look live, and cost the loop next to nothing
AWAIT_VIEW_NS = 50_000_000  # nanoseconds that a snapshot waits for the next view
EXAMS_SHOWN = 20  # exams in the snapshot: a session's
LATE_NS = 500_000_000  # nanoseconds: the newest frame behind a flag is at most this old (docs/design.md#trust)
VIEW_NS = 100_000_000  # nanoseconds of the source's time between views: what the page can show
HISTORY_NS = 500_000_000  # nanoseconds between points of the evidence curve
HISTORY_POINTS = 120  # points of the evidence curve: one minute
STAGES = ("wait", "read", "infer", "decide", "commit", "publish", "overhead", "verdict", "flag")


class ScreenStage(Protocol):
    """`edge.screen.reader.ScreenReader`."""

    def read(self, frame: Frame) -> Reading: ...


class ScoreStage(Protocol):
    """`edge.engines.scorer.Scorer`, entered."""

    def score(self, crop: np.ndarray) -> Scores: ...


@dataclass(frozen=True)
class Identity:
    """Whose eyes these are, for events and the page."""

    source: str  # credentials removed
    bundle: str
    engine: str
    bundle_state: BundleState | None = None
    fallback: str = ""  # why this engine stands in for a better one
    overrides: tuple[str, ...] = ()  # of the bundle's decision, by the configuration, in words
    lacking: tuple[str, ...] = ()  # what the bundle has no head for, in words


@dataclass(frozen=True)
class Summary:
    """One run, after it ended. Latencies in milliseconds by stage (see STAGES)."""

    frames: int
    seconds: float
    frames_by_signal: dict[str, int]
    not_assessable: dict[str, int]  # verdicts by reason (see decision.REASONS); one may have several
    duplicates: int
    errors: dict[str, int]
    feed: FeedStats
    exams: tuple[ExamRow, ...]
    events: tuple[Event, ...]  # committed in this run, oldest first, COMMITTED_MAX at most
    lost_events: int  # flags that the store never took
    store_problem: str  # what the store said last, "" when it works
    stopped: bool  # by `stop` or a signal, before the source ended
    latencies: dict[str, LatencySummary]


class Watch:
    """Watches one source until it ends, `stop` is called, or SIGTERM or SIGINT arrives.

    `feed` and `scorer` have been entered by the caller, who also closes them. `on_verdict`, for progress and for the
    demo, gets every verdict on the loop's thread and must be quick.
    """

    def __init__(
        self,
        *,
        feed: Feed,
        reader: ScreenStage,
        scorer: ScoreStage,
        exam: Exam,
        store: EventStore,
        board: Board,
        identity: Identity,
        stall_s: float = 0.6,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall: WallClock | None = None,
        notifier: Notifier | None = None,
        on_verdict: Callable[[Verdict], None] | None = None,
        clips: Clips | None = None,
    ) -> None:
        self._feed, self._reader, self._scorer = feed, reader, scorer
        self._exam, self._board = exam, board
        self._identity, self._rhythm = identity, Rhythm(round(stall_s * 1e9))
        self._clock_ns, self._wall = clock_ns, wall or WallClock()
        self._notifier, self._on_verdict = notifier or Notifier({}), on_verdict
        self._started_ns = clock_ns()
        whose = identity.source, identity.bundle, "; ".join(identity.overrides)
        self._keeper = Keeper(store, clips or Clips(), *whose, self._started_ns, clock_ns)
        self._stopping = threading.Event()

        self._latencies = {stage: Latency() for stage in STAGES}
        self._latencies |= {"commit": self._keeper.commit, "flag": self._keeper.flag}
        self._signals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._errors: Counter[str] = Counter({"fallback": 1} if identity.fallback else {})
        self._in_a_row = {"screen": 0, "engine": 0}
        self._late = False  # the newest frame was too old when it had been scored
        self._duplicates = 0
        self._frames = 0
        self._last_frame: Frame | None = None
        self._last_arrival_ns: int | None = None
        self._verdict: Verdict | None = None
        self._scores: Scores | None = None
        self._view: View | None = None  # of the newest frame, or of one at most VIEW_NS older
        self._view_ns: int | None = None  # its stamp
        self._exams: deque[ExamRow] = deque(maxlen=EXAMS_SHOWN)
        self._history: deque[tuple[int, float, float | None]] = deque(maxlen=HISTORY_POINTS)
        self._noise = 0.0  # grey levels, the source's, as last measured
        self._publish_at_ns = self._started_ns

    # -- the loop

    def run(self) -> Summary:
        """EngineError or HygromaError after FAILURES_IN_A_ROW_MAX failures in a row; what the feed raises goes
        through."""
        with _stop_on_signals(self.stop):
            self._keeper.tend(self._clock_ns())
            self._publish(self._clock_ns())
            self._notifier.ready()
            while not self._stopping.is_set():
                asked_ns = self._clock_ns()
                frame = self._feed.next(POLL_S)
                now_ns = self._clock_ns()
                if frame is None and self._feed.ended:
                    break
                self._latencies["wait"].record((now_ns - asked_ns) / 1e6)
                self._step(frame, now_ns)
                self._notifier.watchdog()
            self._notifier.stopping()
            self._keeper.finish(self._clock_ns())
            self._publish(self._clock_ns())
        return self.summary()

    def stop(self) -> None:
        """End the run after the frame under way. From any thread."""
        self._stopping.set()

    def _step(self, frame: Frame | None, now_ns: int) -> None:
        for request in self._board.requests():
            self._obey(request)
        inferring_ms, verdict = 0.0, None
        reading = self._receive(frame, now_ns)
        if reading is not None:
            asked_ns = self._clock_ns()
            scores = self._infer(reading)
            inferring_ms = (self._clock_ns() - asked_ns) / 1e6
            reading = self._in_time(reading)
        if reading is not None:
            with self._timed("decide"):
                verdict = self._exam.step(reading, scores)
                self._remember(reading, scores, verdict)
            self._latencies["verdict"].record((self._clock_ns() - now_ns) / 1e6)
            self._keeper.see(reading, verdict, self._view if self._view_ns == reading.t_mono_ns else None)
            if verdict.newly_flagged:
                self._flag(frame, reading, scores, verdict, now_ns)
        self._keeper.tend(self._clock_ns())
        urgent = self._verdict is not None and (self._verdict.newly_flagged or self._verdict.exam_started)
        # With a view of this very picture, if one comes soon: what costs most is then done with one picture in three.
        fresh = reading is not None and self._view is not None and self._view_ns == reading.t_mono_ns
        if urgent or self._clock_ns() >= self._publish_at_ns + (0 if fresh or self._view is None else AWAIT_VIEW_NS):
            with self._timed("publish"):
                self._publish(self._clock_ns())
        if frame is not None:
            self._latencies["overhead"].record((self._clock_ns() - now_ns) / 1e6 - inferring_ms)
        if verdict is not None and self._on_verdict is not None:
            self._on_verdict(verdict)

    # -- the stages

    def _receive(self, frame: Frame | None, now_ns: int) -> Reading | None:
        """The reading of a frame; NO_SIGNAL when none has come for `stall_s`, or 2.5 periods of a slow source; None when
        there is nothing to say yet."""
        if frame is None:
            last_ns = self._started_ns if self._last_arrival_ns is None else self._last_arrival_ns
            if now_ns - last_ns < self._rhythm.stall_ns:
                return None
            self._view = None
            return Reading(self._last_frame.id if self._last_frame else 0, now_ns, Signal.NO_SIGNAL, None, None)
        self._frames += 1
        self._last_frame = replace(frame, image=_NO_IMAGE)  # the id and the stamp; pixels are not kept
        self._last_arrival_ns = now_ns
        self._rhythm.see(now_ns)
        try:
            with self._timed("read"):
                reading = self._reader.read(frame)
                self._look(frame, reading)
        except Exception as error:
            self._view = None
            self._count_failure("screen", error, HygromaError)
            return None
        self._in_a_row["screen"] = 0
        self._signals[reading.signal.value] += 1
        self._duplicates += reading.duplicate
        self._noise = reading.noise if reading.fan is not None else self._noise
        return reading

    def _look(self, frame: Frame, reading: Reading) -> None:
        """What people may see of a frame, now and then: they cannot tell thirty a second from ten."""
        if reading.fan is None or not reading.settled:
            self._view = None
        elif self._view is None or self._view_ns is None or frame.t_mono_ns - self._view_ns >= VIEW_NS:
            self._view, self._view_ns = look(frame.image, reading.fan), frame.t_mono_ns

    def _infer(self, reading: Reading) -> Scores | None:
        """Scores of an OK frame; a duplicate has the scores of the frame that it repeats."""
        if reading.signal is not Signal.OK or reading.crop is None:
            return None
        if reading.duplicate and self._scores is not None:
            return self._scores
        try:
            with self._timed("infer"):
                scores = self._scorer.score(reading.crop)
        except Exception as error:
            self._count_failure("engine", error, EngineError)
            return None
        self._in_a_row["engine"] = 0
        return scores

    def _in_time(self, reading: Reading) -> Reading | None:
        """None when the frame has become too old to decide on: this process was stopped, or the machine is too slow."""
        age_ns = self._clock_ns() - reading.t_mono_ns
        self._late = not self._feed.media_time and age_ns > LATE_NS
        if not self._late:
            return reading
        self._errors["late"] += 1
        return None

    def _flag(
        self, frame: Frame | None, reading: Reading, scores: Scores | None, verdict: Verdict, received_ns: int
    ) -> None:
        assert frame is not None and scores is not None  # a frame without is not assessable and cannot flag
        log.warning("exam %d: suspected nuchal collection: refer (evidence %.2f)", verdict.exam_id, verdict.evidence)
        # A recording played fast has stamps of its own time: its frame's age is counted from when it was received.
        since_ns = received_ns if self._feed.media_time else verdict.t_mono_ns
        self._keeper.take(frame, reading, scores, verdict, since_ns, self._wall.stamp())

    def _publish(self, now_ns: int) -> None:
        self._publish_at_ns = now_ns + PUBLISH_NS
        verdict = self._verdict
        if verdict is None:
            self._notifier.status("waiting for the first picture")
        else:
            state = "FLAGGED" if verdict.flagged else "assessing" if verdict.assessable else "not assessing"
            self._notifier.status(f"{state}, exam {verdict.exam_id}, {', '.join(verdict.reasons) or 'assessable'}")
        self._board.publish(
            Snapshot(
                t_mono_ns=now_ns,
                source=self._identity.source,
                bundle=self._identity.bundle,
                engine=self._identity.engine,
                ready=True,
                verdict=verdict,
                frame_t_mono_ns=self._last_arrival_ns,
                degraded=self._degraded(),
                frames_by_signal=dict(self._signals),
                duplicates=self._duplicates,
                errors=self._failures(),
                feed=self._feed.stats(),
                latencies={stage: latency.summary() for stage, latency in self._latencies.items()},
                exams=tuple(reversed(self._exams)),
                events=tuple(self._keeper.events),
                history=tuple(((now_ns - t) / 1e9, evidence, hygroma) for t, evidence, hygroma in self._history),
                view=self._view,
                nuchal_map=self._scores.nuchal_map if verdict and verdict.assessable and self._scores else None,
                bundle_state=self._identity.bundle_state,
                overrides=self._identity.overrides,
                noise=self._noise,
            )
        )

    # -- what the loop remembers

    def _remember(self, reading: Reading, scores: Scores | None, verdict: Verdict) -> None:
        if verdict.question and (self._verdict is None or self._verdict.question != verdict.question):
            log.warning("operator: %s", verdict.question)
        self._verdict, self._scores = verdict, scores
        self._reasons.update(verdict.reasons)
        if verdict.exam_started:
            started = self._wall.now().isoformat(timespec="seconds")
            self._exams.append(ExamRow(verdict.exam_id, started, 0, False, None))
        # The last but for the operator's word that an earlier exam goes on.
        place = next((i for i in range(len(self._exams) - 1, -1, -1) if self._exams[i].exam_id == verdict.exam_id), None)
        if place is not None:
            row = self._exams[place]
            if verdict.assessable and verdict.hygroma is not None:
                best = verdict.hygroma if row.best_hygroma is None else max(row.best_hygroma, verdict.hygroma)
                row = replace(row, assessable_frames=row.assessable_frames + 1, best_hygroma=best)
            self._exams[place] = replace(row, flagged=verdict.flagged, boundary=verdict.boundary)
        now_ns = self._clock_ns()
        if not self._history or now_ns - self._history[-1][0] >= HISTORY_NS:
            self._history.append((now_ns, verdict.evidence, verdict.hygroma if verdict.assessable else None))

    def _degraded(self) -> tuple[str, ...]:
        problems = []
        feed = self._feed.stats()
        if not feed.connected:
            problems.append(f"source away: {feed.problem}")
        if feed.trouble:
            problems.append(feed.trouble)
        if self._in_a_row["screen"]:
            problems.append("the screen cannot be read")
        if self._in_a_row["engine"]:
            problems.append("the engine gives no answer")
        if self._late:
            problems.append("pictures are too old when they have been scored: the machine is too slow, or was stopped")
        if self._noise > NOISE_MAX:
            problems.append(
                f"a frozen picture cannot be told from a live one here: the source's noise is {self._noise:.1f} grey levels,"
                f" up to {NOISE_MAX:g} it could be told; fix the camera and its light, or compress less (docs/sources.md)"
            )
        if self._verdict is not None and self._verdict.question:
            problems.append(self._verdict.question)
        problems.extend(self._keeper.problems())
        if self._identity.fallback:
            problems.append(self._identity.fallback)
        if self._identity.overrides:
            problems.append(f"the configuration overrides the bundle's decision: {', '.join(self._identity.overrides)}")
        problems.extend(self._identity.lacking)
        if self._identity.bundle_state is not None:
            problems.extend(self._identity.bundle_state.problems)
        return tuple(problems)

    def _obey(self, request: Request) -> None:
        if isinstance(request, NewExamRequest):
            log.info("operator: exam %d begins", self._exam.new_exam())
        elif isinstance(request, SameExamRequest):
            log.info("operator: the patient is the same, exam %d goes on", self._exam.same_exam())
        else:
            self._keeper.review(request.event_id, request.review, request.by)

    def _failures(self) -> dict[str, int]:
        """How often what failed, the store included."""
        return dict(self._errors) | ({"store": self._keeper.errors} if self._keeper.errors else {})

    def _count_failure(self, kind: str, error: Exception, raises: type[HygromaError]) -> None:
        self._errors[kind] += 1
        self._in_a_row[kind] += 1
        if self._in_a_row[kind] == 1:
            log.exception("%s: one frame failed", kind)
        if self._in_a_row[kind] >= FAILURES_IN_A_ROW_MAX:
            raise raises(f"{kind}: {self._in_a_row[kind]} frames in a row failed, the last with: {error}") from error

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start_ns = self._clock_ns()
        yield
        self._latencies[stage].record((self._clock_ns() - start_ns) / 1e6)

    def summary(self) -> Summary:
        """What has happened so far. On the loop's own thread, or after it."""
        return Summary(
            frames=self._frames,
            seconds=(self._clock_ns() - self._started_ns) / 1e9,
            frames_by_signal=dict(self._signals),
            not_assessable=dict(self._reasons),
            duplicates=self._duplicates,
            errors=self._failures(),
            feed=self._feed.stats(),
            exams=tuple(self._exams),
            events=tuple(self._keeper.committed),
            lost_events=self._keeper.lost,
            store_problem=self._keeper.problem,
            stopped=self._stopping.is_set(),
            latencies={stage: latency.summary() for stage, latency in self._latencies.items()},
        )


_NO_IMAGE = np.zeros((0, 0), np.uint8)


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the run in good order. Python takes signals on the main thread only; elsewhere, call
    `stop`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
