"""Nothing from outside the fan reaches disk, page or network: every screen here is full of canaries around its fan."""

from __future__ import annotations

import json
import logging
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).parent / "screen"))
from drawing import RECT, SCREEN, SECTOR, ZOOM, barred, furnish, worn
from test_bars import GEOMETRIES

from edge.capture import EveryFrame, FramesSource
from edge.capture.recorded import FileSource
from edge.config import Config, EventsConfig, StatusConfig
from edge.decision import DecisionParams, Exam
from edge.demo import CLIP, SESSION, read_session
from edge.events import EventStore, export
from edge.events.clip import decode_webp
from edge.events.evidence import PANEL
from edge.loop import Identity, Watch
from edge.records import Fan, Frame, Scores, Verdict
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader
from edge.status.board import Board
from edge.status.render import to_jpeg
from edge.watching import open_watching

FPS = 8.0
PATIENT = "CANARY^JANE 42"
CANARY = 190  # grey level that no echo here reaches and every canary does
ECHO_MAX = 130


@lru_cache
def furniture(fan: Fan) -> tuple[np.ndarray, np.ndarray]:
    """(screen with names all around its empty fan, as close as scanners write them; bool mask of the fan)"""
    image = np.zeros((*SCREEN, 3), np.uint8)
    furnish(image)
    for y in range(50, 720, 34):
        for x in (60, 1030):
            cv2.putText(image, PATIENT, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    for y in (20, 44, 690, 712):
        cv2.putText(image, f"{PATIENT}  " * 3, (220, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
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
    """Sick after so many healthy frames."""

    def __init__(self, healthy: int = 0) -> None:
        self.healthy = healthy

    def score(self, crop: np.ndarray) -> Scores:
        self.healthy -= 1
        return Scores(0.9, 0.99 if self.healthy < 0 else 0.01, 0.1, np.zeros((4, 4), np.float32))


def leaks(picture: np.ndarray) -> bool:
    return int(picture.max()) >= CANARY


class Looked:
    """What a page would have shown, frame by frame."""

    def __init__(self, folder: Path, images: list[np.ndarray], size: int = 96, healthy: int = 0) -> None:
        self.board, self.store = Board(), EventStore(folder)
        self.shown, self.leaked = 0, []  # type: ignore[var-annotated]
        with EveryFrame(FramesSource("screens", images, FPS, fast=True)) as feed:
            self.watch = Watch(
                feed=feed,
                reader=ScreenReader(Preprocessing(size)),
                scorer=Sick(healthy),
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


@pytest.mark.requirement("T-06")
@pytest.mark.parametrize(
    ("skin", "name", "level"),
    [("aurelia", "5:4", 16), ("nordwelle", "left", 90), ("kestrel", "letterbox", 0), ("mirador", "askew", 0)],
)
def test_no_canary_is_kept_or_exported_of_a_screen_in_bars(tmp_path: Path, skin: str, name: str, level: int) -> None:
    """To the last byte that leaves the box; every geometry on every skin is read in tests/screen/test_bars.py."""
    _, images = worn(skin, round(4 * FPS), lettering=(255, 255, 255))
    looked = Looked(tmp_path / "store", [barred(image, *GEOMETRIES[name], level) for image in images], healthy=18)
    assert looked.shown > FPS and looked.leaked == [] and len(looked.summary.events) >= 1
    assert not any(leaks(picture) for picture in kept(looked.store))
    export(looked.store, tmp_path / "out", dicom=True)
    objects = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert len(objects) >= 2
    for data in objects:
        assert data.BurnedInAnnotation == "NO"
        pixels = data.pixel_array[:PANEL, :PANEL, 0] if data.get("NumberOfFrames") is None else data.pixel_array
        assert pixels.mean() > 5 and not leaks(pixels)


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


@pytest.mark.requirement("T-06")
def test_a_form_is_never_shown_in_the_fan_before_it_whenever_it_comes() -> None:
    """From an exam into the form for the next patient: when that came within a quarter second of a look at the layout it was
    shown for almost a second, as far as the fan went."""
    video = cv2.VideoCapture(str(CLIP))
    _, _, exams = read_session()
    end, start = exams[1].last_frame, exams[1].last_frame - 100
    video.set(cv2.CAP_PROP_POS_FRAMES, start)
    images = [video.read()[1] for _ in range(130)]
    for first in range(0, 25, 3):  # the looks come once a second
        reader, shown = ScreenReader(Preprocessing(96)), 0
        for number in range(first, len(images)):
            reading = reader.read(Frame(number, number * 40_000_000, images[number]))
            seen = reading.fan is not None and reading.settled
            shown += seen
            assert not seen or start + number <= end, f"{start + number - end} frames into the form, begun at {first}"
        assert shown > 10


def letters(images: list[np.ndarray]) -> np.ndarray:
    """bool [H,W]: the bright, still pixels of the top of the screen, which are lettering."""
    stack = np.stack([image[:40].max(axis=2) for image in images[::5]]).astype(int)
    mask = np.zeros(images[0].shape[:2], bool)
    mask[:40] = (stack.min(axis=0) > 90) & (np.ptp(stack, axis=0) < 40)
    return mask


SKIP = 2  # of the session's pictures every other: half the time, and as fast as a slow scanner
SHOWN_S = 3.5  # seconds from the start of each exam, and of the menu after it, that are played: what is written stays the same...
LONG_S = {"exam-7-hygroma": 10.0}  # ...but for one that is flagged late


def session_with_canaries(path: Path) -> None:
    """The shipped session with names written all around its fans, in its menus and in the file's own header."""
    fps, frames, _ = read_session()
    exams = json.loads(SESSION.read_text())["exams"]
    around, menu = (np.zeros((*SCREEN, 3), np.uint8) for _ in range(2))
    for y in range(12, SCREEN[0], 26):
        cv2.putText(around, f"{PATIENT}  " * 6, (y % 90, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
        cv2.putText(menu, f"{PATIENT}   " * 4, (190 - y % 70, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
    masks = {}
    for exam in exams:
        if (fan := exam.get("fan")) is not None:
            given = Fan(fan["kind"], tuple(fan["box"]), tuple(fan["apex"]), *(fan[name] for name in ("r0", "r1", "a0", "a1")))
            inside = rasterise(given, (0, 0, SCREEN[1], SCREEN[0])).astype(np.uint8)
            masks[exam["name"]] = cv2.dilate(inside, np.ones((25, 25), np.uint8))[..., None] == 0
    clip = cv2.VideoCapture(str(CLIP))
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps / SKIP, SCREEN[::-1])
    for number in range(frames):
        image = np.minimum(clip.read()[1], ECHO_MAX)
        exam = next((e for e in exams if e["first_frame"] <= number <= e["last_frame"]), None)
        since = number - max(edge for e in exams for edge in (0, e["first_frame"], e["last_frame"] + 1) if edge <= number)
        if number % SKIP or since >= LONG_S.get(exam["name"] if exam else "", SHOWN_S) * fps:
            continue
        written = np.where(masks.get(exam["name"], True), around, 0) if exam else menu
        out.write(np.maximum(written, image))
    out.release()
    # The header's free space: the same length, so that nothing moves.
    data, junk = bytearray(path.read_bytes()), path.read_bytes().index(b"JUNK")
    data[junk + 8 : junk + 8 + len(PATIENT)] = PATIENT.encode()
    path.write_bytes(data)


@pytest.mark.requirement("S-03", "T-06")
def test_a_whole_session_tells_nobody_whose_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The daemon as the demonstration runs it, with the shipped model: every exam and menu of the session, everything that the
    page serves on the way, every line that is logged, and every file that is kept."""
    caplog.set_level(logging.DEBUG)
    session_with_canaries(tmp_path / "session.avi")
    config = Config(events=EventsConfig(dir=str(tmp_path / "events"), min_free_mb=0), status=StatusConfig(port=0))
    served: list[bytes] = []
    views: list[np.ndarray] = []

    def look(verdict: Verdict) -> None:
        watching.watch._publish(watching.watch._clock_ns())
        snapshot = watching.watch._board.latest()
        if snapshot is not None and snapshot.view is not None:
            views.append(snapshot.view.image)
        if verdict.frame_id % 12 == 0:
            for path in ("snapshot.json", "metrics", "healthz"):
                with suppress(urllib.error.HTTPError), urllib.request.urlopen(watching.url + path, timeout=20) as answer:
                    served.append(answer.read())

    with open_watching(config, FileSource(tmp_path / "session.avi", fast=True), look) as watching:
        summary = watching.watch.run()
    assert summary.frames > 450 and len(views) > 120 and len(served) > 60, "too little was seen: this would prove nothing"
    assert summary.frames_by_signal["MENU"] > 10 and len(summary.events) >= 2 and summary.errors == {}
    assert not any(leaks(view) for view in views)
    with EventStore(tmp_path / "events", create=False) as store:
        assert len(store.events()) == len(summary.events)
        for event in store.events():
            picture = cv2.imdecode(np.frombuffer(store.image(event), np.uint8), cv2.IMREAD_GRAYSCALE)
            assert not leaks(picture[:PANEL, :PANEL])
            assert not any(leaks(shown) for shown in decode_webp(store.clip(event))[0])
    told = caplog.text.encode() + "".join(capfd.readouterr()).encode() + b"".join(served)
    kept_files = [path.read_bytes() for path in (tmp_path / "events").rglob("*") if path.is_file()]
    assert len(kept_files) >= 3
    for name in (PATIENT.encode(), b"JANE"):
        assert name not in told and not any(name in data for data in kept_files)
