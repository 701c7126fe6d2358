"""What a scanner draws around and over the picture of a still, and that an edit of the tissue must not move."""

from __future__ import annotations

import cv2
import numpy as np

BLACK = 5  # grey levels: a screen's black after JPEG
MIN_SCREEN = 0.003  # of the picture: smaller black patches are shadow or fluid
STRAIGHT_PX = 30.0  # mean length of a border's straight pieces: a screen's are longer, fluid's shorter
FLAT = 3.0  # grey levels, standard deviation of a row that holds no picture: JPEG leaves .6 to 2.4
STEP = 10  # grey levels between neighbours across an inset's frame


def fixed_screen(grey: np.ndarray) -> np.ndarray:
    """bool [H,W]: what is drawn by the screen and does not move with the tissue: the black around the fan, told from fluid by
    its straight border, and insets in a corner, told by their frame."""
    height, width = grey.shape
    black = (cv2.medianBlur(grey, 5) <= BLACK).astype(np.uint8)
    out = np.zeros(grey.shape, bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(black)
    for label in range(1, count):
        x, y, w, h, area = stats[label]
        at_edge = x == 0 or y == 0 or x + w == width or y + h == height
        if at_edge and area >= MIN_SCREEN * grey.size and _straight(labels == label):
            out |= labels == label
    return out | _strips(grey) | _insets(grey)


def _strips(grey: np.ndarray) -> np.ndarray:
    """bool [H,W]: rows and columns at the picture's edges that hold one grey level: the screen beside the picture."""
    height, width = grey.shape
    rows, columns = grey.std(1) < FLAT, grey.std(0) < FLAT
    out = np.zeros(grey.shape, bool)
    for flat, part in ((rows, out), (rows[::-1], out[::-1]), (columns, out.T), (columns[::-1], out.T[::-1])):
        end = int(np.argmin(flat))  # the first that is not flat; one more is a blend of both
        if 0 < end < len(flat) // 4:
            part[: end + 1] = True
    return out


def _straight(region: np.ndarray) -> bool:
    """Whether a region's border inside the picture is made of long straight pieces. bool [H,W]."""
    height, width = region.shape
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = cv2.approxPolyDP(max(contours, key=cv2.contourArea), 2.5, True)[:, 0]
    pieces = []
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, 0), strict=True):
        along_edge = xa == xb and xa in (0, width - 1) or ya == yb and ya in (0, height - 1)
        if not along_edge:
            pieces.append(float(np.hypot(xb - xa, yb - ya)))
    return not pieces or float(np.mean(pieces)) >= STRAIGHT_PX


def _insets(grey: np.ndarray) -> np.ndarray:
    """bool [H,W]: rectangles in the lower corners whose upper and inner sides are steps along a whole row and column."""
    height, width = grey.shape
    out = np.zeros(grey.shape, bool)
    for mirrored in (False, True):
        image = grey[:, ::-1] if mirrored else grey
        rows = np.abs(np.diff(image.astype(np.int16), axis=0)) > STEP
        columns = np.abs(np.diff(image.astype(np.int16), axis=1)) > STEP
        for y in range(height // 2, height - 24):
            run = _run_to_end(rows[y])
            if not 40 <= run <= width // 2:
                continue
            beside = columns[y + 2 :, max(0, width - run - 5) : width - run + 4].any(1)
            if beside.mean() > 0.7:
                out[y:, slice(0, run + 2) if mirrored else slice(width - run - 2, width)] = True
                break
    return out


def _run_to_end(steps: np.ndarray) -> int:
    """Length of the run at the end of a row of bool in which at least four of five are set."""
    share = np.cumsum(steps[::-1]) / np.arange(1, len(steps) + 1)
    good = np.flatnonzero((share >= 0.8) & steps[::-1])
    return int(good[-1]) + 1 if len(good) else 0
