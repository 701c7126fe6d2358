"""Read one still image: a screen with a fan, or an ultrasound picture that reaches to the image's edges."""

from __future__ import annotations

import cv2
import numpy as np

from edge.records import Fan, Reading, Signal
from edge.screen.bars import Box, cut
from edge.screen.fan import background_level, find_two, gather, judge
from edge.screen.fit import Fit
from edge.screen.geometry import fan_mask
from edge.screen.preprocess import Preprocessing, prepare, to_grey
from edge.screen.signal import is_doppler, is_drawn, readable, shows_nothing

MAX_CUT = 0.05  # of the picture that may lie outside the fan: logos, grey bars, a thumbnail
MAX_ACROSS = 0.012  # of the picture that may go on across the fan's edge; beyond, "full" is safer than a wrong fan
LOOSE_MARGIN = 3  # grey levels above the background: faint echoes count when the question is what a fan cuts away
MIN_STILL_FILL = 0.55  # of the fan that must be picture: a still has no time in which noise fills the fluid
SAMPLES = 240  # px, about the width at which colour is looked at


def read_still(image: np.ndarray, spec: Preprocessing) -> Reading:
    """uint8 grey [H,W] or BGR [H,W,3] -> Reading (frame 0, time 0). Never FROZEN; "full" where no fan is sure."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    signal, fan = _judge(image[..., :3] if image.ndim == 3 else image)
    crop = prepare(image, fan, spec) if fan is not None and signal is Signal.OK else None
    return Reading(0, 0, signal, fan, crop)


def _judge(image: np.ndarray) -> tuple[Signal, Fan | None]:
    if not readable(image):
        return Signal.NO_SIGNAL, None
    grey = to_grey(image)
    if shows_nothing(image, grey):
        return Signal.NO_SIGNAL, None
    evidence = gather(grey)
    if find_two(evidence) is not None:
        return Signal.DUAL, None
    fit = judge(image, evidence)
    if fit is not None and fit.fill >= MIN_STILL_FILL and not cuts(grey, fit, evidence.inner):
        fan = fit.fan
    else:
        fan = Fan("full", evidence.inner)
        height, width = evidence.weight.shape
        thumb = cv2.resize(cut(image, evidence.inner), (width, height), interpolation=cv2.INTER_NEAREST)
        if is_drawn(thumb, evidence.picture, fan.kind):
            return Signal.MENU, None
    x0, y0, x1, y1 = fan.box
    step = max(1, (x1 - x0) // SAMPLES)
    inside = fan_mask(fan, fan.box)[::step, ::step]
    if is_doppler(np.ascontiguousarray(image[y0:y1:step, x0:x1:step]), inside):
        return Signal.DOPPLER, fan
    return Signal.OK, fan


def cuts(grey: np.ndarray, fit: Fit, inner: Box) -> bool:
    """Whether the fan leaves real picture outside, faint and scattered picture included. uint8 [H,W]; `inner`: the screen
    in it, without bars."""
    grey = cut(grey, inner)
    smooth = cv2.medianBlur(np.ascontiguousarray(grey), 5)
    loose = (smooth > background_level(grey) + LOOSE_MARGIN).astype(np.uint8)
    side = max(3, int(0.015 * min(grey.shape)) | 1)  # strokes and ticks are thinner
    solid = cv2.morphologyEx(loose, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    count, labels = cv2.connectedComponents(solid)
    inside = fan_mask(fit.fan, inner)
    held: np.ndarray = np.bincount(labels[inside], minlength=count).astype(np.float64)
    lost: np.ndarray = np.bincount(labels[~inside], minlength=count).astype(np.float64)
    held[0] = lost[0] = 0
    across = lost[held > 0].sum()  # picture that goes on beyond the fan's edge
    return bool(across > MAX_ACROSS * held.sum() or lost.sum() > MAX_CUT * held.sum())
