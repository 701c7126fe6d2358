"""Follow a live screen's layout: one fan, two fans or none, and where.

Estimates rest on temporal maxima and ranges of a thumbnail. A new layout is estimated at once from one frame, improved
while it settles, then rechecked about once a second, and at once when the screen around the fan jumps. What need not be
known at once (all but a new layout's first two estimates) is worked out a little with each frame, over a quarter second:
done at once it would keep the loop for longer than pictures are apart.
"""

from __future__ import annotations

import cv2
import numpy as np

from edge.records import Fan, Signal
from edge.screen.bars import Box
from edge.screen.fan import MOVING_RANGE, finding_two, gather, judging
from edge.screen.geometry import rasterise, scaled, screen_iou
from edge.screen.lettering import Strokes, find_strokes, is_unsure
from edge.screen.preprocess import to_grey
from edge.screen.steps import Steps, finish

SECOND = 1_000_000_000  # ns
THUMB_SIDE = 640  # px, longest side of the thumbnail that geometry is estimated on
GLANCE = SECOND // 11  # ns between thumbnails in a window: every third of 30 fps; each costs .4 ms, more of them tell no more
STEPS = 400  # steps a second of the source's time, 13 with each picture at 30 fps: some 4 ms of it, and a look takes .25 s
SETTLING = (SECOND // 2, 2 * SECOND)  # ns after a layout appears at which its first, one-frame estimate is improved
RECHECK = SECOND  # ns between later checks
SEARCH = SECOND // 2  # ns between checks while there is no fan
JUMP_PAUSE = SECOND // 4  # ns after any check in which a jump starts no other: a check costs several frames' time
SAME_LAYOUT = 0.93  # IoU of two estimates of one layout; leaves room for tissue that comes and goes at the edges
SAME_ESTIMATE = 0.97  # IoU of two estimates of a new layout: a real one repeats itself, an accident of tissue does not
CONFIRM = 1  # further checks in a row that must repeat a new layout
CONFIRM_SMALLER = 3  # the same when it lies inside the old one, as it seems to when the probe is lifted for a moment
MOVING_SHARE = 0.02  # of the screen that must be live before stillness means anything
JUMP_LEVELS = 16  # grey levels by which a pixel around the fan must change from one frame to the next to count
JUMP_SHARE = 0.02  # of the screen around the fan that must change at once: a clock changes far less (chosen)
JUMP_AREA = 0.1  # of the screen that must lie around the fan for this to be watched
DARK_LEVEL = 24  # grey level that noise in a picture without echoes does not reach; chosen
LIT_SHARE = 0.02  # of the fan that may be brighter in one: calipers, a focus mark

Layout = tuple[Signal, Fan | None]  # OK with a fan; DUAL or MENU without


class LayoutTracker:
    """The layout of one live screen of fixed resolution `shape` = (height, width, ...) in pixels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._layout: Layout | None = None
        self._rival: Layout | None = None  # another layout, as the last check saw it
        self._repeats = 0
        self._settling: list[int] = []  # ns, times of the checks to come while the layout settles
        self._next_check = 0
        self._quiet_until = 0
        self._unchecked = False  # the screen around the fan jumped while no check was due
        self._unsure = False  # what was last taken for the fan may hold a piece of the interface
        self._check: Steps[Layout] | None = None  # a look under way
        self._check_ns = self._stepped_ns = 0  # when it began, when its last steps were done
        self._alive = False  # whether its window shows live picture
        self._peak: np.ndarray | None = None  # uint8, temporal maximum and minimum of the thumbnail in this window
        self._low: np.ndarray | None = None
        self._glances = 0  # thumbnails in the window
        self._next_glance = 0
        self._before: np.ndarray | None = None  # uint8, the frame before, tiny
        self._scene: np.ndarray | None = None  # the same of when the layout was last confirmed
        self._within = np.zeros((0, 0), bool)  # pixels of it that lie in the fan
        self._around: np.ndarray | None = None  # bool, pixels of it that lie around the fan; None: no fan, or too few

    @property
    def layout(self) -> Layout:
        return self._layout if self._layout is not None else (Signal.MENU, None)

    @property
    def settled(self) -> bool:
        """Whether the layout has had its last look of the first two seconds: until then a sector may still be taken for
        the rectangle around it, patient's name included. Nor is it sure when the screen has jumped and was not looked at since:
        it may be a form by now; nor one whose fan may be the whole screen (see `edge.screen.lettering`)."""
        known = self._layout is not None and not self._settling and self._rival is None
        return known and not self._unchecked and not self._unsure

    def update(self, image: np.ndarray, tiny: np.ndarray, now: int, fresh: bool) -> bool:
        """Take in one frame at time `now`, ns; returns whether the layout changed for good.

        `image`: the screen, uint8 grey or BGR. `tiny`: the same small. `fresh`: there was no picture just before.
        """
        small = to_grey(tiny)
        self._unchecked = self._unchecked or self._jumped(small)
        jumped = fresh or (self._unchecked and now >= self._quiet_until)
        self._before = small
        if jumped:
            self._unchecked, self._check, self._peak = False, None, None
        due = jumped or (self._check is None and now >= self._next_check)
        if due or now >= self._next_glance or self._peak is None:
            thumb = thumbnail(image, THUMB_SIDE)
            self._glance(to_grey(thumb), now)
        if self._check is not None:
            seen = self._go_on(self._check, now)
        elif due:
            seen = self._start(thumb, now, at_once=jumped or self.layout[1] is None or len(self._settling) > 1)
        else:
            seen = None
        return seen is not None and self._conclude(seen, small.shape, now, jumped)

    def _glance(self, grey: np.ndarray, now: int) -> None:
        """Take one thumbnail into the window."""
        self._next_glance = now + GLANCE
        if self._peak is None or self._low is None:
            self._peak, self._low, self._glances = grey.copy(), grey.copy(), 0
        else:
            np.maximum(self._peak, grey, out=self._peak)
            np.minimum(self._low, grey, out=self._low)
        self._glances += 1

    def _start(self, thumb: np.ndarray, now: int, at_once: bool) -> Layout | None:
        """Begin to estimate the layout from the window; the estimate, if it is wanted at once."""
        assert self._peak is not None and self._low is not None
        lone = self._glances == 1
        ranged = cv2.absdiff(self._peak, self._low)
        self._alive = bool(np.count_nonzero(ranged > MOVING_RANGE) > MOVING_SHARE * ranged.size)
        self._check, self._check_ns, self._stepped_ns = self._estimate(thumb, self._peak, ranged), now, now
        self._quiet_until = now + JUMP_PAUSE
        next(self._check)  # it has now taken from the window what it needs
        if len(self._settling) <= 1:  # a settling layout keeps its window, a settled one starts afresh with every check
            self._peak = None
        if not at_once:
            return None
        seen, self._check = finish(self._check), None
        if self._layout is not None and self._layout[1] is None and seen[1] is not None and not lone:
            if self._layout[0] is Signal.DUAL and not self._alive:
                return self._layout  # two pictures that stand still: one look tells less than what is known already
            # The window still holds the menu or black before: lettering of both would pass for one large rectangle. The
            # next picture alone decides.
            self._peak, self._next_check = None, now
            return None
        return seen

    def _go_on(self, check: Steps[Layout], now: int) -> Layout | None:
        """Some steps of the check under way, by the time since the last ones; its estimate when it is done."""
        steps = max(1, (now - self._stepped_ns) * STEPS // SECOND)
        self._stepped_ns = now
        try:
            for _ in range(steps):
                next(check)
        except StopIteration as end:
            self._check = None
            seen: Layout = end.value
            return seen
        return None

    def _conclude(self, seen: Layout, small: tuple[int, ...], now: int, jumped: bool) -> bool:
        """What an estimate says of the layout; returns whether that changed for good."""
        if self._layout is None:
            self._begin(seen, small, now)
            return False
        settled = not self._settling
        if jumped or self._layout[1] is None:
            changed = not same(seen, self._layout, SAME_LAYOUT)
            if changed:
                self._begin(seen, small, now)
            else:
                self._schedule()
            return changed and settled  # until it has settled, a better estimate is no other layout
        if self._is_dark(seen):  # the gain is down, or the probe is off the skin: the screen is still the one that it was
            self._settling = self._settling[1:]
            self._schedule()
            return False
        if not self._alive and seen[1] is not None:  # a frozen picture: one frame tells less than what is known already
            self._settling = self._settling[1:]
            self._schedule()
            return False
        if self._settling:
            self._settling = self._settling[1:] if seen[1] is not None else []
            self._adopt(seen, small)
            self._schedule()
            return False
        self._schedule()
        return self._challenge(seen, small)

    def _is_dark(self, seen: Layout) -> bool:
        """Whether nothing is seen because the picture in the fan went dark, while the screen around it stayed what it was."""
        if seen[0] is not Signal.MENU or self._around is None or self._scene is None or self._before is None:
            return False
        changed = (cv2.absdiff(self._before, self._scene) > JUMP_LEVELS) & self._around
        lit = (self._before > DARK_LEVEL) & self._within
        same_screen = np.count_nonzero(changed) <= JUMP_SHARE * np.count_nonzero(self._around)
        return bool(same_screen and np.count_nonzero(lit) <= LIT_SHARE * np.count_nonzero(self._within))

    def _begin(self, seen: Layout, small: tuple[int, ...], now: int) -> None:
        """A new layout, known from one look: adopt it and let it settle. What has no fan has nothing to settle."""
        self._settling = [now + after for after in SETTLING] if seen[1] is not None else []
        self._adopt(seen, small)
        self._schedule()

    def _schedule(self) -> None:
        """When to look next, counted from when this look began."""
        if self._settling:
            self._next_check = self._settling[0]
        else:
            self._next_check = self._check_ns + (SEARCH if self.layout[1] is None else RECHECK)

    def _challenge(self, seen: Layout, small: tuple[int, ...]) -> bool:
        """A check of a settled layout: adopt another one only when it repeats itself."""
        assert self._layout is not None
        if same(seen, self._layout, SAME_LAYOUT):
            self._rival, self._scene = None, self._before
            return False
        if self._rival is None or not same(seen, self._rival, SAME_ESTIMATE):
            self._rival, self._repeats = seen, 0
            return False
        self._repeats += 1
        if self._repeats < (CONFIRM_SMALLER if inside(seen[1], self._layout[1]) else CONFIRM):
            return False
        self._adopt(seen, small)
        return True

    def _estimate(self, thumb: np.ndarray, peak: np.ndarray, ranged: np.ndarray) -> Steps[Layout]:
        """In steps; `peak` and `ranged` are done with after the first."""
        screen, moved = (self._shape[0], self._shape[1]), ranged if self._alive else None
        evidence = gather(peak, moved, screen)
        strokes = find_strokes(cv2.subtract(peak, ranged), moved)
        peak, moved = peak.copy(), None if moved is None else moved.copy()
        yield
        if (yield from finding_two(evidence)) is not None:
            return Signal.DUAL, None
        fit = yield from judging(thumb, evidence)
        if fit is None:
            return Signal.MENU, None
        unsure = is_unsure(strokes, fit.fan, evidence.inner, screen)
        if unsure and moved is not None:  # a screen of several backgrounds: what moves on it is left
            evidence = gather(peak, moved, screen, by_motion=True)
            yield
            within = yield from judging(thumb, evidence)
            if within is not None and not is_unsure(strokes, within.fan, evidence.inner, screen):
                fit, unsure = within, False
        self._see(strokes, fit.fan, unsure, evidence.inner)
        return Signal.OK, fit.fan

    def _see(self, strokes: Strokes, fan: Fan, unsure: bool, inner: Box) -> None:
        """Whether the fan just found may hold interface, and the one in use too. Where nothing moves, that tells less than
        what is known already."""
        known = self.layout[1]
        if known is None or self._rival is not None or strokes.alive:
            screen = self._shape[0], self._shape[1]
            self._unsure = unsure or (known is not None and is_unsure(strokes, known, inner, screen))

    def _adopt(self, seen: Layout, small: tuple[int, ...]) -> None:
        self._layout, self._rival = seen, None
        fan = seen[1]
        self._around, self._scene = None, self._before
        if fan is not None:
            covered = rasterise(scaled(fan, small[1] / self._shape[1]), (0, 0, small[1], small[0]))
            self._within = covered
            around = cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
            self._around = around if around.mean() >= JUMP_AREA else None

    def _jumped(self, small: np.ndarray) -> bool:
        if self._before is None or self._around is None:
            return False
        changed = cv2.absdiff(small, self._before) > JUMP_LEVELS
        return bool(np.count_nonzero(changed & self._around) > JUMP_SHARE * np.count_nonzero(self._around))


def same(one: Layout, other: Layout, iou: float) -> bool:
    """Whether two estimates are of one layout."""
    if one[0] is not other[0]:
        return False
    return one[1] is None or other[1] is None or screen_iou(one[1], other[1]) >= iou


def inside(small: Fan | None, large: Fan | None) -> bool:
    """Whether one fan's box lies in the other's, give or take 2 % of its size."""
    if small is None or large is None:
        return False
    slack = 0.02 * max(large.box[2] - large.box[0], large.box[3] - large.box[1])
    first = all(s >= b - slack for s, b in zip(small.box[:2], large.box[:2], strict=True))
    return first and all(s <= b + slack for s, b in zip(small.box[2:], large.box[2:], strict=True))


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """The screen with its longest side at `side` px or less; nearest neighbour is cheap and keeps noise what it is."""
    k = side / max(image.shape[:2])
    if k >= 1:
        return image
    size = (max(1, round(image.shape[1] * k)), max(1, round(image.shape[0] * k)))
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
