"""The picture that is kept with a flag: the picture in the fan, where the model looked, and what it says."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from edge.errors import StoreError
from edge.records import Scores

WORDS = "suspected nuchal collection: refer"
WITHHELD = "picture withheld: the fan's edge was not sure yet"
PANEL = 480  # pixels, side of each of the two panels: readable on a 7-inch screen, about 300 kB as PNG
BAND = 84  # pixels, height of the caption
HEAT_FLOOR = 0.2  # probability below which the nuchal map is not drawn: a tint over everything would hide the picture
HEAT_ALPHA = 0.55  # opacity of the heat where the map is 1


def heat_overlay(picture: np.ndarray, nuchal_map: np.ndarray, side: int) -> np.ndarray:
    """uint8 [S,S] and float [G,G] in [0,1] -> BGR uint8 [side,side,3]: the picture with the nuchal map as heat over it."""
    grey = picture if len(picture) == side else cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)
    base = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    heat = np.clip(cv2.resize(nuchal_map.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    colour = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    alpha = (HEAT_ALPHA * np.where(heat > HEAT_FLOOR, heat, 0.0))[..., None]
    return (base * (1.0 - alpha) + colour * alpha).astype(np.uint8)


NO_PLANE, NO_MAP = "views not told apart", "no nuchal map in this bundle"


def render_evidence(view: np.ndarray | None, scores: Scores, t_wall: str, exam_id: int, bundle: str) -> bytes:
    """view uint8 [S,S] (see `edge.screen.view`: nothing from outside the fan) -> PNG bytes. StoreError if it cannot be
    encoded.

    None stands for a picture that must not be kept, since where its fan ends is not sure.

    The PNG says so itself (`holds_no_patient`): whoever exports it years later claims no more than was known.

    Left the view as it is, right the same with the nuchal map, where the bundle has one, below the words, the score, the time
    (UTC) and the bundle.
    """
    if view is None:
        view = np.zeros((PANEL, PANEL), np.uint8)
        cv2.putText(view, WITHHELD, (14, PANEL // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 200, 1, cv2.LINE_AA)
    plain = cv2.cvtColor(cv2.resize(view, (PANEL, PANEL), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    caption = np.zeros((BAND, 2 * PANEL, 3), np.uint8)
    _write(caption, WORDS, 34, 0.95, (80, 170, 255))
    plane = NO_PLANE if scores.plane is None else f"plane {scores.plane:.3f}"
    detail = f"score {scores.hygroma:.3f}   {plane}   exam {exam_id}   {t_wall}   {bundle}"
    _write(caption, detail, 68, 0.5, (220, 220, 220))
    if scores.nuchal_map is None:
        beside = np.zeros_like(plain)
        _write(beside, NO_MAP, PANEL // 2, 0.5, (220, 220, 220))
    else:
        beside = heat_overlay(view, scores.nuchal_map, PANEL)
    picture = np.vstack([np.hstack([plain, beside]), caption])
    good, data = cv2.imencode(".png", picture)
    if not good:
        raise StoreError("the evidence image could not be encoded as PNG; this OpenCV lacks its PNG encoder")
    return _marked(data.tobytes())


def holds_no_patient(png: bytes) -> bool:
    """Whether an evidence image says that it shows nothing but a sure fan and our own words. Those of earlier versions, which
    took bars round a screen for its background, do not."""
    return _MARK in png[: _HEADER + len(_MARK)]


def _marked(png: bytes) -> bytes:
    """The PNG with `_MARK` behind its header chunk."""
    return png[:_HEADER] + _MARK + png[_HEADER:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk (PNG specification, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_HEADER = 8 + 25  # bytes of a PNG's signature and its first chunk, IHDR
_MARK = _chunk(b"tEXt", b"Burned In Annotation\0NO")


def _write(image: np.ndarray, text: str, baseline: int, size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(image, text, (14, baseline), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
