"""Screens in any language and theme, and what comes over the picture: each is told for what it is. Letters are drawn as strokes
in the manner of a script, so that no font is needed and no language can be known."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from drawing import RECT, SCREEN, SECOND, SECTOR, among_bars, barred, iou, live, screen, worn

from edge.records import Fan, Frame, Signal
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still

SPEC = Preprocessing(96)
FPS = 6.0
SCRIPTS = ("devanagari", "chinese", "arabic", "spanish")
THEMES = {  # (ground, ink, panel)
    "black": ((0, 0, 0), (220, 220, 220), (40, 40, 40)),
    "dark": ((30, 26, 24), (220, 220, 220), (60, 54, 50)),
    "mid": ((120, 120, 120), (250, 250, 250), (90, 90, 90)),
    "light": ((245, 245, 245), (20, 20, 20), (215, 215, 215)),
}


def letter(image, x, y, h, ink, script, rng) -> None:
    """One letter of height `h`, its baseline at (x, y)."""
    thick = max(1, h // 10)
    if script == "devanagari":  # hung from a line
        cv2.line(image, (x, y - h), (x + h, y - h), ink, thick + 1)
        cv2.line(image, (x + h * 2 // 3, y - h), (x + h * 2 // 3, y), ink, thick)
        cv2.ellipse(image, (x + h // 3, y - h // 2), (h // 4, h // 5), 0, int(rng.integers(0, 180)), 320, ink, thick)
    elif script == "chinese":  # a square of bars
        for _ in range(3):
            at = y - int(rng.integers(0, h))
            cv2.line(image, (x, at), (x + h - 3, at), ink, thick)
        for _ in range(2):
            at = x + int(rng.integers(0, h - 2))
            cv2.line(image, (at, y - h), (at, y), ink, thick)
    elif script == "arabic":  # bowls and dots
        cv2.ellipse(image, (x + h // 2, y - h // 4), (h // 2, h // 3), 0, 0, 180, ink, thick)
        cv2.circle(image, (x + h // 2, y - h // 2 - int(rng.integers(0, h // 2))), thick, ink, -1)
    else:
        cv2.putText(image, "aeionSLR"[int(rng.integers(0, 8))], (x, y), 0, h / 24, ink, thick, cv2.LINE_AA)
        if rng.random() < 0.3:
            cv2.line(image, (x + h // 3, y - h), (x + h // 2, y - h - 3), ink, thick)  # an accent


def write(image, x, y, h, letters, ink, script, rng) -> None:
    for i in range(letters):
        letter(image, x + i * (h if script == "devanagari" else h + 2), y, h, ink, script, rng)


def page(kind: str, script: str, theme: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    ground, ink, panel = THEMES[theme]
    image = np.full((*SCREEN, 3), ground, np.uint8)
    if kind == "form":
        image[:54] = panel
        for i in range(9):
            write(image, 60, 120 + 64 * i, 22, 12, ink, script, rng)
            cv2.rectangle(image, (500, 92 + 64 * i), (1150, 136 + 64 * i), panel, -1)
            write(image, 520, 124 + 64 * i, 20, 8, ink, script, rng)
    elif kind == "report":
        for i in range(24):
            write(image, 60, 40 + 28 * i, 16, int(rng.integers(20, 60)), ink, script, rng)
    elif kind == "read-out":
        for i in range(14):
            for x in (60, 360, 660, 960):
                write(image, x, 60 + 46 * i, 18, int(rng.integers(4, 11)), ink, script, rng)
            cv2.line(image, (40, 70 + 46 * i), (1240, 70 + 46 * i), panel, 1)
    else:
        for i in range(50):
            x, y = 60 + 118 * (i % 10), 200 + 96 * (i // 10)
            cv2.rectangle(image, (x, y), (x + 105, y + 84), panel, -1)
            letter(image, x + 35, y + 56, 28, ink, script, rng)
    return image


def read(images: list[np.ndarray], fps: float = FPS) -> list:
    reader = ScreenReader(SPEC)
    return [reader.read(Frame(i, int(i / fps * SECOND), image)) for i, image in enumerate(images)]


@pytest.mark.requirement("T-12")
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("kind", ["form", "report", "read-out", "keyboard"])
def test_a_page_in_any_script_is_a_menu(kind, theme):
    for script in SCRIPTS:
        image = page(kind, script, theme)
        typed = [image.copy() for _ in range(6)]
        for i, shown in enumerate(typed):  # somebody types
            write(shown, 520, 124, 20, 8 + i, THEMES[theme][1], script, np.random.default_rng(4))
            cv2.rectangle(shown, (700 + 20 * i, 100), (706 + 20 * i, 128), THEMES[theme][1], -1)
        for reading in (*read([image] * 3 + typed), read_still(image, SPEC)):
            assert reading.signal is Signal.MENU and reading.fan is None, script


@cache
def interface(theme: str, script: str) -> np.ndarray:
    """A screen without its picture: one ground, a slow change of greys, or panels of several."""
    height, width = SCREEN
    if theme == "gradient":
        out = np.broadcast_to(np.linspace(20, 90, height)[:, None, None], (height, width, 3)).astype(np.uint8)
        ink = (230, 230, 230)
    elif theme == "panels":
        out, ink = np.zeros((height, width, 3), np.uint8), (128, 128, 128)
        out[:60], out[660:], out[:, :150], out[:, 1130:] = 220, 60, 40, 240
    else:
        out, ink = np.full((height, width, 3), THEMES[theme][0], np.uint8), THEMES[theme][1]
    out, rng = np.ascontiguousarray(out), np.random.default_rng(2)
    for y in range(30, height, 40):
        for x in (8, 1140):
            write(out, x, y, 16, 7, ink, script, rng)
    for x in range(200, 1000, 200):
        write(out, x, 26, 16, 9, ink, script, rng)
    return out


def themed(images: list[np.ndarray], fan: Fan, theme: str, script: str) -> list[np.ndarray]:
    """The pictures in an interface of that theme."""
    inside = rasterise(fan, (0, 0, SCREEN[1], SCREEN[0])).astype(np.uint8)
    return [cv2.copyTo(image, inside, interface(theme, script).copy()) for image in images]


@pytest.mark.requirement("T-06", "T-12")
@pytest.mark.parametrize("bars", [None, 0, 90], ids=["no bars", "black bars", "grey bars"])
@pytest.mark.parametrize("theme", [*THEMES, "gradient", "panels"])
def test_a_fan_in_any_theme_is_found_and_nothing_else_is_ever_sure(theme, bars):
    which = [*THEMES, "gradient", "panels"].index(theme)
    fan, images = worn(("aurelia", "nordwelle", "kestrel", "mirador")[which % 4], 21)
    images = themed(images, fan, theme, SCRIPTS[which % 4])
    truth, shape = fan, SCREEN
    if bars is not None:
        size, box = (1280, 1024), (0, 152, 1280, 872)
        images, truth, shape = [barred(image, size, box, bars) for image in images], among_bars(fan, box), (1024, 1280)
    readings = read(images)
    assert readings[-1].signal is Signal.OK and readings[-1].settled and iou(readings[-1].fan, truth, shape) > 0.95
    for reading in readings:
        assert not reading.settled or reading.fan is None or iou(reading.fan, truth, shape) > 0.95


@pytest.mark.requirement("T-06")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_picture_to_the_screens_edges_is_never_sure_while_lettering_lies_in_it(script):
    """Nothing tells then where the interface ends. Without lettering it is sure."""
    full = Fan("rect", (0, 0, SCREEN[1], SCREEN[0]))
    plain = live(18, full, furniture=False)
    assert read(plain)[-1].settled
    lettered = [image.copy() for image in plain]
    for image in lettered:
        write(image, 60, 40, 16, 12, (240, 240, 240), script, np.random.default_rng(1))
    assert not any(reading.settled and reading.fan is not None for reading in read(lettered))


@pytest.mark.requirement("T-12")
def test_a_pointer_over_the_fan_changes_nothing():
    images = live(20)
    for i, image in enumerate(images):
        at = np.array([500 + 8 * i, 300])
        cv2.fillPoly(image, [at + np.array([[0, 0], [0, 30], [20, 22]])], (255, 255, 255))
    readings = read(images)
    assert {reading.signal for reading in readings} == {Signal.OK} and all(r.crop is not None for r in readings)
    assert readings[-1].settled and iou(readings[-1].fan, SECTOR) > 0.97


@pytest.mark.requirement("T-06", "T-12")
@pytest.mark.parametrize("ground", [(250, 250, 250), (60, 54, 50), (40, 40, 40), (120, 120, 120)])
@pytest.mark.parametrize("box", [(520, 260, 780, 400), (560, 480, 900, 600)])
def test_a_notification_over_the_fan_is_neither_scored_nor_shown(ground, box):
    """What it hides nobody can judge. The exam goes on: it is no menu."""
    images, ink = live(34), (0, 0, 0) if ground[0] > 100 else (255, 255, 255)
    for image in images[15:24]:
        cv2.rectangle(image, box[:2], box[2:], ground, -1)
        for k in range(3):
            write(image, box[0] + 20, box[1] + 40 + 34 * k, 20, 8, ink, SCRIPTS[k], np.random.default_rng(k))
    readings = read(images)
    assert {reading.signal for reading in readings} == {Signal.OK} and not any(r.layout_changed for r in readings)
    assert all(r.crop is None and not r.settled for r in readings[15:24])
    assert all(r.crop is not None for r in (*readings[:15], *readings[24:])) and readings[-1].settled


def logo(i: int, width: int, height: int) -> np.ndarray:
    image = np.zeros((*SCREEN, 3), np.uint8)
    x, y = (abs(step * i % (2 * room) - room) for step, room in ((37, 1280 - width), (23, 720 - height)))
    cv2.rectangle(image, (x, y), (x + width, y + height), (200, 90, 30), -1)
    cv2.putText(image, "NO SIGNAL", (x + 10, y + height // 2), 0, width / 240, (255, 255, 255), 2)
    return image


@pytest.mark.requirement("T-12")
@pytest.mark.parametrize("size", [(180, 80), (260, 160), (420, 260)])
def test_a_moving_no_signal_logo_is_no_signal(size):
    assert {reading.signal for reading in read([logo(i, *size) for i in range(20)])} == {Signal.NO_SIGNAL}


def saver(kind: str) -> list[np.ndarray]:
    y, x = np.mgrid[0 : SCREEN[0], 0 : SCREEN[1]].astype(np.float32)
    photo = cv2.resize(np.random.default_rng(5).integers(0, 255, (24, 40, 3)).astype(np.uint8), (1500, 900),
                       interpolation=cv2.INTER_CUBIC)  # fmt: skip
    out = []
    for i in range(16):
        image, rng = np.zeros((*SCREEN, 3), np.uint8), np.random.default_rng(3)
        if kind == "lines":
            for _ in range(30):
                a, b, c, d = (rng.uniform(0, 1, 4) + 0.01 * i) % 1
                ends = (int(a * 1280), int(b * 720)), (int(c * 1280), int(d * 720))
                cv2.line(image, *ends, tuple(int(v) for v in rng.integers(80, 255, 3)), 2)
        elif kind == "stars":
            for _ in range(300):
                angle, r = rng.uniform(0, 6.28), (rng.uniform(0, 1) + 0.03 * i) % 1 * 700
                at = int(640 + r * np.cos(angle)), int(360 + r * np.sin(angle))
                cv2.circle(image, at, 1 + int(r / 300), (255, 255, 255), -1)
        elif kind == "clock":
            cv2.putText(image, f"12:{34 + i // 10}", (100 + 20 * i, 300 + 5 * i), 0, 5, (230, 230, 230), 12)
        elif kind == "plasma":
            waves = (x / 90 + 0.3 * i, y / 70 + 0.2 * i, (x + y) / 110 - 0.25 * i)
            image = np.stack([127 + 120 * np.sin(wave) for wave in waves], 2).astype(np.uint8)
        else:
            image = np.ascontiguousarray(photo[3 * i : 3 * i + 720, 4 * i : 4 * i + 1280])
        out.append(image)
    return out


@pytest.mark.requirement("T-12")
@pytest.mark.parametrize("kind", ["lines", "stars", "clock", "plasma", "photo"])
def test_a_screensaver_is_never_a_picture(kind):
    for reading in read(saver(kind)):
        assert reading.signal in (Signal.MENU, Signal.NO_SIGNAL) and reading.fan is None


@pytest.mark.requirement("T-12")
@pytest.mark.parametrize("skin", ["nordwelle", "kestrel"])
def test_a_gain_turned_down_is_no_menu(skin):
    """The screen around the fan is still the one that it was."""
    fan, images = worn(skin, 42)
    inside, rng = rasterise(fan, (0, 0, SCREEN[1], SCREEN[0])), np.random.default_rng(1)
    for image in images[16:30]:
        image[inside] = rng.integers(0, 3, (int(inside.sum()), 1))
    readings = read(images)
    assert {reading.signal for reading in readings} <= {Signal.OK, Signal.FROZEN} and readings[-1].signal is Signal.OK
    assert not any(r.layout_changed for r in readings) and iou(readings[-1].fan, fan) > 0.95


def test_a_form_that_comes_while_the_gain_is_down_is_a_menu():
    fan, images = worn("kestrel", 24)
    inside = rasterise(fan, (0, 0, SCREEN[1], SCREEN[0]))
    for image in images[16:]:
        image[inside] = 1
    assert read([*images, *[page("form", "arabic", "dark")] * 8])[-1].signal is Signal.MENU


@pytest.mark.requirement("T-12")
@pytest.mark.parametrize("shape", [(2160, 3840), (1920, 1080)], ids=["4K", "portrait"])
def test_4k_and_portrait_give_the_same_fan(shape):
    fan = Fan("sector", (131, 60, 809, 781), (470.0, -100.0), 180.0, 880.0, -0.4, 0.4)
    k = 1.0 if shape[1] == 1080 else 2.4
    big = Fan("sector", tuple(round(v * k) for v in fan.box), (fan.apex[0] * k, fan.apex[1] * k), 180 * k, 880 * k, -0.4, 0.4)
    readings = read([screen(np.random.default_rng(i), big, shape=shape) for i in range(8)], fps=3.0)
    assert readings[-1].signal is Signal.OK and iou(readings[-1].fan, big, shape) > 0.96
    assert readings[-1].settled and readings[-1].fan.kind == "sector"


def test_a_rectangle_beside_lettering_that_touches_no_edge_stays_sure():
    assert read(live(18, RECT))[-1].settled
