"""Whether the picture inside the fan has changed, or only the noise of its camera, cable or codec.

Noise differs from picture to picture by as much as over any longer time. What is alive drifts away: the longer ago, the
more it differs. So a stretch over which a picture differs from the stretch's first by no more than neighbours differ from
each other is a held picture, and by how much they differ is the source's noise.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from edge.records import Fingerprint
from edge.screen.likeness import Cells

# Grey levels of cells. Noise of sigma 3 leaves .17 at 720p, MJPEG of quality 20 .25; a real clip .3 in 40 ms, .5 in .12 s.
DUPLICATE = 0.25  # difference up to which a picture is the last distinct one again: it is not scored anew
ALIKE = 0.4  # difference up to which, after .1 s and more, nothing has moved
OF_CONTRAST = 0.012  # of the fan's contrast, that ALIKE is at most: a dark gain shows less of everything
LEAST = 0.2  # that either is at least
ALIKE_OVER_NOISE = 1.4  # times the measured noise: its largest differences over its upper fifth (measured, a shaking camera)
STEADY = 1.3  # times its neighbours' difference, up to which a picture belongs to the stretch; a live one leaves it in 2 to 4
STEADY_NS = 250_000_000  # ns that a stretch must last to be one: at most three pictures count in it (min_interval_ms)
STEADY_PICTURES = 3  # pictures that follow its first
STEADY_QUANTILE = 0.8  # of the neighbours' differences of a stretch, which of a shaking camera are unequal
STEPS_KEPT = 32  # of them: a second's
SPACING_MAX_NS = 200_000_000  # ns between pictures; further apart, live ones too differ equally from all others
NOISE_MAX = 1.5  # grey levels of cells: with more, a second of a slow scan differs no more than a held picture does
NOISE_OF_CONTRAST = 0.1  # of the fan's contrast, at most; what differs more, each picture from each other, is alive
SOON_NS = 1_000_000_000  # ns: a stretch that ends sooner was live, and what was learned in it is no noise
SEEN_NS = 1_100_000_000  # ns in which neighbours must have differed by the noise once: key frames come one a second
RELAX = 0.05  # per picture, by which noise that was measured too high comes down to what is seen
RELAXES_BELOW = 0.8  # of the measured noise: a neighbour's difference that shows it to be too high


class Changes:
    """Follows the fingerprints of one source; not thread-safe. What it knows of the noise outlasts every layout."""

    def __init__(self) -> None:
        self.noise = 0.0  # grey levels of cells between two pictures of the same; 0 until a held picture was seen
        self._cells = Cells(np.zeros((0, 0), bool))
        self._before: Fingerprint | None = None
        self._before_ns = 0
        self._distinct: Fingerprint | None = None  # the last that was no duplicate
        self._moved: Fingerprint | None = None  # the last that had moved
        self._first: Fingerprint | None = None  # of the stretch under way
        self._first_ns = 0
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)  # differences of neighbours in the stretch
        self._noise_before = 0.0  # the noise as it was when the stretch began
        self._seen: deque[tuple[int, float]] = deque()  # (ns, difference of neighbours) of the last SEEN_NS

    @property
    def tells(self) -> bool:
        """Whether a frozen picture of this source can be told from a live one."""
        return self.noise <= NOISE_MAX

    def forget(self) -> None:
        """Another layout: no picture before this one is to be compared with."""
        self._before = self._distinct = self._moved = self._first = None

    def see(self, taken: Fingerprint, now: int) -> tuple[bool, bool, float]:
        """The picture at `now`, ns -> (a duplicate, something has moved, difference up to which two are alike)."""
        before, first, distinct, moved = self._before, self._first, self._distinct, self._moved
        cells = self._shared(taken)
        values = cells.of(taken.values)
        contrast = float(values.std()) if values.size else 0.0
        duplicate, moves = False, True
        if before is not None and first is not None and distinct is not None and moved is not None:
            others = np.stack([cells.of(one.values) for one in (before, first, distinct, moved)])
            step, from_first, from_distinct, from_moved = cells.differences(taken, others).tolist()
            self._learn(taken, step, from_first, contrast, now)
            moves = from_moved > self._alike(contrast)
            duplicate = from_distinct <= max(min(DUPLICATE, self._own(contrast)), ALIKE_OVER_NOISE * self.noise)
        else:
            self._begin(taken, now)
        self._before, self._before_ns = taken, now
        if not duplicate:
            self._distinct = taken
        if moves:
            self._moved = taken
        return duplicate, moves, self._alike(contrast)

    def _shared(self, taken: Fingerprint) -> Cells:
        """The cells that this picture shares with those that it is compared with."""
        masks = [one.inside for one in (taken, self._before, self._first, self._distinct, self._moved) if one is not None]
        if any(mask is not self._cells.inside for mask in masks):
            self._cells = Cells(masks[0] if all(mask is masks[0] for mask in masks) else np.logical_and.reduce(masks))
        return self._cells

    def _alike(self, contrast: float) -> float:
        return max(self._own(contrast), ALIKE_OVER_NOISE * self.noise)

    @staticmethod
    def _own(contrast: float) -> float:
        return min(max(OF_CONTRAST * contrast, LEAST), ALIKE)

    def _begin(self, taken: Fingerprint, now: int) -> None:
        self._first, self._first_ns, self._noise_before = taken, now, self.noise
        self._steps.clear()

    def _learn(self, taken: Fingerprint, step: float, from_first: float, contrast: float, now: int) -> None:
        if step < RELAXES_BELOW * self.noise:  # live or held, neighbours differ by the noise at least
            self.noise += RELAX * (step - self.noise)
        self._seen.append((now, step))
        while now - self._seen[0][0] > SEEN_NS:
            self._seen.popleft()
        if now - self._seen[0][0] > SEEN_NS // 2:
            self.noise = min(self.noise, max(seen for _, seen in self._seen))
        self._steps.append(step)
        found = sorted(self._steps)[int(STEADY_QUANTILE * (len(self._steps) - 1))]
        if from_first > STEADY * found or now - self._before_ns > SPACING_MAX_NS:
            if now - self._first_ns < SOON_NS:
                self.noise = min(self.noise, self._noise_before)
            self._begin(taken, now)
        elif (
            now - self._first_ns >= STEADY_NS
            and len(self._steps) >= STEADY_PICTURES
            and found <= NOISE_OF_CONTRAST * contrast
        ):
            self.noise = max(self.noise, found)
