"""How old a streamed picture is when it arrives. A stream's stamps say when, on a clock of the camera's own."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

# Nanoseconds; an older picture is not shown to the loop. The newest one behind a flag may be 500 ms old when the flag
# commits (docs/design.md#trust), and inference and commit take up to 150 of them.
STALE_NS = 300_000_000
WINDOW_NS = 20_000_000_000  # nanoseconds of which the quickest picture is the measure; a rate that POINTS do not tell moves .08 s

SPAN_NS = 250_000_000  # nanoseconds whose quickest picture is one point of the line that tells a clock's rate
POINTS = 120  # points that are looked back at: thirty seconds, in which a clock that is .4 % off moves RISE_NS
POINTS_MIN = 4  # a line through three may be a stall, and the way back from it
RISE_NS = 120_000_000  # nanoseconds that the line must rise: less than half of what makes a picture stale, twice the jitter
STRAIGHT = 0.12  # of the rise, and JITTER_NS besides: how far a point may lie off the line
JITTER_NS = 15_000_000  # nanoseconds between the quickest pictures of two spans, on Wi-Fi
IDLE_MIN = 0.3  # of the time, spent waiting for the camera: a reader with less may be what is slow
RATES = (0.4, 2.5)  # of a camera's clock that are followed: a 25 fps stamp on pictures at 10 fps, and the reverse
SAID = 0.005  # off 1: a rate that is said; crystals differ by .0001
SHED_NS = 60_000_000  # nanoseconds; more than jitter: a delay that shrinks by so much at once
SHED_MAX_NS = 10_000_000_000  # nanoseconds; no sender's queue holds more, so a larger step is a clock that was set


class StreamClock:
    """Capture stamps from a stream's own: the quickest picture of the last one to two windows took no time at all.

    What that one took (encoder, network) stays unknown; what a later one took more is its lag: a stall, or a queue that
    grows because reading is too slow.

    A camera whose clock runs slow looks like a growing queue. Three things tell it: the delay grows along a straight line; the
    reader meanwhile waits for pictures (with a queue before it, it would not have to); and no picture is left out. Such a rate is
    followed. A sender behind a network that is too slow by a constant share looks the same until its queue is full; it then
    leaves pictures out, the delay shrinks at once, and `shed` says so.
    """

    def __init__(self) -> None:
        self.rate = 1.0  # seconds of the camera's clock in one of ours
        self._restart()

    def _restart(self) -> None:
        self.shed = False
        self._last_ms = -math.inf
        self._last_ns: int | None = None
        self._window_ns = 0
        self._best = (math.inf, math.inf)  # ns, the smallest offset of this window and of the last
        self._anchor = (0.0, 0.0)  # ns: a moment on the camera's clock, and what it is in our seconds
        # Of each span: the camera's ns and the offset of its quickest picture, and the smallest offset until then.
        self._points: deque[tuple[float, float, float]] = deque(maxlen=POINTS)
        self._span: tuple[float, float] | None = None  # the first two of the span under way
        self._span_ns = self._idle_ns = 0  # its start, and how long the reader waited in it
        self._idle = True  # whether it waited enough in the last one; if not, a queue may grow, and is measured from before it

    def captured_ns(self, stream_ms: float, now_ns: int, idle_ns: int | None = None) -> int:
        """`stream_ms`: the picture's own stamp. Monotonic nanoseconds; `now_ns` when the stamps tell nothing.

        `idle_ns`: how long the reader waited for this picture with nothing to do; None: all the time since the last.
        """
        if not math.isfinite(stream_ms) or stream_ms <= self._last_ms:  # no stamps, or another clock: begin again
            self._restart()
        if not math.isfinite(stream_ms):
            return now_ns
        self._last_ms = stream_ms
        stamp_ns = stream_ms * 1e6
        if self._last_ns is None:
            self._anchor, self._span_ns = (stamp_ns, 0.0), now_ns
        since_ns = 0 if self._last_ns is None else now_ns - self._last_ns
        self._last_ns = now_ns
        offset = self._offset(stamp_ns, now_ns)
        self._note_shed(min(self._best) - offset)
        this, last = self._best
        if now_ns - self._window_ns > WINDOW_NS and self._idle:
            this, last = math.inf, this
            self._window_ns = now_ns
        self._best = (min(this, offset), last)
        self._collect(stamp_ns, offset, now_ns, since_ns if idle_ns is None else idle_ns)
        return now_ns - max(0, round(self._offset(stamp_ns, now_ns) - min(self._best)))

    def _offset(self, stamp_ns: float, now_ns: int) -> float:
        """Arrival minus stamp, once the clock's rate is taken off. Grows by what a picture was delayed."""
        from_ns, at_ns = self._anchor
        return now_ns - (at_ns + (stamp_ns - from_ns) / self.rate)

    def _collect(self, stamp_ns: float, offset: float, now_ns: int, idle_ns: int) -> None:
        """Notes the quickest picture of a span, and looks for a line when the span is over."""
        self._idle_ns += idle_ns
        if self._span is None or offset < self._span[1]:
            self._span = stamp_ns, offset
        took_ns = now_ns - self._span_ns
        if took_ns < SPAN_NS:
            return
        self._idle = self._idle_ns >= IDLE_MIN * took_ns
        if self._idle:
            self._points.append((*self._span, min(self._best)))
        else:  # the reader may be what is slow: what the delays do meanwhile says nothing of the clock
            self._points.clear()
        self._span, self._span_ns, self._idle_ns = None, now_ns, 0
        for count in range(len(self._points), POINTS_MIN - 1, -1):
            if self._follow(list(self._points)[-count:]):
                return

    def _follow(self, points: list[tuple[float, float, float]]) -> bool:
        """Takes up the rate of a straight line that rises, or falls, enough. Whether it did."""
        from_ns, level, best = points[0]
        if abs(points[-1][1] - level) < RISE_NS / 2 or points[-1][0] <= from_ns:
            return False
        x, y = (np.array(column) for column in zip(*((p[0] - from_ns, p[1] - level) for p in points), strict=True))
        slope, start = (float(value) for value in np.polyfit(x, y, 1))
        rise = slope * x[-1]
        if abs(rise) < RISE_NS or np.abs(y - start - slope * x).max() > STRAIGHT * abs(rise) + JITTER_NS:
            return False
        if slope < 0 and level > best + JITTER_NS:  # a queue that is being emptied comes down to what was; a fast clock below it
            return False
        if not RATES[0] <= 1.0 / (1.0 / self.rate + slope) <= RATES[1]:
            return False
        # The line's first point keeps its delay; from there on, stamps count at the new rate.
        at_ns = self._anchor[1] + (from_ns - self._anchor[0]) / self.rate
        self.rate, self._anchor = 1.0 / (1.0 / self.rate + slope), (from_ns, at_ns)
        # Falling, the quickest pictures were quicker only because the clock runs fast.
        self._best = (level, level) if slope < 0 else (min(self._best[0], level), self._best[1])
        self._points.clear()
        return True

    def _note_shed(self, quicker_ns: float) -> None:
        """A delay that shrinks at once while a slow clock is followed was a queue: pictures were left out."""
        if self.rate < 1.0 - SAID and SHED_NS < quicker_ns < SHED_MAX_NS:
            self.shed = True
