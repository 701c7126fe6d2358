from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawing import LEFT, RECT, RIGHT, SECTOR, ZOOM, frames, iou, screen, speckle

from edge.records import Fan, Signal
from edge.screen.fan import background_level, find_two, gather, judge
from edge.screen.fit import fitting
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing, to_grey
from edge.screen.reader import ScreenReader
from edge.screen.steps import finish

DATA = Path(__file__).parents[3] / "shared/data/ultrasound"
STEERED = Fan("sector", (300, 60, 980, 700), (560.0, -200.0), 260.0, 860.0, -0.28, 0.42)


def find_fan(image: np.ndarray) -> Fan | None:
    """One screen, uint8 grey [H,W] or BGR [H,W,3] -> its fan, or None."""
    fit = judge(image, gather(to_grey(image)))
    return fit.fan if fit is not None else None


@pytest.mark.parametrize(("fan", "least"), [(SECTOR, 0.97), (ZOOM, 0.97), (RECT, 0.98), (STEERED, 0.96)])
@pytest.mark.parametrize("background", [0, 12, 48])
def test_finds_the_fan_among_text_and_rulers(fan, least, background):
    rng = np.random.default_rng(11)
    image = screen(rng, fan, background=background)
    found = find_fan(image)
    assert found is not None and found.kind == fan.kind
    assert iou(found, fan) >= least


def test_fluid_belongs_to_the_fan():
    rng = np.random.default_rng(5)
    picture = speckle(rng)
    cv2.ellipse(picture, (640, 300), (210, 120), 0, 0, 360, 0, -1)
    assert iou(find_fan(screen(rng, SECTOR, picture=picture)), SECTOR) >= 0.96


def test_grey_input_gives_the_same_fan():
    image = screen(np.random.default_rng(2), SECTOR)
    assert find_fan(image) == find_fan(to_grey(image))


@pytest.mark.parametrize("shape", [(1080, 1920), (480, 640), (2160, 3840)])
def test_other_resolutions(shape):
    k = shape[0] / 720
    fan = Fan("rect", (int(250 * k), int(70 * k), int(760 * k), int(650 * k)))
    assert iou(find_fan(screen(np.random.default_rng(1), fan, shape=shape)), fan, shape) >= 0.97


def test_a_screen_without_picture_has_no_fan():
    assert find_fan(screen(np.random.default_rng(1))) is None
    assert find_fan(np.zeros((720, 1280), np.uint8)) is None


def test_two_fans_are_told_from_one_split_by_fluid():
    rng = np.random.default_rng(4)
    two = find_two(gather(to_grey(screen(rng, LEFT, RIGHT))))
    assert two is not None and iou(two[0], LEFT) > 0.97 and iou(two[1], RIGHT) > 0.97
    picture = speckle(rng)
    wave = (640 + 60 * np.sin(np.arange(720) / 40)).astype(int)
    for y, x in enumerate(wave):
        picture[y, x - 45 : x + 45] = 0
    assert find_two(gather(to_grey(screen(rng, SECTOR, picture=picture)))) is None


@pytest.mark.parametrize("band", [60, 90, 120])
def test_a_straight_band_of_fluid_leaves_one_fan(band):
    picture = speckle(np.random.default_rng(4))
    picture[:, 640 - band // 2 : 640 + band // 2] = 0
    assert find_two(gather(to_grey(screen(np.random.default_rng(4), SECTOR, picture=picture)))) is None


def test_two_steered_pictures_are_two():
    """Each one's apex is far from its middle, but to the same side."""
    left = Fan("sector", (90, 120, 600, 620), (170.0, -130.0), 260.0, 740.0, -0.10, 0.55)
    right = replace(left, box=(680, 120, 1190, 620), apex=(760.0, -130.0))
    two = find_two(gather(to_grey(screen(np.random.default_rng(4), left, right))))
    assert two is not None and iou(two[0], left) > 0.95 and iou(two[1], right) > 0.95


@pytest.mark.parametrize(("size", "least"), [(0, 0.0), (30, 0.98)])
def test_a_small_island_that_moves_stretches_the_fan(size, least):
    """Fluid in a rectangle's upper corners looks like a sector's, but for a bit of wall, `size` px high, in one of them."""
    y, x = np.mgrid[0:720, 0:1280]
    corners = (np.abs(x - 640) - 130) * 0.9 > y - RECT.box[1]
    grey = np.where(rasterise(RECT, (0, 0, 1280, 720)) & ~corners, 90, 0).astype(np.uint8)
    grey[RECT.box[1] : RECT.box[1] + size, RECT.box[2] - 2 * size : RECT.box[2]] = 90
    live, still = gather(grey, np.where(grey > 0, 60, 0).astype(np.uint8)), gather(grey)
    assert iou(finish(fitting(live)).fan, RECT) >= least
    assert iou(finish(fitting(still)).fan, RECT) < 0.95  # in a still it may be a logo


def test_a_thumbnail_beside_the_fan_is_not_a_second_one():
    thumb = Fan("rect", (1020, 500, 1180, 640))
    image = screen(np.random.default_rng(6), SECTOR, thumb)
    assert find_two(gather(to_grey(image))) is None
    assert iou(find_fan(image), SECTOR) >= 0.96


def test_background_is_read_from_the_border():
    assert background_level(screen(np.random.default_rng(0), SECTOR, background=37)[..., 0]) in (36, 37, 38)
    assert background_level(speckle(np.random.default_rng(0))) == 0


def test_phantom_fans_after_half_a_second():
    """Four skins, one exam each; a zoomed view whose corners are fluid may be told late, so the median counts."""
    phantom = pytest.importorskip("calibration.phantom")
    overlaps = []
    for skin in ("aurelia", "nordwelle", "kestrel", "mirador"):
        spec = phantom.sample_exam(103, "other", seconds=0.56, skin=skin)
        reader = ScreenReader(Preprocessing())
        readings = [reader.read(frame) for frame in frames([shown.image for shown in phantom.render(spec)])]
        assert readings[-1].signal is Signal.OK
        overlaps.append(iou(readings[-1].fan, spec.preset.fan))
    assert np.median(overlaps) >= 0.97 and min(overlaps) > 0.8


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real screens are not here: {DATA}")
@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("itkpocus_sonosite-anon-eye1.jpg", (386, 42, 724, 642)),
        ("itkpocus_butterfly_axial-lateral-resolution-2020.png", (604, 14, 1330, 1072)),
    ],
)
def test_vendor_screens(name, box):
    """Boxes read off the screens by eye, to about 10 px."""
    image = cv2.imread(str(DATA / "vendor_screens" / name))
    found = find_fan(image)
    assert found is not None
    assert iou(Fan("rect", found.box), Fan("rect", box), image.shape[:2]) > 0.95
