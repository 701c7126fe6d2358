"""What becomes of a flag after the decision: its event waits until the store takes it, its picture until the fan is sure, its
clip until the seconds after it are there. Reviews wait too. Nothing here stops the watching: what fails is counted and shown.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from edge.clock import Stamp
from edge.errors import NoSuchEvent, StoreError
from edge.events.clip import Clips
from edge.events.evidence import render_evidence
from edge.events.store import FORGOTTEN_AT_ONCE, EventStore, NewEvent
from edge.metrics import Latency
from edge.records import Event, Fan, Frame, Reading, Scores, Verdict
from edge.screen.geometry import screen_iou
from edge.screen.layout import SAME_LAYOUT
from edge.screen.view import View, look

log = logging.getLogger(__name__)

RETRY_NS = 2_000_000_000  # nanoseconds between attempts to write what the store refused
RETAIN_NS = 600_000_000_000  # nanoseconds between clean-ups of the store: ten minutes
WAITING_MAX = 64  # flags in memory while the store fails, 300 kB each: more than a day's worth; and as many reviews
WITHHELD_MAX = 4  # flagged pictures in memory that wait for a sure fan, 3 to 6 MB each: more than come within its two seconds
COMMITTED_MAX = 1000  # events of this run that are remembered, 1 kB each: weeks of flags; the store has all
EVENTS_SHOWN = 20  # newest events of the store, for the page


@dataclass(frozen=True)
class _Withheld:
    """A flagged frame, in memory only, until it is sure which part of it may be kept."""

    key: tuple[int, int]  # exam and frame
    fan: Fan  # as it was taken to be
    image: np.ndarray
    scores: Scores
    t_wall: str
    interrupted: bool = False  # the fan was away since, or another: what is there now may be another layout


@dataclass(frozen=True)
class _Review:
    """What a person said of an event, not written yet."""

    event_id: int
    review: str
    by: str


class Keeper:
    """Keeps flags, pictures, clips and reviews of one run. Used by the loop's thread alone.

    source and bundle: for the events. Public: `events`, the store's newest first; `committed`, this run's, oldest first,
    COMMITTED_MAX at most; `commit` and `flag`, latencies; `errors`, failures of the store; `problem`, what the store said last,
    "" when it works."""

    def __init__(
        self,
        store: EventStore,
        clips: Clips,
        source: str,
        bundle: str,
        overrides: str,
        now_ns: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.events: list[Event] = []
        self.committed: deque[Event] = deque(maxlen=COMMITTED_MAX)
        self.commit, self.flag = Latency(), Latency()
        self.errors = 0
        self.problem = ""
        self._store, self._clips, self._clock_ns = store, clips, clock_ns
        self._source, self._bundle, self._overrides = source, bundle, overrides
        self._waiting: deque[NewEvent] = deque()
        self._reviews: deque[_Review] = deque()
        self._withheld: deque[_Withheld] = deque(maxlen=WITHHELD_MAX)
        self._lost = 0
        self._retry_at_ns = self._retain_at_ns = now_ns

    @property
    def lost(self) -> int:
        """Flags that the store has not taken, and those that were given up."""
        return self._lost + len(self._waiting)

    def problems(self) -> list[str]:
        """What a person must know, in words."""
        found = [f"events cannot be written: {self.problem}"] if self.problem else []
        for number, one, many in (
            (len(self._waiting), "1 flag waits to be written", "flags wait to be written"),
            (len(self._reviews), "1 review waits to be written", "reviews wait to be written"),
            (self._lost, "1 flag could not be kept", "flags could not be kept"),
        ):
            if number:
                found.append(one if number == 1 else f"{number} {many}")
        return found

    def see(self, reading: Reading, verdict: Verdict, view: View | None) -> None:
        """One decided frame. view: of this very frame, where there is one."""
        if view is not None:
            self._clips.see(view.image, reading.t_mono_ns, verdict.exam_id)
        self._clips.tick(reading.t_mono_ns)
        self._show_withheld(reading)

    def take(
        self, frame: Frame, reading: Reading, scores: Scores, verdict: Verdict, t_mono_ns: int, stamp: Stamp
    ) -> None:
        """The frame on which an exam is flagged becomes an event. t_mono_ns: what its latency is counted from, nanoseconds."""
        assert reading.fan is not None  # a frame without one is not assessable and cannot flag
        key = verdict.exam_id, verdict.frame_id
        self._clips.flag(key, reading.t_mono_ns)
        picture = look(frame.image, reading.fan).image if reading.settled else None
        if not reading.settled:
            self._withheld.append(_Withheld(key, reading.fan, frame.image, scores, stamp.t_wall))
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(
            NewEvent(
                exam_id=verdict.exam_id,
                source=self._source,
                frame_id=verdict.frame_id,
                t_mono_ns=t_mono_ns,
                t_wall=stamp.t_wall,
                hygroma=scores.hygroma,
                evidence=verdict.evidence,
                bundle=self._bundle,
                image=render_evidence(picture, scores, stamp.t_wall, verdict.exam_id, self._bundle),
                boundary=verdict.boundary,
                overrides=self._overrides,
                clock=stamp.known,
                boot=stamp.boot,
            )
        )
        self._retry_at_ns = 0  # now

    def review(self, event_id: int, review: str, by: str) -> None:
        """A person's word on an event."""
        if len(self._reviews) < WAITING_MAX:
            self._reviews.append(_Review(event_id, review, by))
            self._retry_at_ns = 0  # now
        else:
            self.errors += 1
            log.error("event %d: %s by %s could not be kept", event_id, review, by)

    def tend(self, now_ns: int) -> None:
        """Write what waits, clean up now and then, notice a store that fails or is back, and attach clips that are ready."""
        self._tend_store(now_ns)
        self._keep_clips()

    def finish(self, now_ns: int) -> None:
        """The last chance for what still waits."""
        self._retry_at_ns = 0
        self._tend_store(now_ns)
        for review in self._reviews:
            log.error("event %d: %s by %s could not be written", review.event_id, review.review, review.by)
        self._clips.finish()
        self._keep_clips()

    def _tend_store(self, now_ns: int) -> None:
        waits = self._waiting or self._reviews or self.problem
        if now_ns < (self._retry_at_ns if waits else self._retain_at_ns):
            return
        try:
            self._commit_waiting()
            self._write_reviews()
            if now_ns >= self._retain_at_ns:
                self._retain_at_ns = now_ns + RETAIN_NS
                if self._store.retain() >= FORGOTTEN_AT_ONCE:
                    self._retain_at_ns = now_ns + RETRY_NS
            self.events = self._store.events(limit=EVENTS_SHOWN)
            self.problem = ""
        except StoreError as error:
            self.errors += 1
            if str(error) != self.problem:
                log.error("%s", error)
            self.problem = str(error)
            self._retry_at_ns = now_ns + RETRY_NS

    def _commit_waiting(self) -> None:
        try:
            while self._waiting:
                started_ns = self._clock_ns()
                event = self._store.commit(self._waiting[0])
                self.commit.record((self._clock_ns() - started_ns) / 1e6)
                self._waiting.popleft()
                self.committed.append(event)
                self.flag.record(event.latency_ms)
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
                self.errors += 1
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
            except Exception as error:  # the store's, or the encoder's
                self.errors += 1
                log.error("event %d has no clip: %s", event.id, error)

    def _show_withheld(self, reading: Reading) -> None:
        """The pictures of flags that came before their fan was sure, once it is. Whose exam is under way by then is no matter;
        another layout would cut them wrongly."""
        away = reading.layout_changed or reading.fan is None
        for held in [self._withheld.popleft() for _ in range(len(self._withheld))]:
            interrupted = held.interrupted or away
            if reading.fan is None or not reading.settled or (event := self._committed_as(held.key)) is None:
                self._withheld.append(replace(held, interrupted=interrupted))
            elif interrupted and screen_iou(held.fan, reading.fan) < SAME_LAYOUT:
                log.warning("event %d keeps no picture: the screen's layout changed before its fan was sure", event.id)
            else:
                self._show(held, event, reading.fan)

    def _show(self, held: _Withheld, event: Event, fan: Fan) -> None:
        try:
            picture = look(held.image, fan).image
            image = render_evidence(picture, held.scores, held.t_wall, event.exam_id, self._bundle)
            self._renew(event, self._store.replace_image(event.id, image))
        except Exception as error:  # the store's, or of a picture of another shape
            self.errors += 1
            log.error("event %d keeps no picture: %s", event.id, error)

    def _renew(self, old: Event, new: Event) -> None:
        """The summary and the page name the files that are there at the end."""
        self.committed[self.committed.index(old)] = new
        self.events = self._store.events(limit=EVENTS_SHOWN)

    def _committed_as(self, key: tuple[int, int]) -> Event | None:
        """The event of this run that was committed for an exam and a frame."""
        return next((e for e in reversed(self.committed) if (e.exam_id, e.frame_id) == key), None)
