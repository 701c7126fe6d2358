"""When a recorded frame is due, and which stamp it carries."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

FALLBACK_FPS = 25.0  # frames per second, for a file that states no rate or an absurd one: PAL, the commonest recorder
FPS_RANGE = (1.0, 240.0)  # frames per second; outside it, a container's "rate" is a time base, not a frame rate
STEPS = 15  # steps between pictures whose median stands for one that no stamp tells: half a second of them
PAUSE_MAX_S = 600.0  # seconds; a longer step is no pause of a recorder but a damaged stamp, or another recording's
DISORDER = 2.0  # usual steps by which one stamp may fall back; further, they begin anew: two recordings in one file


def usable_fps(fps: float) -> bool:
    """Whether a stated rate can be one, frames per second."""
    return math.isfinite(fps) and FPS_RANGE[0] <= fps <= FPS_RANGE[1]


class ClipTimes:
    """Each picture's time in a clip from the stamp that the container gives it: a pause is as long as it was.

    `guessed`: pictures whose stamp was missing, repeated, or ran backwards. They follow the one before by the clip's usual
    step, or by 1/fps before there is one. `left_out`: pictures that would fill the steps longer than usual; `longest_s`: of
    these the longest, seconds.
    """

    def __init__(self, name: str, fps: float) -> None:
        self.guessed = self.pictures = self.left_out = 0
        self.longest_s = 0.0
        self._name, self._step_s = name, 1.0 / fps
        self._recent: deque[float] = deque(maxlen=STEPS)
        self._base_s: float | None = None  # clip's time minus stamp
        self._last_s = 0.0
        self._guessing = False  # the picture before had no time of its own

    @property
    def words(self) -> str:
        """For people; "" when every picture had its own time."""
        if not self.guessed:
            return ""
        return "times by the frame rate" if self.guessed >= self.pictures - 1 else f"{self.guessed} times guessed"

    @property
    def usual_step_s(self) -> float:
        """Seconds from one picture to the next where nothing happens."""
        return statistics.median(self._recent) if self._recent else self._step_s

    def at(self, stamp_ms: float) -> float:
        """Seconds since the first picture; larger from each picture to the next. `stamp_ms`: the picture's own."""
        self.pictures += 1
        stamp_s = stamp_ms / 1000
        if self.pictures == 1 or not math.isfinite(stamp_s):
            self._base_s = -stamp_s if math.isfinite(stamp_s) else None
            self._guess(self.usual_step_s if self.pictures > 1 else 0.0)
            return self._last_s
        step_s = -math.inf if self._base_s is None else self._base_s + stamp_s - self._last_s
        if 0.0 < step_s <= PAUSE_MAX_S:
            self._take(step_s)
        elif -DISORDER * self.usual_step_s <= step_s <= 0.0 and self._recent and not self._guessing:
            self._guess(self.usual_step_s / 4)  # a repeated or disordered stamp: the next one tells again
        else:
            self._guess(self.usual_step_s)
            self._base_s = self._last_s - stamp_s
        return self._last_s

    def _take(self, step_s: float) -> None:
        self._guessing = False
        self._last_s += step_s
        if self._recent and (more := round(step_s / self.usual_step_s) - 1) > 0:
            self.left_out += more
            self.longest_s = max(self.longest_s, step_s)
        self._recent.append(step_s)

    def _guess(self, step_s: float) -> None:
        self._last_s += step_s
        if self.pictures == 1:
            return
        self._guessing = True
        self.guessed += 1
        if self.guessed == 1:
            log.warning(
                "%s: picture %d has no time of its own that can be right; such pictures follow by the clip's usual step (%g s)",
                self._name, self.pictures, round(self.usual_step_s, 4),
            )  # fmt: skip


class Pacer:
    """Plays at the recording's own pace, or as fast as it is read.

    As fast as possible, a frame's stamp is its time in the recording, counted from the start: evidence depends on the
    time between frames and must not depend on the speed of the machine. At its own pace the stamp is the moment at
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
        """As `stamp_at`, for pictures at a constant rate: frame `index` counts from 0."""
        return self.stamp_at(index / self.fps)

    def stamp_at(self, due_s: float) -> int:
        """Waits until a frame is due, seconds after the start, unless fast. Monotonic nanoseconds."""
        due_ns = self._start_ns + round(due_s * 1e9)
        if self.fast:
            return due_ns
        wait_ns = due_ns - self._clock_ns()
        if wait_ns > 0:
            self._sleep_s(wait_ns / 1e9)
        return self._clock_ns()
