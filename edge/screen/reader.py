"""Read a live screen, frame by frame: signal state, fan, crop.

Geometry is estimated from running temporal maxima and ranges of a thumbnail, cached while the layout lasts and rechecked
about once a second of frame time. There is no clock here: time is the frames' own `t_mono_ns`.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

from edge.records import Fan, Frame, Reading, Signal
from edge.screen.fan import find_two, fit_fan, gather, plausible, screen_iou
from edge.screen.geometry import fan_mask
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.signal import change, is_colour_bars, is_doppler, is_drawn, is_flat

SECOND = 1_000_000_000  # ns
THUMB_SIDE = 640  # px, longest side of the thumbnail that geometry is estimated on, nearest neighbour: no blur
FIRST_CHECKS = (0, SECOND // 2, 2 * SECOND)  # ns after a layout appears: provisional, better, good
RECHECK = SECOND  # ns between later checks
SAME_LAYOUT = 0.93  # IoU of two estimates of one layout; repeated estimates of real clips agree to > .97
SAMPLE_SIDE = 160  # px, longest side of the grid on which colour and change inside the fan are looked at
DUPLICATE = 0.35  # mean change, grey levels: a repeated frame through a codec shows < .3, live speckle > 1
FREEZE = SECOND  # ns without live change after which the picture is called frozen
FROZEN_CHANGES = 2  # changes a FREEZE span may show while frozen: a low-rate H.264 key frame, about one a second, is one
MOVING_RANGE = 10  # grey levels a thumbnail pixel must range over a window to count as live
COLOUR_FRAMES = 2  # consecutive frames with colour before DOPPLER is said, and without before it is taken back
OUTSIDE_CHANGE = 0.02  # share of the samples outside the fan that change at once when a layout changes


class ScreenReader:
    """Reads one live source. Feed frames in order; not thread-safe. Never raises on odd images: the Reading says so."""

    def __init__(self, spec: Preprocessing) -> None:
        self.spec = spec
        self._reset()

    def _reset(self) -> None:
        """Forget everything: start, or the screen's resolution changed."""
        self._shape: tuple[int, ...] = ()
        self._fan: Fan | None = None
        self._verdict = Signal.MENU  # what geometry says: OK, DUAL or MENU
        self._candidate: tuple[Signal, Fan | None] | None = None  # another layout seen once
        self._since = 0  # ns, when this layout was first looked at
        self._checks = 0
        self._next_check = 0
        self._peak: np.ndarray | None = None
        self._low: np.ndarray | None = None
        self._samples: np.ndarray | None = None
        self._inside = np.zeros((0, 0), bool)
        self._history: deque[tuple[int, bool]] = deque()  # (t_mono_ns, changed) of the frames of the last FREEZE
        self._watched_since = 0
        self._colour_run = 0
        self._doppler = False

    def read(self, frame: Frame) -> Reading:
        """One frame -> Reading. `crop` only when the signal is OK."""
        image, now = frame.image, frame.t_mono_ns
        if image.ndim not in (2, 3) or image.dtype != np.uint8 or min(image.shape[:2]) < 16:
            return Reading(frame.id, now, Signal.NO_SIGNAL, None)
        layout_changed = False
        if image.shape != self._shape:
            layout_changed = bool(self._shape)
            self._reset()
            self._shape, self._since, self._next_check = image.shape, now, now
        thumb = thumbnail(image)
        if is_flat(thumb[::4, ::4]) or is_colour_bars(thumb[::8, ::8]):
            return Reading(frame.id, now, Signal.NO_SIGNAL, None, layout_changed=layout_changed)
        grey = thumb if thumb.ndim == 2 else cv2.cvtColor(thumb, cv2.COLOR_BGR2GRAY)
        self._accumulate(grey)
        if now >= self._next_check:
            layout_changed |= self._check_geometry(thumb, now)
        fan = self._fan
        if fan is None:
            return Reading(frame.id, now, self._verdict, None, layout_changed=layout_changed)
        signal, duplicate = self._inside_state(image, fan, now)
        crop = prepare(image, fan, self.spec) if signal is Signal.OK else None
        return Reading(frame.id, now, signal, fan, crop, duplicate, layout_changed)

    def _accumulate(self, grey: np.ndarray) -> None:
        if self._peak is None or self._low is None:
            self._peak, self._low = grey.copy(), grey.copy()
        else:
            np.maximum(self._peak, grey, out=self._peak)
            np.minimum(self._low, grey, out=self._low)

    def _check_geometry(self, thumb: np.ndarray, now: int) -> bool:
        """Estimate the layout from the window so far; returns whether it changed for good."""
        assert self._peak is not None and self._low is not None
        signal, fan = self._estimate(thumb, self._peak, self._low)
        self._checks += 1
        settling = self._checks < len(FIRST_CHECKS)
        self._next_check = self._since + FIRST_CHECKS[self._checks] if settling else now + RECHECK
        if not settling:
            self._peak = self._low = None
        same = signal is self._verdict and (fan is None or self._fan is None or screen_iou(fan, self._fan) >= SAME_LAYOUT)
        if self._checks <= len(FIRST_CHECKS) and (same or self._fan is None):
            self._adopt(signal, fan, now)
            return False
        if same:
            self._candidate = None
            return False
        confirmed = self._candidate is not None and self._candidate[0] is signal
        if confirmed and fan is not None and self._candidate is not None and self._candidate[1] is not None:
            confirmed = screen_iou(fan, self._candidate[1]) >= SAME_LAYOUT
        if not confirmed:
            self._candidate = (signal, fan)
            return False
        self._candidate = None
        self._adopt(signal, fan, now)
        return True

    def _estimate(self, thumb: np.ndarray, peak: np.ndarray, low: np.ndarray) -> tuple[Signal, Fan | None]:
        moving = cv2.absdiff(peak, low) > MOVING_RANGE
        alive = float(moving.mean()) > 0.02
        evidence = gather(peak, moving if alive else None, screen=self._shape[:2])
        height, width = evidence.picture.shape
        if find_two(evidence) is not None:
            return Signal.DUAL, None
        if is_drawn(cv2.resize(thumb, (width, height), interpolation=cv2.INTER_NEAREST), evidence.picture):
            return Signal.MENU, None
        fit = fit_fan(evidence)
        if fit is None or not plausible(fit, evidence.shape):
            return Signal.MENU, None
        return Signal.OK, fit.fan

    def _adopt(self, signal: Signal, fan: Fan | None, now: int) -> None:
        self._verdict, self._fan = signal, fan
        self._samples = None
        self._history.clear()
        self._watched_since = now

    def _inside_state(self, image: np.ndarray, fan: Fan, now: int) -> tuple[Signal, bool]:
        """Colour and change inside the fan -> (signal, duplicate)."""
        x0, y0, x1, y1 = fan.box
        step = max(1, -(-max(x1 - x0, y1 - y0) // SAMPLE_SIDE))
        samples = np.ascontiguousarray(image[y0:y1:step, x0:x1:step])
        if self._samples is None:
            self._inside = fan_mask(fan, fan.box)[::step, ::step]
        coloured = is_doppler(samples, self._inside)
        self._colour_run = self._colour_run + 1 if coloured != self._doppler else 0
        if self._colour_run >= COLOUR_FRAMES:
            self._doppler, self._colour_run = coloured, 0
        grey = samples if samples.ndim == 2 else cv2.cvtColor(samples, cv2.COLOR_BGR2GRAY)
        duplicate = self._samples is not None and change(grey, self._samples, self._inside) < DUPLICATE
        if not duplicate:
            self._samples = grey
        if self._is_frozen(now, not duplicate):
            return Signal.FROZEN, duplicate
        if self._doppler or coloured:
            return Signal.DOPPLER, duplicate
        return Signal.OK, duplicate

    def _is_frozen(self, now: int, changed: bool) -> bool:
        """Fewer changes over the last FREEZE than live speckle shows even at a scanner's slowest frame rate."""
        self._history.append((now, changed))
        while now - self._history[0][0] > FREEZE:
            self._history.popleft()
        changes = sum(item[1] for item in self._history)
        return now - self._watched_since >= FREEZE and changes <= min(FROZEN_CHANGES, len(self._history) // 10)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The screen at THUMB_SIDE or less, nearest neighbour: cheap, and codec noise stays what it is."""
    k = min(1.0, THUMB_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * k)), max(1, round(image.shape[0] * k)))
    return image.copy() if k == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
