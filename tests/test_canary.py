"""Nothing from outside the fan reaches disk, page or network: every screen here is full of canaries around its fan."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "screen"))
from drawing import RECT, SCREEN, SECTOR, ZOOM, furnish

from edge.capture import EveryFrame, FramesSource
from edge.decision import DecisionParams, Exam
from edge.demo import CLIP
from edge.events import EventStore
from edge.events.clip import decode_webp
from edge.events.evidence import PANEL
from edge.loop import Identity, Watch
from edge.records import Fan, Frame, Scores, Verdict
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader
from edge.status.board import Board
from edge.status.render import to_jpeg

FPS = 8.0
CANARY = 190  # grey level that no echo here reaches and every canary does
ECHO_MAX = 130


@lru_cache
def furniture(fan: Fan) -> tuple[np.ndarray, np.ndarray]:
    """(screen with names all around its empty fan, as close as scanners write them; bool mask of the fan)"""
    image = np.zeros((*SCREEN, 3), np.uint8)
    furnish(image)
    for y in range(50, 720, 34):
        for x in (60, 1030):
            cv2.putText(image, "CANARY^JANE 42", (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    for y in (20, 44, 690, 712):
        cv2.putText(image, "CANARY^JANE 42  " * 3, (220, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    inside = rasterise(fan, (0, 0, SCREEN[1], SCREEN[0]))
    image[cv2.dilate(inside.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0] = 0
    return image, inside


def crowded(fan: Fan, rng: np.random.Generator) -> np.ndarray:
    """Such a screen with moving speckle in its fan."""
    around, inside = furniture(fan)
    image = around.copy()
    small = rng.rayleigh(40.0, (SCREEN[0] // 4, SCREEN[1] // 4)).astype(np.float32)
    echo = np.clip(cv2.resize(small, SCREEN[::-1], interpolation=cv2.INTER_LINEAR), 12, ECHO_MAX).astype(np.uint8)
    image[inside] = echo[inside][:, None]
    return image


class Sick:
    def score(self, crop: np.ndarray) -> Scores:
        return Scores(0.9, 0.99, 0.1, np.zeros((4, 4), np.float32))


def leaks(picture: np.ndarray) -> bool:
    return int(picture.max()) >= CANARY


class Looked:
    """What a page would have shown, frame by frame."""

    def __init__(self, folder: Path, images: list[np.ndarray], size: int = 96) -> None:
        self.board, self.store = Board(), EventStore(folder)
        self.shown, self.leaked = 0, []  # type: ignore[var-annotated]
        with EveryFrame(FramesSource("screens", images, FPS, fast=True)) as feed:
            self.watch = Watch(
                feed=feed,
                reader=ScreenReader(Preprocessing(size)),
                scorer=Sick(),
                exam=Exam(DecisionParams(gap_s=1.0)),
                store=self.store,
                board=self.board,
                identity=Identity("screens", "student 0.1.0", "fake"),
                on_verdict=self.look,
            )
            self.summary = self.watch.run()

    def look(self, verdict: Verdict) -> None:
        self.watch._publish(self.watch._clock_ns())
        jpeg = to_jpeg(self.board.latest())
        if jpeg is not None:
            self.shown += 1
            if leaks(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)):
                self.leaked.append(verdict.frame_id)


def kept(store: EventStore) -> list[np.ndarray]:
    """Every picture on the disk, without the caption that we write ourselves."""
    pictures = []
    for event in store.events():
        picture = cv2.imdecode(np.frombuffer(store.image(event), np.uint8), cv2.IMREAD_GRAYSCALE)
        pictures.append(picture[:PANEL])
        clip = store.clip(event)
        pictures += decode_webp(clip)[0] if clip else []
    return pictures


@pytest.mark.parametrize("fans", [(SECTOR, ZOOM), (ZOOM, RECT), (RECT, SECTOR)], ids=["convex", "zoom", "linear"])
def test_no_canary_is_shown_or_kept(tmp_path: Path, fans: tuple[Fan, Fan]) -> None:
    rng = np.random.default_rng(7)
    images = [crowded(fan, rng) for fan in fans for _ in range(round(4 * FPS))]
    looked = Looked(tmp_path, images)
    assert looked.shown > FPS, "nothing was shown: this would prove nothing"
    assert looked.leaked == []
    assert looked.summary.errors == {} and len(looked.summary.events) >= 1
    pictures = kept(looked.store)
    assert pictures and any(picture.mean() > 5 for picture in pictures)
    assert not any(leaks(picture) for picture in pictures)
    stray = [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".tmp", ".jpg", ".webp")]
    assert len(stray) == sum(1 + bool(event.clip_path) for event in looked.store.events())


def test_a_flag_before_the_fan_is_sure_gets_its_picture_later(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    looked = Looked(tmp_path, [crowded(SECTOR, rng) for _ in range(round(3.5 * FPS))])
    (event,) = looked.store.events()
    assert event.frame_id < 2 * FPS and event.image_path.endswith("-shown.png")
    picture = cv2.imdecode(np.frombuffer(looked.store.image(event), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert 5 < picture[:PANEL, :PANEL].mean() < ECHO_MAX and not leaks(picture[:PANEL])


def test_a_flag_whose_fan_never_was_sure_keeps_no_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    looked = Looked(tmp_path, [crowded(SECTOR, rng) for _ in range(round(1.5 * FPS))])
    (event,) = looked.store.events()
    picture = cv2.imdecode(np.frombuffer(looked.store.image(event), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.count_nonzero(picture[:PANEL]) < 0.02 * picture[:PANEL].size  # our own words alone
    assert event.clip_path == ""


@pytest.mark.parametrize("first", [235, 1240])
def test_the_phantoms_patient_is_not_in_what_is_shown(first: int) -> None:
    """From a menu into the shipped session's second and sixth exam: lettering of both screens once passed for one large
    rectangle, and the patient's line was shown and kept for four seconds."""
    video = cv2.VideoCapture(str(CLIP))
    video.set(cv2.CAP_PROP_POS_FRAMES, first)
    images = [video.read()[1] for _ in range(110)]
    lettering = letters(images[60:])
    assert lettering.sum() > 200
    reader, shown = ScreenReader(Preprocessing(96)), 0
    for number, image in enumerate(images):
        reading = reader.read(Frame(number, int(number / 25 * 1e9), image))
        if reading.fan is not None and reading.settled:
            shown += 1
            assert not (rasterise(reading.fan, (0, 0, image.shape[1], image.shape[0])) & lettering).any(), number
    assert shown > 10


def letters(images: list[np.ndarray]) -> np.ndarray:
    """bool [H,W]: the bright, still pixels of the top of the screen, which are lettering."""
    stack = np.stack([image[:40].max(axis=2) for image in images[::5]]).astype(int)
    mask = np.zeros(images[0].shape[:2], bool)
    mask[:40] = (stack.min(axis=0) > 90) & (np.ptp(stack, axis=0) < 40)
    return mask
