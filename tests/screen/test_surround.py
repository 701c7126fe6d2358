"""Only a menu for sure ends an exam: a picture gone dark and a notice do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawing import SCREEN, frames, live, menu, screen

from edge.records import Reading, Signal
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader


def after_live(images: list[np.ndarray]) -> list[Reading]:
    reader = ScreenReader(Preprocessing())
    return [reader.read(frame) for frame in frames([*live(30), *images])][30:]


def wandering_logo(colour: int) -> list[np.ndarray]:
    out = []
    for i in range(30):
        image = np.full((*SCREEN, 3), colour, np.uint8)
        cv2.rectangle(image, (100 + 20 * i, 80 + 12 * i), (480 + 20 * i, 260 + 12 * i), (40, 120, 220), -1)
        cv2.putText(image, "NO SIGNAL", (110 + 20 * i, 190 + 12 * i), 0, 1.8, (250, 250, 250), 4)
        out.append(image)
    return out


@pytest.mark.requirement("H-04")
@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_picture_gone_dark_on_the_same_screen_is_no_menu_for_sure(level: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, level + 1, SCREEN, np.uint8)
    told = after_live([np.asarray(cv2.add(screen(rng), np.repeat(noise[..., None], 3, 2)))] * 30)
    assert not [reading for reading in told if reading.signal is Signal.MENU and not reading.doubtful]


@pytest.mark.requirement("H-04")
@pytest.mark.parametrize("colour", [0, 60])
def test_a_wandering_notice_is_no_menu_for_sure(colour: int) -> None:
    told = after_live(wandering_logo(colour))
    assert not [reading for reading in told if reading.signal is Signal.MENU and not reading.doubtful]


def test_a_patient_list_is_a_menu_for_sure() -> None:
    told = after_live([menu()] * 30)
    assert {(reading.signal, reading.doubtful) for reading in told[5:]} == {(Signal.MENU, False)}


def test_with_nothing_seen_before_a_menu_is_one() -> None:
    reader = ScreenReader(Preprocessing())
    told = [reader.read(frame) for frame in frames([menu()] * 5)]
    assert {(reading.signal, reading.doubtful) for reading in told} == {(Signal.MENU, False)}
