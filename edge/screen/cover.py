"""Is a window of the interface open over the picture? A notification hides what lies below it, and is no picture itself.

Its ground is one even grey, brighter than fluid, in the form of a box. What shows it is not scored: a collection may be
hidden below it, and nobody can say that the picture was clean.
"""

from __future__ import annotations

import cv2
import numpy as np

EVEN_LEVELS = 3  # grey levels within 3x3 samples of a window's ground: none, after a codec
FLUID_LEVEL = 26  # grey level up to which an even area may be fluid or shadow, cut off by the gain
COVER_SHARE = 0.02  # of the fan's samples: a smaller window hides less than a limb
BOX_FILL = 0.8  # of its bounding box that a window fills once its lettering is closed; saturated tissue is ragged


def is_covered(grey: np.ndarray, inside: np.ndarray) -> bool:
    """uint8 samples [h,w] of the fan's box, bool [h,w]: does a drawn window cover a piece of the fan?"""
    kernel = np.ones((3, 3), np.uint8)
    even = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, kernel) <= EVEN_LEVELS
    ground = (even & (grey > FLUID_LEVEL) & inside).astype(np.uint8)
    least = COVER_SHARE * np.count_nonzero(inside)
    if np.count_nonzero(ground) < least:
        return False  # speckle has next to no even samples: the usual case
    reach = max(3, int(0.05 * max(grey.shape)) | 1)  # lettering's lines are nearer to each other
    closed = cv2.morphologyEx(ground, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    boxes = stats[1:, cv2.CC_STAT_WIDTH] * stats[1:, cv2.CC_STAT_HEIGHT]
    return bool(((areas >= least) & (areas >= BOX_FILL * boxes)).any())
