"""Read a live screen, frame by frame: signal state, fan, crop.

There is no clock here: time is the frames' own `t_mono_ns`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from edge.records import Fan, Frame, Reading, Signal
from edge.screen.align import Aligner
from edge.screen.cover import is_covered
from edge.screen.drift import Drift
from edge.screen.geometry import fan_mask
from edge.screen.held import Changes
from edge.screen.layout import SECOND, LayoutTracker, thumbnail
from edge.screen.likeness import Fingerprinter
from edge.screen.preprocess import Preprocessing, letterbox, prepare, to_grey, to_screen
from edge.screen.signal import is_doppler, readable, shows_nothing
from edge.screen.surround import Surround

TINY_SIDE = 160  # px, longest side of the one on which the whole screen's state is looked at
SAMPLE_SIDE = 160  # px, longest side of the grid on which colour inside the fan is looked at
FREEZE = SECOND  # ns without live change after which the picture is called frozen
FROZEN_CHANGES = 2  # changes that a frozen picture may show in FREEZE: key frames of a low-rate H.264 stream
THAW_CHANGES = 4  # changes in FREEZE that thaw it: a stream sharpens a still in a step or two after a key frame
FRAMES_PER_CHANGE = 10  # frames in FREEZE for each of them: at low frame rates every change counts
DOPPLER_HOLD = SECOND // 2  # ns that DOPPLER outlasts the last colour: flow pulses with the heart


class ScreenReader:
    """Reads one live source. Feed frames in order; not thread-safe. Never raises on odd images: the Reading says so."""

    def __init__(self, spec: Preprocessing) -> None:
        self.spec = spec
        self._shape: tuple[int, ...] = ()
        self._tracker = LayoutTracker(())
        self._dark = False  # the frame before showed no picture
        self._fan: Fan | None = None  # the fan that the state below belongs to
        self._inside = np.zeros((0, 0), bool)
        self._prints: Fingerprinter | None = None
        self._changes = Changes()
        self._drift: Drift | None = None
        self._surround = Surround()
        self._history: deque[tuple[int, bool]] = deque()  # (t_mono_ns, changed) of the frames of the last FREEZE
        self._watched_since = 0  # ns
        self._frozen = False
        self._colour_until = 0  # ns

    def read(self, frame: Frame) -> Reading:
        """One frame -> Reading. `crop` only when the signal is OK."""
        image, now = frame.image, frame.t_mono_ns
        if not readable(image):
            return Reading(frame.id, now, Signal.NO_SIGNAL, None)
        image = to_screen(image)
        resized = False
        if image.shape != self._shape:
            resized = bool(self._shape)
            self._shape, self._tracker = image.shape, LayoutTracker(image.shape)
            self._fan = None
        tiny = thumbnail(image, TINY_SIDE)
        if shows_nothing(tiny, to_grey(tiny)):
            self._dark = True
            return Reading(frame.id, now, Signal.NO_SIGNAL, None, layout_changed=resized)
        layout_changed = self._tracker.update(image, tiny, now, fresh=self._dark) or resized
        signal, fan = self._tracker.layout
        if fan is None:
            self._dark = False
            doubtful = signal is Signal.MENU and not self._surround.is_menu(tiny)
            return Reading(frame.id, now, signal, None, layout_changed=layout_changed, doubtful=doubtful)
        self._surround.see(tiny, fan, image.shape)
        if fan is not self._fan or self._dark:
            self._watch(fan, now, keep_time=not layout_changed and not self._dark and self._fan is not None)
        self._dark = False
        crop = prepare(image, fan, self.spec)
        assert self._prints is not None and self._drift is not None
        taken = self._prints.take(crop)
        duplicate, moves, alike = self._changes.see(taken, now)
        held_since = self._drift.see(crop, taken, now)
        duplicate = duplicate or held_since is not None
        samples = _samples(image, fan)
        signal = self._look_inside(samples, now, moves, held_since is not None and now - held_since >= FREEZE)
        covered = is_covered(to_grey(samples), self._inside)
        return Reading(
            frame.id,
            now,
            signal,
            fan,
            crop if signal is Signal.OK and not covered else None,
            duplicate,
            layout_changed,
            self._tracker.settled and not covered,
            covered=covered,
            fingerprint=replace(taken, alike=alike),
            noise=self._changes.noise,
        )

    def _watch(self, fan: Fan, now: int, keep_time: bool) -> None:
        """Begin to watch the inside of a fan; a better estimate of the same one does not restart the freeze clock."""
        self._fan, self._colour_until = fan, now
        self._inside = fan_mask(fan, fan.box)[:: _step(fan), :: _step(fan)]
        self._prints = Fingerprinter(fan, self._shape, self.spec.size)
        held_since = self._drift.surely_held_since if self._drift is not None and keep_time else None
        self._drift = Drift(Aligner(self._prints, _on_crop(fan, self.spec)), held_since)
        if not keep_time:
            self._changes.forget()
            self._history.clear()
            self._frozen = False
            self._watched_since = now

    def _look_inside(self, samples: np.ndarray, now: int, changed: bool, held: bool) -> Signal:
        """Colour and change inside the fan; `held`: for FREEZE and longer it only moved and changed as a whole."""
        if is_doppler(samples, self._inside):
            self._colour_until = now + DOPPLER_HOLD
        if self._is_frozen(now, changed) or held:
            return Signal.FROZEN
        return Signal.DOPPLER if now < self._colour_until else Signal.OK

    def _is_frozen(self, now: int, changed: bool) -> bool:
        """Fewer changes over the last FREEZE than live speckle shows even at a scanner's slowest frame rate."""
        self._history.append((now, changed))
        while now - self._history[0][0] > FREEZE:
            self._history.popleft()
        changes = sum(item[1] for item in self._history)
        if self._frozen:
            self._frozen = changes < min(THAW_CHANGES, (len(self._history) + 1) // 2)
        else:
            allowed = min(FROZEN_CHANGES, len(self._history) // FRAMES_PER_CHANGE)
            self._frozen = now - self._watched_since >= FREEZE and changes <= allowed
        return self._frozen and self._changes.tells


def _on_crop(fan: Fan, spec: Preprocessing) -> np.ndarray:
    """bool [S,S]: where on its crop a fan lies."""
    return letterbox(fan_mask(fan, fan.box).astype(np.uint8) * 255, Preprocessing(spec.size)) == 255


def _samples(image: np.ndarray, fan: Fan) -> np.ndarray:
    """Every _step-th pixel of the fan's box."""
    x0, y0, x1, y1 = fan.box
    return np.ascontiguousarray(image[y0 : y1 : _step(fan), x0 : x1 : _step(fan)])


def _step(fan: Fan) -> int:
    """Pixels between the samples in which colour is looked for."""
    x0, y0, x1, y1 = fan.box
    return max(1, -(-max(x1 - x0, y1 - y0) // SAMPLE_SIDE))
