"""How old a streamed picture is when it arrives. A stream's stamps say when, on a clock of the camera's own."""

from __future__ import annotations

import math

# Nanoseconds; an older picture is not shown to the loop. The newest one behind a flag may be 500 ms old when the flag
# commits (docs/design.md#trust), and inference and commit take up to 150 of them.
STALE_NS = 300_000_000
WINDOW_NS = 60_000_000_000  # of which the quickest picture is the measure; clocks drift .01 %, 6 ms, meanwhile


class StreamClock:
    """Capture stamps from a stream's own: the quickest picture of the last one to two windows took no time at all.

    What that one took (encoder, network) stays unknown; what a later one took more is its lag: a stall, or a queue that
    grows because reading is too slow.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._last_ms = -math.inf
        self._window_ns = 0
        self._best = (math.inf, math.inf)  # ns, the smallest (now - stream) of this window and of the last

    def captured_ns(self, stream_ms: float, now_ns: int) -> int:
        """`stream_ms`: the picture's own stamp. Monotonic nanoseconds; `now_ns` when the stamps tell nothing."""
        if not math.isfinite(stream_ms) or stream_ms <= self._last_ms:  # no stamps, or another clock: begin again
            self._restart()
        if not math.isfinite(stream_ms):
            return now_ns
        self._last_ms = stream_ms
        offset = now_ns - stream_ms * 1e6
        this, last = self._best
        if now_ns - self._window_ns > WINDOW_NS:
            this, last = math.inf, this
            self._window_ns = now_ns
        self._best = (min(this, offset), last)
        return now_ns - round(offset - min(self._best))
