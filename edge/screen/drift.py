"""Whether a picture has drifted away from what it was a quarter of a second ago, or is held: changed as a whole at most.

A held picture that is moved, zoomed, shaken, or shown in other greys can be laid over itself (`edge.screen.align`), and what
is left is noise: as much between neighbours as over any longer time. What is alive leaves more, the longer ago.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edge.records import Fingerprint
from edge.screen.align import Aligner, Place, Reference

LOOK_NS = 90_000_000  # ns between looks: each costs one or two milliseconds, and one picture in .1 s is all that may count
AGO_NS = 230_000_000  # ns to the picture that this one is compared with, at least: at most three count in it (min_interval_ms)
LOOKS_AGO = 2  # looks to it, at least
WINDOW_NS = 1_000_000_000  # ns to it at most; a longer zoom leaves too little in common
STEPS_KEPT = 10  # differences of neighbours: a second's
STEP_NS = 60_000_000  # ns between neighbours at most, for their difference to say what the noise is and not what has moved
STEP_QUANTILE = 0.6  # of them; a shaking camera's are unequal, and a live picture's largest ones are its own motion
OVER_STEPS = 1.2  # times them that a held picture leaves at most; a live one leaves 1.5 to 3 (measured)
OF_CHANGE = 0.12  # of the change that is left when all moves alike, at most; live phantoms leave .3 to .5, real clips .9
OF_CONTRAST, LEAST, MOST = 0.013, 0.15, 0.32  # of the fan's contrast, and grey levels: what moving by parts of a pixel leaves
NOISE_OF_CONTRAST = 0.1  # of the fan's contrast, that neighbours differ by at most: more is alive, or nothing can be told
GRAIN = 0.25  # correlation of the finest detail of a held picture, at least: .3 under sigma 30; fast scans have .2 (measured)
BREAKS = 2  # looks in a row that must drift before a held picture is live: interference spoils one


@dataclass(frozen=True)
class _Picture:
    at_ns: int
    crop: np.ndarray
    taken: Fingerprint
    place: Place  # where it lies on the oldest, while the picture is held


class Drift:
    """Follows the crops of one fan; not thread-safe."""

    def __init__(self, aligner: Aligner, held_since: int | None = None) -> None:
        """`held_since`, ns: of the picture, as it is known by an earlier estimate of the same fan."""
        self._aligner = aligner
        self._looks: deque[_Picture] = deque()
        self._oldest: Reference | None = None  # of the first of them, once it is needed
        self._before: _Picture | None = None  # the picture just before, looked at or not
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._place: Place = np.eye(3)  # of the last look on the oldest
        self._drifted = 0  # looks in a row
        self.held_since = held_since  # ns

    @property
    def surely_held_since(self) -> int | None:
        """`held_since` unless the last look has shown something else: then a better estimate of the fan begins anew, since it is
        often another picture that brings one."""
        return None if self._drifted else self.held_since

    def see(self, crop: np.ndarray, taken: Fingerprint, now: int) -> int | None:
        """The crop at `now`, ns, with its fingerprint -> since when the picture is held, ns; None when it is not."""
        here = _Picture(now, crop, taken, np.eye(3))
        before, self._before = self._before, here
        if before is None:
            self._looks.append(here)
        elif now - self._looks[-1].at_ns >= LOOK_NS:
            if now - self._looks[0].at_ns >= AGO_NS and len(self._looks) >= LOOKS_AGO:
                self._judge(here, before)
            self._looks.append(_Picture(now, crop, taken, self._place))
            self._slide(now)
        return self.held_since

    def _judge(self, here: _Picture, before: _Picture) -> None:
        oldest = self._looks[0]
        contrast = self._aligner.contrast(oldest.taken)
        least = min(max(OF_CONTRAST * contrast, LEAST), MOST)
        apart = self._aligner.apart(oldest.taken, here.taken)
        left = apart
        if apart > least / 2:  # what differs by next to nothing needs no laying over
            if self._oldest is None:
                self._oldest = self._aligner.reference(oldest.crop, oldest.taken)
            left, self._place = self._aligner.left(self._oldest, here.crop, self._place)
        limit = max(OF_CHANGE * apart, least)
        # Speckle that is another one each time differs by as much as noise does, and has nothing in common.
        same_grain = apart <= least / 2 or self._aligner.grain >= GRAIN
        if here.at_ns - before.at_ns <= STEP_NS and same_grain:
            limit = max(limit, OVER_STEPS * self._step(here, before, left, least))
        if left <= limit and left <= NOISE_OF_CONTRAST * max(contrast, 1.0) * OVER_STEPS:
            self._drifted = 0
            self.held_since = oldest.at_ns if self.held_since is None else self.held_since
            return
        self._drifted += 1
        if self._drifted >= BREAKS:
            self.held_since = None

    def _step(self, here: _Picture, before: _Picture, left: float, least: float) -> float:
        """What neighbours differ by, grey levels: by their noise. Where they differ little, one is laid over the other only if
        it matters."""
        apart = self._aligner.apart(before.taken, here.taken)
        if least / 2 < apart and left <= OVER_STEPS * apart:
            over = self._aligner.reference(before.crop, before.taken)
            apart = min(apart, self._aligner.left(over, here.crop, np.eye(3))[0])
        self._steps.append(apart)
        return float(np.quantile(self._steps, STEP_QUANTILE))

    def _slide(self, now: int) -> None:
        """Forget what is older than need be."""
        longest = WINDOW_NS if self.held_since is not None else AGO_NS
        dropped = None
        while len(self._looks) > LOOKS_AGO and now - self._looks[1].at_ns >= longest - LOOK_NS:
            self._looks.popleft()
            dropped = self._looks[0].place
        if dropped is None:
            return
        self._oldest = None
        if self.held_since is not None:
            back = np.linalg.inv(dropped)
            self._looks = deque(_Picture(look.at_ns, look.crop, look.taken, look.place @ back) for look in self._looks)
            self._place = self._place @ back
