"""When a recorded frame is due, and which stamp it carries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

FALLBACK_FPS = 25.0  # frames per second, for a file that states no rate or an absurd one: PAL, the commonest recorder
FPS_RANGE = (1.0, 240.0)  # frames per second; outside it, a container's "rate" is a time base, not a frame rate


def usable_fps(fps: float) -> bool:
    """Whether a stated rate can be one, frames per second."""
    return math.isfinite(fps) and FPS_RANGE[0] <= fps <= FPS_RANGE[1]


class Pacer:
    """Plays at the recording's own rate, or as fast as it is read.

    As fast as possible, a frame's stamp is its place in the recording, counted from the start: evidence depends on the
    time between frames and must not depend on the speed of the machine. At its own rate the stamp is the moment at
    which it was handed out, as for a camera.
    """

    def __init__(
        self,
        fps: float,
        fast: bool,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self.fps = fps if usable_fps(fps) else FALLBACK_FPS
        self.fast = fast
        self._clock_ns, self._sleep_s = clock_ns, sleep_s
        self._start_ns = clock_ns()

    def stamp(self, index: int) -> int:
        """Waits until frame `index` (from 0) is due, unless fast. Monotonic nanoseconds."""
        due_ns = self._start_ns + round(index * 1e9 / self.fps)
        if self.fast:
            return due_ns
        wait_ns = due_ns - self._clock_ns()
        if wait_ns > 0:
            self._sleep_s(wait_ns / 1e9)
        return self._clock_ns()
