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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Protocol

import numpy as np

from edge.capture.feed import Feed, FeedStats
from edge.decision.exam import Exam
from edge.errors import EngineError, HygromaError, NoSuchEvent, StoreError
from edge.events.clip import Clips
from edge.events.evidence import render_evidence
from edge.events.store import FORGOTTEN_AT_ONCE, EventStore, NewEvent
from edge.metrics import Latency, LatencySummary
from edge.records import Event, Frame, Reading, Scores, Signal, Verdict
from edge.screen.view import View, look
from edge.sd_notify import Notifier
from edge.status.board import Board, BundleState, ExamRow, NewExamRequest, Request, ReviewRequest, Snapshot

log = logging.getLogger(__name__)

POLL_S = 0.2  # seconds to wait for a frame: with stall_s <= .75 a lost source is reported within 1 s
FAILURES_IN_A_ROW_MAX = 10  # a third of a second at 30 fps: past a hiccup, and systemd's restart is the better cure
PUBLISH_NS = 100_000_000  # nanoseconds between snapshots: ten a second look live, and cost the loop next to nothing
AWAIT_VIEW_NS = 50_000_000  # nanoseconds that a snapshot waits for the next view
RETRY_NS = 2_000_000_000  # nanoseconds between attempts to write flags that the store refused
RETAIN_NS = 600_000_000_000  # nanoseconds between clean-ups of the store: ten minutes
WAITING_MAX = (
    64  # flags kept in memory while the store fails, 300 kB each: more than a day's worth; and as many reviews
)
EXAMS_SHOWN = 20  # exams in the snapshot: a session's
EVENTS_SHOWN = 20  # events in the snapshot
COMMITTED_MAX = 1000  # events of this run that are remembered, 1 kB each: weeks of flags; the store has all
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


@dataclass(frozen=True)
class Summary:
    """One run, after it ended. Latencies in milliseconds by stage (see STAGES)."""

    frames: int
    seconds: float
    frames_by_signal: dict[str, int]
    duplicates: int
    errors: dict[str, int]
    feed: FeedStats
    exams: tuple[ExamRow, ...]
    events: tuple[Event, ...]  # committed in this run, oldest first, COMMITTED_MAX at most
    lost_events: int  # flags that the store never took
    store_problem: str  # what the store said last, "" when it works
    stopped: bool  # by `stop` or a signal, before the source ended
    latencies: dict[str, LatencySummary]


@dataclass(frozen=True)
class _Withheld:
    """A flagged frame, in memory only, until it is sure which part of it may be kept."""

    key: tuple[int, int]  # exam and frame
    image: np.ndarray
    scores: Scores
    t_wall: str


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
        wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        notifier: Notifier | None = None,
        on_verdict: Callable[[Verdict], None] | None = None,
        clips: Clips | None = None,
    ) -> None:
        self._feed, self._reader, self._scorer = feed, reader, scorer
        self._exam, self._store, self._board = exam, store, board
        self._identity, self._stall_ns = identity, round(stall_s * 1e9)
        self._clock_ns, self._wall = clock_ns, wall
        self._notifier, self._on_verdict = notifier or Notifier({}), on_verdict
        self._clips = clips or Clips()
        self._stopping = threading.Event()

        self._latencies = {stage: Latency() for stage in STAGES}
        self._signals: Counter[str] = Counter()
        self._errors: Counter[str] = Counter({"fallback": 1} if identity.fallback else {})
        self._in_a_row = {"screen": 0, "engine": 0}
        self._late = False  # the newest frame was too old when it had been scored
        self._duplicates = 0
        self._frames = 0
        self._last_frame: Frame | None = None
        self._last_arrival_ns: int | None = None
        self._started_ns = clock_ns()
        self._verdict: Verdict | None = None
        self._scores: Scores | None = None
        self._view: View | None = None  # of the newest frame, or of one at most VIEW_NS older
        self._view_ns: int | None = None  # its stamp
        self._exams: deque[ExamRow] = deque(maxlen=EXAMS_SHOWN)
        self._history: deque[tuple[int, float, float | None]] = deque(maxlen=HISTORY_POINTS)
        self._events: list[Event] = []  # newest first, as on the page
        self._committed: deque[Event] = deque(maxlen=COMMITTED_MAX)
        self._waiting: deque[NewEvent] = deque()
        self._reviews: deque[ReviewRequest] = deque()  # what people said of events, not written yet
        self._withheld: _Withheld | None = None
        self._lost = 0
        self._store_problem = ""
        self._retry_at_ns = self._retain_at_ns = self._publish_at_ns = self._started_ns

    # -- the loop

    def run(self) -> Summary:
        """EngineError or HygromaError after FAILURES_IN_A_ROW_MAX failures in a row; what the feed raises goes
        through."""
        with _stop_on_signals(self.stop):
            self._tend_store(self._clock_ns())
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
            self._retry_at_ns = 0  # the last chance for flags that still wait
            self._tend_store(self._clock_ns())
            for review in self._reviews:
                log.error("event %d: %s by %s could not be written", review.event_id, review.review, review.by)
            self._clips.finish()
            self._keep_clips()
            self._publish(self._clock_ns())
        return self._summary()

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
            if self._view is not None and self._view_ns == reading.t_mono_ns:
                self._clips.see(self._view.image, reading.t_mono_ns, verdict.exam_id)
            self._clips.tick(reading.t_mono_ns)
            self._show_withheld(reading, verdict)
            if verdict.newly_flagged:
                self._clips.flag((verdict.exam_id, verdict.frame_id), reading.t_mono_ns)
                self._flag(frame, reading, scores, verdict, now_ns)
        self._tend_store(self._clock_ns())
        self._keep_clips()
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
        """The reading of a frame; NO_SIGNAL when none has come for `stall_s`; None when there is nothing to say yet."""
        if frame is None:
            last_ns = self._started_ns if self._last_arrival_ns is None else self._last_arrival_ns
            if now_ns - last_ns < self._stall_ns:
                return None
            self._view = None
            return Reading(self._last_frame.id if self._last_frame else 0, now_ns, Signal.NO_SIGNAL, None, None)
        self._frames += 1
        self._last_frame = replace(frame, image=_NO_IMAGE)  # the id and the stamp; pixels are not kept
        self._last_arrival_ns = now_ns
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
        # A frame without any of these is not assessable and cannot flag.
        assert frame is not None and reading.fan is not None and scores is not None
        t_wall = self._wall().isoformat(timespec="milliseconds")
        log.warning("exam %d: suspected nuchal collection: refer (evidence %.2f)", verdict.exam_id, verdict.evidence)
        whose = verdict.exam_id, self._identity.bundle
        event = NewEvent(
            exam_id=verdict.exam_id,
            source=self._identity.source,
            frame_id=verdict.frame_id,
            # A recording played fast has stamps of its own time: its frame's age is counted from when it was received.
            t_mono_ns=received_ns if self._feed.media_time else verdict.t_mono_ns,
            t_wall=t_wall,
            hygroma=scores.hygroma,
            evidence=verdict.evidence,
            bundle=self._identity.bundle,
            image=render_evidence(
                look(frame.image, reading.fan).image if reading.settled else None, scores, t_wall, *whose
            ),
        )
        if not reading.settled:
            self._withheld = _Withheld((verdict.exam_id, verdict.frame_id), frame.image, scores, t_wall)
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._retry_at_ns = 0  # now

    def _tend_store(self, now_ns: int) -> None:
        """Write what waits, clean up now and then, and notice a store that fails or is back."""
        waits = self._waiting or self._reviews or self._store_problem
        if now_ns < (self._retry_at_ns if waits else self._retain_at_ns):
            return
        try:
            self._commit_waiting()
            self._write_reviews()
            if now_ns >= self._retain_at_ns:
                self._retain_at_ns = now_ns + RETAIN_NS
                if self._store.retain() >= FORGOTTEN_AT_ONCE:
                    self._retain_at_ns = now_ns + RETRY_NS
            self._events = self._store.events(limit=EVENTS_SHOWN)
            self._store_problem = ""
        except StoreError as error:
            self._errors["store"] += 1
            if str(error) != self._store_problem:
                log.error("%s", error)
            self._store_problem = str(error)
            self._retry_at_ns = now_ns + RETRY_NS

    def _commit_waiting(self) -> None:
        try:
            while self._waiting:
                with self._timed("commit"):
                    event = self._store.commit(self._waiting[0])
                self._waiting.popleft()
                self._committed.append(event)
                self._latencies["flag"].record(event.latency_ms)
        except StoreError:
            if self._store.is_short_of_space():  # what is dismissed makes room for the next attempt
                with suppress(StoreError):
                    self._store.retain()
            raise

    def _write_reviews(self) -> None:
        while self._reviews:
            asked = self._reviews[0]
            try:
                self._store.review(asked.event_id, asked.review, asked.by)
            except NoSuchEvent as error:
                self._errors["store"] += 1
                log.error("%s", error)
            self._reviews.popleft()

    def _keep_clips(self) -> None:
        """Attach the clips that are ready to their events, once these are committed. A clip that cannot be kept is counted
        and given up: the flag and its image are what must not be lost."""
        for key, encoded in self._clips.ready():
            event = self._committed_as(key)
            if event is None:
                continue
            self._clips.done(key)
            try:
                self._renew(event, self._store.attach_clip(event.id, encoded.result()))
                self._events = self._store.events(limit=EVENTS_SHOWN)
            except Exception as error:  # the store's, or the encoder's
                self._errors["store"] += 1
                log.error("event %d has no clip: %s", event.id, error)

    def _show_withheld(self, reading: Reading, verdict: Verdict) -> None:
        """The picture of a flag that came before its fan was sure, once it is; another layout would cut it wrongly."""
        held = self._withheld
        if held is None:
            return
        if verdict.exam_id != held.key[0] or reading.layout_changed or reading.fan is None:
            self._withheld = None
        elif reading.settled and (event := self._committed_as(held.key)) is not None:
            self._withheld = None
            whose = event.exam_id, self._identity.bundle
            try:
                image = render_evidence(look(held.image, reading.fan).image, held.scores, held.t_wall, *whose)
                self._renew(event, self._store.replace_image(event.id, image))
                self._events = self._store.events(limit=EVENTS_SHOWN)
            except Exception as error:  # the store's, or of a picture of another shape
                self._errors["store"] += 1
                log.error("event %d keeps no picture: %s", event.id, error)

    def _renew(self, old: Event, new: Event) -> None:
        """The summary names the files that are there at the end."""
        self._committed[self._committed.index(old)] = new

    def _committed_as(self, key: tuple[int, int]) -> Event | None:
        """The event of this run that was committed for an exam and a frame."""
        return next((e for e in reversed(self._committed) if (e.exam_id, e.frame_id) == key), None)

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
                errors=dict(self._errors),
                feed=self._feed.stats(),
                latencies={stage: latency.summary() for stage, latency in self._latencies.items()},
                exams=tuple(reversed(self._exams)),
                events=tuple(self._events),
                history=tuple(((now_ns - t) / 1e9, evidence, hygroma) for t, evidence, hygroma in self._history),
                view=self._view,
                nuchal_map=self._scores.nuchal_map if verdict and verdict.assessable and self._scores else None,
                bundle_state=self._identity.bundle_state,
            )
        )

    # -- what the loop remembers

    def _remember(self, reading: Reading, scores: Scores | None, verdict: Verdict) -> None:
        self._verdict, self._scores = verdict, scores
        if verdict.exam_started:
            started = self._wall().isoformat(timespec="seconds")
            self._exams.append(ExamRow(verdict.exam_id, started, 0, False, None))
        if self._exams and verdict.exam_id == self._exams[-1].exam_id:
            row = self._exams[-1]
            if verdict.assessable and verdict.hygroma is not None:
                best = verdict.hygroma if row.best_hygroma is None else max(row.best_hygroma, verdict.hygroma)
                row = replace(row, assessable_frames=row.assessable_frames + 1, best_hygroma=best)
            self._exams[-1] = replace(row, flagged=verdict.flagged)
        now_ns = self._clock_ns()
        if not self._history or now_ns - self._history[-1][0] >= HISTORY_NS:
            self._history.append((now_ns, verdict.evidence, verdict.hygroma if verdict.assessable else None))

    def _degraded(self) -> tuple[str, ...]:
        problems = []
        feed = self._feed.stats()
        if not feed.connected:
            problems.append(f"source away: {feed.problem}")
        if self._in_a_row["screen"]:
            problems.append("the screen cannot be read")
        if self._in_a_row["engine"]:
            problems.append("the engine gives no answer")
        if self._late:
            problems.append("pictures are too old when they have been scored: the machine is too slow, or was stopped")
        if self._store_problem:
            problems.append(f"events cannot be written: {self._store_problem}")
        if waiting := len(self._waiting):
            problems.append("1 flag waits to be written" if waiting == 1 else f"{waiting} flags wait to be written")
        if waiting := len(self._reviews):
            problems.append("1 review waits to be written" if waiting == 1 else f"{waiting} reviews wait to be written")
        if self._lost:
            problems.append(f"{'1 flag' if self._lost == 1 else f'{self._lost} flags'} could not be kept")
        if self._identity.fallback:
            problems.append(self._identity.fallback)
        if self._identity.bundle_state is not None:
            problems.extend(self._identity.bundle_state.problems)
        return tuple(problems)

    def _obey(self, request: Request) -> None:
        if isinstance(request, NewExamRequest):
            log.info("operator: exam %d begins", self._exam.new_exam())
        elif len(self._reviews) < WAITING_MAX:
            self._reviews.append(request)
            self._retry_at_ns = 0  # now
        else:
            self._errors["store"] += 1
            log.error("event %d: %s by %s could not be kept", request.event_id, request.review, request.by)

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

    def _summary(self) -> Summary:
        return Summary(
            frames=self._frames,
            seconds=(self._clock_ns() - self._started_ns) / 1e9,
            frames_by_signal=dict(self._signals),
            duplicates=self._duplicates,
            errors=dict(self._errors),
            feed=self._feed.stats(),
            exams=tuple(self._exams),
            events=tuple(self._committed),
            lost_events=self._lost + len(self._waiting),
            store_problem=self._store_problem,
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
