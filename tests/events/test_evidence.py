"""The evidence image shows the crop untouched beside the crop with its nuchal map, and the words below."""

from __future__ import annotations

import cv2
import numpy as np

from edge.events.evidence import BAND, PANEL, heat_overlay, render_evidence
from edge.records import Scores


def test_evidence_shows_crop_heat_and_words() -> None:
    crop = np.full((96, 96), 90, np.uint8)
    nuchal = np.zeros((6, 6), np.float32)
    nuchal[0, 0] = 1.0
    data = render_evidence(crop, Scores(0.9, 0.95, 0.1, nuchal), "2026-11-23T10:00:00Z", 3, "student 0.1.0")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (PANEL + BAND, 2 * PANEL, 3)
    assert (picture[:PANEL, :PANEL] == 90).all()
    right = picture[:PANEL, PANEL:]
    assert (right[PANEL // 2 :, PANEL // 2 :] == 90).all()
    assert (right[:10, :10] != 90).any(axis=-1).all()
    assert picture[PANEL:].max() > 200


def test_heat_overlay_takes_any_float_map_and_leaves_its_inputs() -> None:
    crop, nuchal = np.full((8, 8), 50, np.uint8), np.array([[-1.0, 2.0]], np.float64)
    picture = heat_overlay(crop, nuchal, 32)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert (crop == 50).all() and nuchal.tolist() == [[-1.0, 2.0]]
