"""How frames reach the loop: each one (a recording played as fast as it can be) or the newest (all that runs in real
time).

A feed is used as a context manager by one loop. Every frame that a loop did not get is counted: `stats().dropped`, and
ids with a gap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.capture.lag import STALE_NS
from edge.capture.rhythm import Rhythm
from edge.capture.source import Source
from edge.errors import SourceError
from edge.records import Frame

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1  # seconds before the first attempt to reopen; doubles up to the configured maximum
SHAPES_LOGGED = 20  # changes of the picture's form that are logged; one that comes and goes would fill the disk with them
NOTHING_NS = 500_000_000  # nanoseconds in which pictures came and none could be used, until it is told: within a second
JOIN_S = 3.0  # seconds for the reader to stop: more than the longest blocking read that is configured by default


@dataclass(frozen=True)
class FeedStats:
    """Counts since the start. `connected` is false while a live source is away; `problem` then says why, redacted."""

    read: int = 0
    dropped: int = 0  # read, and overtaken by a newer one before the loop asked
    missed: int = 0  # captured, and lost before they reached us, as far as the driver says
    stale: int = 0  # too old when they arrived, and not shown to the loop
    decode_errors: int = 0
    format_changes: int = 0  # pictures of another size, or with colour where the one before had none, or the reverse
    stalls: int = 0  # times that a source which is there gave nothing for `stall_s`, or for longer by its own rate
    reconnects: int = 0
    connected: bool = True
    problem: str = ""
    format: str = ""  # what was negotiated, and what was made of it, in words
    restamped: int = 0  # pictures whose driver's stamp could not be right
    trouble: str = ""  # what is wrong though the source is there: no picture can be used, or its stamps cannot be right


class Feed(Protocol):
    name: str
    media_time: bool

    def __enter__(self) -> Feed: ...

    def __exit__(self, *exc: object) -> None: ...

    def next(self, timeout_s: float) -> Frame | None:
        """The next frame to look at; None when there is none within `timeout_s`, or no more at all (`ended`)."""
        ...

    @property
    def ended(self) -> bool: ...

    def stats(self) -> FeedStats: ...


class EveryFrame:
    """Reads on the loop's own thread: nothing can be dropped, and the loop sets the pace."""

    def __init__(self, source: Source) -> None:
        self.name, self.media_time = source.name, source.media_time
        self._source = source
        self._read = 0
        self._ended = False
        self._shapes = _Shapes(source.name)

    def __enter__(self) -> EveryFrame:
        self._source.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.close()

    def next(self, timeout_s: float) -> Frame | None:
        frame = self._source.read()
        if frame is None:
            self._ended = True
        else:
            self._read += 1
            self._shapes.see(frame)
        return frame

    @property
    def ended(self) -> bool:
        return self._ended

    def stats(self) -> FeedStats:
        return FeedStats(
            read=self._read,
            missed=self._source.missed,
            decode_errors=self._source.decode_errors,
            format_changes=self._shapes.changes,
            format=self._source.format,
        )


class LatestFrame:
    """One thread reads and keeps the newest frame; the loop takes it. A live source that is lost is reopened for ever.

    A live source need not be there yet when the feed starts. A recording that cannot be opened raises on enter.
    `backoff_max_s`: the longest wait between attempts to reopen. `stall_s`: seconds without a frame that count as a stall;
    more for a source of less than 4 frames a second (see Rhythm).
    """

    def __init__(
        self,
        source: Source,
        backoff_max_s: float = 0.5,
        stall_s: float = 0.6,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name, self.media_time = source.name, source.media_time
        self._source, self._backoff_max_s = source, backoff_max_s
        self._rhythm, self._clock_ns = Rhythm(round(stall_s * 1e9)), clock_ns
        self._shapes = _Shapes(source.name)
        self._unused = _Unused(source)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._slot: Frame | None = None
        self._finished = False
        self._failure: BaseException | None = None
        self._read = self._dropped = self._stale = self._stalls = self._reconnects = 0
        self._last_ns: int | None = (
            None  # when the newest frame came that was not stale; None while a stall that was counted goes on
        )
        self._connected = not source.live
        self._problem = "" if self._connected else "not opened yet"
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def __enter__(self) -> LatestFrame:
        if not self._source.live:
            self._source.open()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)
        if not self._thread.is_alive():  # else a read still hangs in the driver: closing under it would crash
            self._source.close()

    def next(self, timeout_s: float) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._finished, timeout_s)
            frame, self._slot = self._slot, None
            if frame is not None and self._is_stale(frame):  # it waited here, for a loop that was busy
                self._count_stale(frame)
                frame = None
            self._unused.look(self._clock_ns(), passed=frame is not None)
            if frame is None and self._failure is not None:
                raise self._failure
            self._note_stall()
            return frame

    def _is_stale(self, frame: Frame) -> bool:
        return self._source.live and self._clock_ns() - frame.t_mono_ns > STALE_NS

    def _count_stale(self, frame: Frame) -> None:
        self._stale += 1
        self._unused.stale(self._clock_ns() - frame.t_mono_ns)

    def _note_stall(self) -> None:
        if self._connected and self._last_ns is not None and self._clock_ns() - self._last_ns > self._rhythm.stall_ns:
            self._stalls += 1
            self._last_ns = None

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._finished and self._slot is None

    def stats(self) -> FeedStats:
        with self._changed:
            return FeedStats(
                read=self._read,
                dropped=self._dropped,
                missed=self._source.missed,
                stale=self._stale,
                decode_errors=self._source.decode_errors,
                format_changes=self._shapes.changes,
                stalls=self._stalls,
                reconnects=self._reconnects,
                connected=self._connected,
                problem=self._problem,
                format=self._source.format,
                restamped=getattr(self._source, "restamped", 0),
                trouble="; ".join(part for part in (self._unused.trouble, getattr(self._source, "trouble", "")) if part),
            )

    def _run(self) -> None:
        try:
            if self._source.live:
                self._read_for_ever()
            else:
                self._read_to_the_end()
        except Exception as error:  # handed to the loop's thread, which raises it from `next`
            self._failure = error
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _read_to_the_end(self) -> None:
        while not self._stop.is_set():
            frame = self._source.read()
            if frame is None:
                return
            self._put(frame)

    def _read_for_ever(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        opened_before = False
        while not self._stop.is_set():
            try:
                self._source.open()
                while not self._stop.is_set():
                    frame = self._source.read()
                    if frame is None:
                        raise SourceError(f"{self.name}: the stream ended")
                    if not self._connected:
                        self._came_back(again=opened_before)
                        opened_before, backoff_s = True, BACKOFF_FIRST_S
                    self._put(frame)
            except SourceError as error:
                self._went_away(str(error))
                self._source.close()
                self._stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, self._backoff_max_s)

    def _put(self, frame: Frame) -> None:
        self._shapes.see(frame)
        with self._changed:
            self._read += 1
            if self._is_stale(frame):
                self._count_stale(frame)
                return
            self._last_ns = self._clock_ns()
            self._rhythm.see(self._last_ns)
            self._dropped += self._slot is not None
            self._slot = frame
            self._changed.notify_all()

    def _came_back(self, again: bool) -> None:
        with self._changed:
            self._connected, self._problem = True, ""
            self._reconnects += again
        log.info("%s: %s", self.name, "back" if again else "first picture")

    def _went_away(self, problem: str) -> None:
        with self._changed:
            news = problem != self._problem  # one line in the log per change, not one per attempt
            self._connected, self._problem, self._last_ns = False, problem, None
        if news:
            log.warning("%s; trying again until it is back", problem)


class _Unused:
    """Notices that pictures come and none of them can be used, whatever the reason, and says so once: in `trouble`, and in the
    log. A source may give a reason of its own, `damage`."""

    def __init__(self, source: Source) -> None:
        self.trouble = ""
        self._source = source
        self._since_ns: int | None = None  # when the first was seen that could not be used, since the last that could
        self._stale = 0  # of these, too old
        self._age_ns = 0  # of the newest of those
        self._damaged_before = source.decode_errors

    def stale(self, age_ns: int) -> None:
        self._stale, self._age_ns = self._stale + 1, age_ns

    def look(self, now_ns: int, passed: bool) -> None:
        """`passed`: a picture has just been handed on."""
        if passed:
            if self.trouble:
                log.info("%s: pictures can be used again", self._source.name)
            self.trouble, self._since_ns, self._stale, self._damaged_before = "", None, 0, self._source.decode_errors
            return
        damaged = self._source.decode_errors - self._damaged_before
        if not self._stale and damaged <= 0:
            return
        if self._since_ns is None:
            self._since_ns = now_ns
        if now_ns - self._since_ns < NOTHING_NS:
            return
        reasons = []
        if self._stale:
            age_s, most_s = self._age_ns / 1e9, STALE_NS / 1e9
            reasons.append(f"{self._stale} too old (the newest by its stamp {age_s:.2f} s, {most_s:g} s is the most)")
        if damaged > 0:
            why = getattr(self._source, "damage", "")
            reasons.append(f"{damaged} damaged" + (f" ({why})" if why else ""))
        news = not self.trouble
        self.trouble = f"pictures come and none can be used: {', '.join(reasons)}"
        if news:
            log.warning("%s: %s", self._source.name, self.trouble)


class _Shapes:
    """Counts changes of the pictures' size and depth, and logs the first of them."""

    def __init__(self, name: str) -> None:
        self.changes = 0
        self._name = name
        self._shape: tuple[int, ...] = ()

    def see(self, frame: Frame) -> None:
        shape = frame.image.shape
        if shape == self._shape:
            return
        if self._shape:
            self.changes += 1
            if self.changes <= SHAPES_LOGGED:
                last = "; from now on they are only counted" if self.changes == SHAPES_LOGGED else ""
                log.warning("%s: the picture changed from %s to %s%s", self._name, _words(self._shape), _words(shape), last)
        self._shape = shape


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}{' grey' if len(shape) == 2 else ''}"
