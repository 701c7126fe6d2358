"""Uniform bars around a scanner's screen are taken off before anything else is asked: any side, any level."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawing import LEFT, RIGHT, SCREEN, SECOND, SECTOR, among_bars, barred, iou, live, menu, screen, worn

from edge.records import Frame, Signal
from edge.screen.bars import inner_box
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing, to_grey
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still
from edge.screen.view import look

SPEC = Preprocessing(96)
FPS = 5.0
SHOWN = 17  # frames: 3.4 s, a second after the fan has settled
WHITE, CANARY = (255, 255, 255), 190  # grey level that no echo of these screens reaches, and all lettering does
LETTER = 10  # pixels of a view: a letter has more, the end of a ruler's tick beside the fan does not
# (size of the capture, box of the screen in it)
GEOMETRIES = {
    "letterbox": ((960, 720), (0, 90, 960, 630)),
    "5:4": ((960, 768), (0, 114, 960, 654)),
    "pillarbox": ((1200, 540), (120, 0, 1080, 540)),
    "underscan": ((1024, 576), (32, 18, 992, 558)),
    "a few pixels": ((976, 550), (8, 5, 968, 545)),
    "left": ((1080, 540), (120, 0, 1080, 540)),
    "top": ((960, 600), (0, 60, 960, 600)),
    "corner": ((1120, 640), (160, 100, 1120, 640)),
    "askew": ((1100, 640), (100, 12, 1060, 552)),
    "portrait": ((1080, 1920), (0, 656, 1080, 1264)),
}
SKINS = ("aurelia", "nordwelle", "kestrel", "mirador")


def lossy(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)


def read(images: list[np.ndarray], fps: float = FPS) -> list:
    reader = ScreenReader(SPEC)
    return [reader.read(Frame(i, int(i / fps * SECOND), image)) for i, image in enumerate(images)]


def check(fan, images, size, box, level, spoil=lambda image: image) -> None:
    """The fan is found as without bars, is sure in the end, and never was sure while it held anything else: no lettering,
    all of which is white, can be in a picture that is kept."""
    shown = [spoil(barred(image, size, box, level)) for image in images]
    readings = read(shown)
    truth, shape = among_bars(fan, box), (size[1], size[0])
    assert readings[-1].signal is Signal.OK and readings[-1].settled
    assert iou(readings[-1].fan, truth, shape) > 0.95
    allowed = cv2.dilate(rasterise(truth, (0, 0, *size)).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    for reading, image in zip(readings, shown, strict=True):
        if reading.settled and reading.fan is not None:
            assert not (rasterise(reading.fan, (0, 0, *size)) & ~allowed).any()
            assert np.count_nonzero(look(image, reading.fan).image >= CANARY) < LETTER


@pytest.mark.requirement("T-06")
@pytest.mark.parametrize("skin", SKINS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_bar_geometry_on_every_skin(name, skin):
    fan, images = worn(skin, SHOWN, lettering=WHITE)
    size, box = GEOMETRIES[name]
    check(fan, images, size, box, level=(0, 16, 44, 128)[(SKINS.index(skin) + len(name)) % 4])


@pytest.mark.requirement("T-06")
@pytest.mark.parametrize("seed", range(12))
def test_bars_drawn_by_chance(seed):
    """Any sides, widths, level and skin; clean, through a codec, or with the noise of an analog cable."""
    rng = np.random.default_rng([seed, 22])
    left, top, right, bottom = (int(rng.integers(0, 260)) * int(rng.integers(0, 2)) for _ in range(4))
    k = float(rng.uniform(0.6, 1.0))
    w, h = round(SCREEN[1] * k), round(SCREEN[0] * k)
    fan, images = worn(SKINS[seed % 4], SHOWN, seed, lettering=WHITE)
    noise = np.random.default_rng(seed)
    spoil = (
        lambda image: image,
        lossy,
        lambda image: np.clip(image + noise.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8),
    )[seed % 3]
    size, box = (left + w + right, top + h + bottom), (left, top, left + w, top + h)
    check(fan, images, size, box, int(rng.choice([0, 2, 16, 30, 90, 235])), spoil)


def test_bars_within_bars():
    """An underscanned screen in a letterboxed capture: grey in black."""
    fan, images = worn("kestrel", SHOWN)
    size, box = GEOMETRIES["underscan"]
    grey = [barred(image, size, box, 60) for image in images]
    readings = read([barred(image, (1024, 768), (0, 96, 1024, 672)) for image in grey])
    truth = among_bars(fan, (box[0], box[1] + 96, box[2], box[3] + 96))
    assert readings[-1].settled and iou(readings[-1].fan, truth, (768, 1024)) > 0.95


@pytest.mark.requirement("T-06")
@pytest.mark.parametrize("skin", ["kestrel", "aurelia"])
@pytest.mark.parametrize("blur", [15, 40])
def test_bars_filled_with_the_blurred_screen_leak_no_lettering(skin: str, blur: int) -> None:
    """As televisions and telephones fill them. They are no uniform bars and may cost the picture, but not the name."""
    size, (x0, y0, x1, y1) = (1280, 960), (160, 150, 1120, 690)
    _, images = worn(skin, SHOWN, lettering=WHITE)
    shown = []
    for image in images:
        small = cv2.GaussianBlur(cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA), (0, 0), blur / 4)  # a quarter
        filled = cv2.resize(small, size)
        filled[y0:y1, x0:x1] = cv2.resize(image, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        shown.append(filled)
    for reading, image in zip(read(shown), shown, strict=True):
        if reading.settled and reading.fan is not None:
            assert np.count_nonzero(look(image, reading.fan).image >= CANARY) < LETTER


@pytest.mark.parametrize("level", [0, 16, 90])
def test_what_a_screen_shows_is_told_through_bars(level):
    size, box = GEOMETRIES["letterbox"]
    dual = [screen(np.random.default_rng(i), LEFT, RIGHT, background=12) for i in range(8)]
    for images, told in (([menu()] * 12, Signal.MENU), (dual * 2, Signal.DUAL)):
        readings = read([barred(image, size, box, level) for image in images])
        assert readings[-1].signal is told and readings[-1].fan is None


@pytest.mark.parametrize("level", [0, 16, 90])
@pytest.mark.parametrize("kind", ["blue", "bars"])
def test_a_grabber_without_signal_is_told_through_bars(kind, level):
    skins = pytest.importorskip("calibration.phantom.skins")
    size, box = GEOMETRIES["letterbox"]
    image = barred(skins.no_signal(kind), size, box, level)
    assert read([image])[0].signal is Signal.NO_SIGNAL
    assert read_still(image, SPEC).signal is Signal.NO_SIGNAL


@pytest.mark.parametrize("name", ["letterbox", "pillarbox", "askew"])
def test_a_still_of_a_whole_screen(name):
    """`hygroma score` on a screenshot."""
    size, box = GEOMETRIES[name]
    for level, background in ((0, 12), (16, 0), (60, 30)):
        image = screen(np.random.default_rng(3), SECTOR, background=background)
        reading = read_still(barred(image, size, box, level), SPEC)
        assert reading.signal is Signal.OK and iou(reading.fan, among_bars(SECTOR, box), (size[1], size[0])) > 0.95


def test_a_black_screen_loses_nothing():
    """A fan cut close on black, text on black, and bars of the background's own black: the box is the whole picture, or
    holds all that stands on it."""
    close = live(1, furniture=False)[0][40:661, 312:969]
    for image in (close, live(1)[0], barred(live(1)[0], *GEOMETRIES["letterbox"])):
        assert inner_box(to_grey(image)) == (0, 0, image.shape[1], image.shape[0])


def test_a_picture_that_reaches_to_its_bars_keeps_them():
    """No screen, but a clip of speckle alone in a letterbox: the bars are its only background."""
    rng = np.random.default_rng(5)
    size, box = GEOMETRIES["letterbox"]
    image = barred(rng.rayleigh(40, (*SCREEN, 3)).clip(0, 255).astype(np.uint8), size, box, 16)
    assert inner_box(to_grey(image)) == (0, 0, *size)


def test_a_title_bar_is_no_bar():
    image = live(1)[0]
    image[:60] = 58
    cv2.putText(image, "Philips-like title", (80, 44), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2)
    assert inner_box(to_grey(image))[1] == 0
