"""The fan as people see it: on the page, in an evidence image, in a clip. Nothing from outside the fan is in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge.records import Fan
from edge.screen.geometry import outline
from edge.screen.preprocess import Preprocessing, prepare, to_screen

SIDE = 480  # pixels: most of a 7-inch screen's 600 lines; a fan on a 720p screen is about 600 wide


@dataclass(frozen=True)
class View:
    """`image`: uint8 [SIDE,SIDE], the fan letterboxed as the model's crop is, so that a nuchal map lies over it.
    `outline`: the fan's edge, (x, y) from 0 to 1 across the image."""

    image: np.ndarray = field(repr=False, compare=False)
    outline: tuple[tuple[float, float], ...]


def look(screen: np.ndarray, fan: Fan) -> View:
    """One screen, uint8 [H,W] or [H,W,1|3|4], and its fan -> View. About .5 ms of a 700x700 fan's CPU time."""
    image = prepare(to_screen(screen), fan, Preprocessing(SIDE))
    x0, y0, x1, y1 = fan.box
    side = max(x1 - x0, y1 - y0)
    left, top = x0 - (side - (x1 - x0)) / 2, y0 - (side - (y1 - y0)) / 2
    return View(image, tuple((round((x - left) / side, 4), round((y - top) / side, 4)) for x, y in outline(fan)))
