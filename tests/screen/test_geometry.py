import cv2
import numpy as np
import pytest
from drawing import RECT, SECTOR, ZOOM, screen, speckle

from edge.records import Fan
from edge.screen.geometry import fan_mask, full_fan, outline, rasterise, scaled, screen_iou, sector_bounds
from edge.screen.preprocess import Preprocessing, letterbox, prepare
from edge.screen.view import SIDE, look


def test_mask_area_is_the_sectors_area():
    mask = rasterise(SECTOR, (0, 0, 1280, 720))
    area = (SECTOR.a1 - SECTOR.a0) / 2 * (SECTOR.r1**2 - SECTOR.r0**2)
    assert mask.sum() == pytest.approx(area, rel=0.005)


def test_mask_of_a_box_is_a_window_of_the_whole():
    whole = rasterise(ZOOM, (0, 0, 1280, 720))
    x0, y0, x1, y1 = ZOOM.box
    assert np.array_equal(fan_mask(ZOOM, ZOOM.box), whole[y0:y1, x0:x1])
    assert whole.sum() == whole[y0:y1, x0:x1].sum()


def test_cached_mask_cannot_be_written():
    with pytest.raises(ValueError):
        fan_mask(SECTOR, SECTOR.box)[0, 0] = True


def test_bounds_hold_the_arc_and_both_ends():
    (x0, x1), (y0, y1) = sector_bounds(-0.5, 0.3, 100.0, 400.0)
    assert y1 == 400.0 and y0 == pytest.approx(100 * np.cos(0.5))
    assert x0 == pytest.approx(-400 * np.sin(0.5)) and x1 == pytest.approx(400 * np.sin(0.3))


def test_iou_of_a_fan_with_itself_and_with_another():
    assert screen_iou(SECTOR, SECTOR) == 1.0
    assert screen_iou(RECT, Fan("rect", (300, 70, 640, 650))) == pytest.approx(0.5, abs=0.01)
    assert screen_iou(scaled(SECTOR, 0.5), SECTOR) < 0.6


@pytest.mark.parametrize("fan", [SECTOR, ZOOM, RECT, full_fan((720, 1280))])
@pytest.mark.parametrize("size", [160, 192, 225])
def test_prepare_gives_a_square_of_bytes_with_the_aspect_kept(fan, size):
    image = np.full((720, 1280, 3), 200, np.uint8)
    crop = prepare(image, fan, Preprocessing(size=size, pad=7))
    assert crop.shape == (size, size) and crop.dtype == np.uint8
    width, height = fan.box[2] - fan.box[0], fan.box[3] - fan.box[1]
    rows, columns = (np.flatnonzero((crop > 100).any(axis=a)).size for a in (1, 0))
    assert columns / rows == pytest.approx(width / height, rel=0.03)
    assert crop[0, 0] == 7 or fan.kind != "sector"


def test_letterbox_pads_evenly():
    out = letterbox(np.full((100, 200), 50, np.uint8), Preprocessing(size=64, pad=3))
    assert (out[:16] == 3).all() and (out[48:] == 3).all() and (out[16:48] == 50).all()


@pytest.mark.parametrize("fan", [SECTOR, ZOOM, RECT])
@pytest.mark.requirement("T-06")
def test_canary_nothing_outside_the_fan_reaches_the_crop(fan):
    rng = np.random.default_rng(3)
    clean = screen(rng, fan, furniture=False, picture=speckle(rng))
    inside = rasterise(fan, (0, 0, 1280, 720))
    spoiled = clean.copy()
    spoiled[~inside] = rng.integers(0, 256, (int((~inside).sum()), 3), dtype=np.uint8)
    assert np.array_equal(prepare(clean, fan, Preprocessing()), prepare(spoiled, fan, Preprocessing()))


@pytest.mark.parametrize("box", [(20, 10, 220, 190), (20, 10, 150, 150), (60, 40, 220, 160)])
def test_the_outline_is_the_edge_of_the_mask(box: tuple[int, int, int, int]) -> None:
    fan = Fan("sector", box, (120.0, -20.0), 50.0, 190.0, -0.6, 0.7)
    filled = np.zeros((200, 240), np.uint8)
    cv2.fillPoly(filled, [np.round(outline(fan)).astype(np.int32)], 1)
    mask = rasterise(fan, (0, 0, 240, 200))
    assert (mask & (filled > 0)).sum() / (mask | (filled > 0)).sum() > 0.96
    assert outline(Fan("rect", (1, 2, 3, 4))) == [(1, 2), (3, 2), (3, 4), (1, 4)]


@pytest.mark.requirement("T-06")
def test_a_view_holds_the_fan_alone_and_its_outline_lies_on_it() -> None:
    fan = Fan("sector", (20, 10, 220, 190), (120.0, -20.0), 50.0, 190.0, -0.6, 0.6)
    view = look(np.where(rasterise(fan, (0, 0, 240, 200)), 120, 255).astype(np.uint8), fan)
    assert view.image.shape == (SIDE, SIDE) and view.image.max() <= 120
    shape = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(shape, [np.round(np.array(view.outline) * SIDE).astype(np.int32)], 1)
    assert ((view.image > 60) == (shape > 0)).mean() > 0.985
