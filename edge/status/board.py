"""What lies between the loop and the page: the loop puts up a snapshot, the page puts in a request. Nothing else is
shared."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

import numpy as np

from edge.capture.feed import FeedStats
from edge.metrics import LatencySummary
from edge.records import Event, Verdict
from edge.screen.view import View

REQUESTS_MAX = 16  # more than a person can press between two loops; beyond, something is wrong and the press is refused


@dataclass(frozen=True)
class ExamRow:
    """One exam of this run, for the list on the page."""

    exam_id: int
    started_wall: str  # ISO 8601, UTC
    assessable_frames: int
    flagged: bool
    best_hygroma: float | None  # highest probability on an assessable frame
    boundary: str = ""  # as in Verdict: why its boundary was not sure


@dataclass(frozen=True)
class BundleState:
    """Which bundle runs, who vouches for it (`signed_by` as in `Trust.signer`), and how it came to run."""

    model: str
    version: str
    sha256: str  # of its manifest
    signed_by: str
    allow_unsigned: bool  # the setting, whatever this bundle is
    previous: str  # the slot that a failing update goes back to, or "shipped"; "" when no update is installed
    on_trial: bool  # as of the start
    rollbacks: int  # on this device, ever
    problems: tuple[str, ...]  # in words for people


@dataclass(frozen=True)
class Snapshot:
    """The loop's state at one moment. Immutable; arrays are never written after they were put here."""

    t_mono_ns: int  # when the loop published it
    source: str
    bundle: str
    engine: str
    ready: bool
    verdict: Verdict | None
    frame_t_mono_ns: int | None  # when the newest frame was captured or received; None before the first
    degraded: tuple[str, ...]  # what is wrong, in words for people; empty when nothing is
    frames_by_signal: dict[str, int]
    duplicates: int
    errors: dict[str, int]  # counts by kind: screen, engine, store
    feed: FeedStats
    latencies: dict[str, LatencySummary]  # milliseconds by stage
    exams: tuple[ExamRow, ...]  # newest first
    events: tuple[Event, ...]  # newest first
    history: tuple[
        tuple[float, float, float | None], ...
    ]  # (seconds before now, evidence, hygroma probability), oldest first
    view: View | None = field(repr=False, compare=False, default=None)  # None when the screen shows no fan
    # float [G,G] in [0,1]; None unless the frame is assessable: heat on any other would say what nobody knows.
    nuchal_map: np.ndarray | None = field(repr=False, compare=False, default=None)
    bundle_state: BundleState | None = None
    overrides: tuple[str, ...] = ()  # of the bundle's decision, by the configuration, in words
    noise: float = 0.0  # grey levels, the source's measured noise floor; 0 until it is known


@dataclass(frozen=True)
class NewExamRequest:
    """The operator says that another patient is on the table."""


@dataclass(frozen=True)
class SameExamRequest:
    """The operator says that the patient is still the one before the boundary that was asked about."""


@dataclass(frozen=True)
class ReviewRequest:
    """A person looked at an event: review is "confirmed" or "dismissed"."""

    event_id: int
    review: str
    by: str


Request = NewExamRequest | SameExamRequest | ReviewRequest


class Board:
    """One writer (the loop), any number of readers."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._requests: queue.Queue[Request] = queue.Queue(REQUESTS_MAX)

    def publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot  # one reference: a reader sees the old one or the new one, whole

    def latest(self) -> Snapshot | None:
        """None before the loop's first publication."""
        return self._snapshot

    def ask(self, request: Request) -> bool:
        """False when too many requests wait already."""
        try:
            self._requests.put_nowait(request)
        except queue.Full:
            return False
        return True

    def requests(self) -> list[Request]:
        """All that were asked since the last call; never waits."""
        found = []
        while True:
            try:
                found.append(self._requests.get_nowait())
            except queue.Empty:
                return found
