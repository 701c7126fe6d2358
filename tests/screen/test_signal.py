import cv2
import numpy as np
import pytest
from drawing import LEFT, RECT, RIGHT, SECTOR, flow, frames, iou, live, menu, screen, speckle

from edge.records import Fan, Frame, Signal
from edge.screen.preprocess import Preprocessing, prepare
from edge.screen.reader import ScreenReader
from edge.screen.signal import foreign_colour, is_colour_bars, is_flat
from edge.screen.still import read_still

SPEC = Preprocessing()


def run(images: list[np.ndarray], fps: float = 25.0, reader: ScreenReader | None = None, start: int = 0) -> list:
    reader = reader or ScreenReader(SPEC)
    return [reader.read(frame) for frame in frames(images, fps, start)]


def colour_bars() -> np.ndarray:
    colours = [(191, 191, 191), (0, 191, 191), (191, 191, 0), (0, 191, 0), (191, 0, 191), (0, 0, 191), (191, 0, 0)]
    bars = np.repeat(np.array(colours, np.uint8)[None], 720, 0).repeat(182, 1)
    bars[560:] = 16
    return bars


def no_signal_text(colour: tuple[int, int, int]) -> np.ndarray:
    image = np.full((720, 1280, 3), colour, np.uint8)
    cv2.putText(image, "NO SIGNAL", (480, 370), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (230, 230, 230), 3)
    return image


def photograph() -> np.ndarray:
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    image = np.stack([120 + 100 * np.sin(x / 60), 120 + 100 * np.cos(y / 45), 120 + 100 * np.sin((x + y) / 80)], 2)
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [np.zeros((720, 1280, 3), np.uint8), np.full((720, 1280, 3), (255, 0, 0), np.uint8),
     np.full((480, 640), 90, np.uint8), no_signal_text((0, 0, 0)), no_signal_text((180, 30, 10)), colour_bars()],
    ids=["black", "blue", "grey", "text", "text on blue", "bars"],
)
def test_no_signal(image):
    noise = np.random.default_rng(0).integers(-2, 3, image.shape)
    for picture in (image, np.clip(image + noise, 0, 255).astype(np.uint8)):
        reading = run([picture])[0]
        assert reading.signal is Signal.NO_SIGNAL and reading.crop is None and reading.fan is None
        assert read_still(picture, SPEC).signal is Signal.NO_SIGNAL


@pytest.mark.parametrize("image", [menu(), photograph(), screen(np.random.default_rng(0))],
                         ids=["patient list", "photograph", "furniture only"])
def test_menu(image):
    assert run([image] * 20)[-1].signal is Signal.MENU
    assert read_still(image, SPEC).signal is Signal.MENU


def test_text_page_is_a_menu():
    page = np.full((900, 700, 3), 250, np.uint8)
    for i in range(40):
        cv2.putText(page, "the quick brown fox jumps over the lazy dog", (30, 30 + 21 * i), 0, 0.6, (20, 20, 20), 1)
    assert read_still(page, SPEC).signal is Signal.MENU


def test_dual():
    rng = np.random.default_rng(1)
    readings = run([screen(rng, LEFT, RIGHT) for _ in range(20)])
    assert {r.signal for r in readings} == {Signal.DUAL} and readings[-1].crop is None


def half_fluid(image: np.ndarray) -> np.ndarray:
    """The same dual view while fluid fills most of either picture."""
    out = image.copy()
    for x0, y0, x1, y1 in (LEFT.box, RIGHT.box):
        cv2.ellipse(out, ((x0 + x1) // 2, (y0 + y1) // 2), (215, 205), 0, 0, 360, (0, 0, 0), -1)
    return out


def test_a_dual_view_that_was_taken_for_one_fan_is_not_again():
    """Its first picture is mostly fluid, so that it settles as one fan, and for a moment it is so again."""
    two = [screen(np.random.default_rng(i), LEFT, RIGHT) for i in range(8)]
    images = [half_fluid(two[0]), *(two * 9)]
    images[60] = half_fluid(two[4])
    told = [reading.signal for reading in run(images)]
    assert told[0] is Signal.OK and set(told[20:]) == {Signal.DUAL}


def test_a_dual_view_that_stands_still_stays_one():
    two = [screen(np.random.default_rng(i), LEFT, RIGHT) for i in range(8)]
    told = [reading.signal for reading in run(two * 4 + [half_fluid(two[0])] * 50)]
    assert set(told) == {Signal.DUAL}
    after = run(two * 4 + live(40))
    assert after[-1].signal is Signal.OK and iou(after[-1].fan, SECTOR) > 0.97  # and one that goes is seen to go


def test_ok_gives_a_crop():
    reading = run(live(20))[-1]
    assert reading.signal is Signal.OK and reading.crop is not None
    assert reading.crop.shape == (SPEC.size, SPEC.size) and not reading.duplicate


def test_doppler_is_colour_inside_the_fan():
    readings = run([flow(image) for image in live(15)])
    assert readings[-1].signal is Signal.DOPPLER and readings[-1].crop is None
    assert read_still(flow(live(1)[0]), SPEC).signal is Signal.DOPPLER


def test_doppler_goes_when_the_colour_goes():
    images = live(40)
    readings = run([flow(image) for image in images[:15]] + images[15:])
    assert readings[-1].signal is Signal.OK


@pytest.mark.parametrize("tint", [(0.62, 0.82, 1.0), (1.0, 0.9, 0.75)], ids=["sepia", "blue"])
def test_a_tinted_map_is_not_doppler_and_flow_on_it_is(tint):
    images = [np.clip(image * np.array(tint), 0, 255).astype(np.uint8) for image in live(15)]
    assert run(images)[-1].signal is Signal.OK
    assert run([flow(image) for image in images])[-1].signal is Signal.DOPPLER


def test_coloured_interface_and_caliper_marks_are_not_doppler():
    images = live(15)
    for image in images:
        cv2.rectangle(image, (20, 400), (180, 600), (20, 20, 230), -1)
        for x, y in ((560, 300), (700, 420)):
            cv2.drawMarker(image, (x, y), (0, 255, 255), cv2.MARKER_CROSS, 16, 1)
    assert run(images)[-1].signal is Signal.OK


@pytest.mark.parametrize("noise", [0, 1])
def test_frozen_after_a_second_and_live_again(noise):
    images = live(90)
    rng = np.random.default_rng(8)
    for i in range(30, 70):  # frozen picture through a codec: +-1 of noise, and a key frame's pop every 25 frames
        jitter = rng.integers(-noise, noise + 1, images[29].shape) if noise and i % 25 == 0 else 0
        images[i] = np.clip(images[29].astype(np.int16) + jitter, 0, 255).astype(np.uint8)
    readings = run(images)
    signals = [r.signal for r in readings]
    assert signals[:53] == [Signal.OK] * 53
    assert signals[60:70] == [Signal.FROZEN] * 10 and readings[65].crop is None and readings[65].fan is not None
    assert signals[78:] == [Signal.OK] * 12


def test_a_frozen_picture_keeps_the_fan_that_the_live_one_showed():
    """A still shows less than live speckle did: fluid in the fan's corner must not become a new layout."""
    images = live(40)
    still = images[-1].copy()
    still[40:300, 640:969] = 0
    readings = run(images + [still] * 80)
    assert not any(r.layout_changed for r in readings)
    assert {r.signal for r in readings[70:]} == {Signal.FROZEN}


def test_moving_calipers_do_not_thaw_a_frozen_picture():
    images = [live(1)[0].copy() for _ in range(50)]
    for i, image in enumerate(images):
        cv2.drawMarker(image, (500 + 4 * i, 300), (255, 255, 255), cv2.MARKER_CROSS, 14, 1)
    assert run(images)[-1].signal is Signal.FROZEN


def test_a_60_hz_grabber_over_a_25_hz_scanner_gives_duplicates_not_a_freeze():
    images = live(40)
    shown = [images[int(i * 25 / 60)] for i in range(96)]
    readings = run(shown, fps=60.0)
    assert {r.signal for r in readings} == {Signal.OK}
    distinct = [not r.duplicate for r in readings]
    expected = [i == 0 or int(i * 25 / 60) != int((i - 1) * 25 / 60) for i in range(96)]
    assert sum(a != b for a, b in zip(distinct, expected, strict=True)) <= 1  # one where the fan is re-estimated


def test_a_cut_to_black_is_no_signal_and_its_return_no_new_layout():
    images = live(60)
    readings = run([*images[:30], *[np.zeros_like(images[0])] * 20, *images[30:]])
    assert [r.signal for r in readings[30:50]] == [Signal.NO_SIGNAL] * 20
    assert [r.signal for r in readings[50:]] == [Signal.OK] * 30
    assert not any(r.layout_changed for r in readings)


@pytest.mark.parametrize("other", [RECT, Fan("sector", (402, 40, 879, 501), (640.0, -72.0), 120.0, 572.0, -0.42, 0.42)],
                         ids=["another probe", "deeper"])
def test_a_new_layout_is_said_once_and_then_kept(other):
    readings = run(live(35) + live(65, other, seed=1), fps=12.0)
    assert sum(r.layout_changed for r in readings) == 1
    assert not any(r.layout_changed for r in readings[:35])
    assert iou(readings[34].fan, SECTOR) > 0.97 and iou(readings[-1].fan, other) > 0.96


def test_resolution_change_in_mid_stream():
    small = Fan("rect", (60, 50, 560, 430))
    rng = np.random.default_rng(0)
    reader = ScreenReader(SPEC)
    run(live(20), reader=reader)
    readings = run([screen(rng, small, shape=(480, 640)) for _ in range(20)], reader=reader, start=20)
    assert readings[0].layout_changed and sum(r.layout_changed for r in readings) == 1
    assert readings[-1].signal is Signal.OK and iou(readings[-1].fan, small, (480, 640)) > 0.96


@pytest.mark.requirement("T-06")
def test_canary_the_interface_never_reaches_a_crop():
    """Crops of screens full of lettering equal those of the same pictures on an empty screen."""
    reader = ScreenReader(SPEC)
    for frame, bare in zip(frames(live(30)), live(30, furniture=False), strict=True):
        reading = reader.read(frame)
        assert reading.crop is not None and reading.fan is not None
        assert np.array_equal(reading.crop, prepare(bare, reading.fan, SPEC))


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 0), np.uint8), np.zeros((1, 1), np.uint8), np.zeros((3, 2000, 3), np.uint8),
     np.zeros((8, 8, 3), np.uint8), np.zeros((720, 1280), np.float32), np.zeros((720,), np.uint8),
     np.zeros((64, 64, 2), np.uint8)],
    ids=["empty", "1x1", "sliver", "8x8", "float", "flat", "two channels"],
)
def test_unreadable_frames_are_no_signal(image):
    assert run([image])[0].signal is Signal.NO_SIGNAL
    assert read_still(image, SPEC).signal is Signal.NO_SIGNAL


@pytest.mark.parametrize(
    "shape", [(16, 16), (17, 301), (301, 17), (99, 101, 3), (123, 77, 4), (64, 64, 1), (2160, 3840, 3), (16, 3000)]
)
@pytest.mark.parametrize("kind", ["noise", "gradient"])
def test_odd_shapes_never_raise(shape, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "gradient":
        ramp = np.linspace(0, 255, shape[0]).astype(np.uint8)
        image = np.broadcast_to(ramp.reshape(-1, *[1] * (len(shape) - 1)), shape)
    for reading in run([image] * 2, fps=1.0):
        assert reading.crop is None or reading.crop.shape == (SPEC.size, SPEC.size)
    read_still(image, SPEC)


def test_a_frame_is_not_written_to():
    image = live(1)[0]
    image.setflags(write=False)
    assert ScreenReader(SPEC).read(Frame(0, 0, image)).signal is Signal.OK


def test_flat_and_bars_are_not_seen_in_a_dark_screen():
    dark = screen(np.random.default_rng(0), SECTOR, picture=speckle(np.random.default_rng(0), lit=14.0))
    assert not is_flat(dark) and not is_colour_bars(dark)


def test_foreign_colour_is_empty_on_grey():
    image = live(1, furniture=False)[0]
    assert not foreign_colour(image, np.ones(image.shape[:2], bool)).any()
