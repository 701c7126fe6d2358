"""What lies between a scanner's screen and the loop, and adds noise: cables, cameras, codecs. And exams played through them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import cv2
import numpy as np

from edge.decision import DecisionParams, Exam
from edge.demo import CLIP, SESSION
from edge.records import Fan, Frame, Reading, Scores, Signal, Verdict
from edge.screen.geometry import rasterise
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader

FPS = 25.0
FIRST = 263  # of the clip: here its second exam begins
MAP = np.zeros((2, 2), np.float32)
SICK, WELL = Scores(0.9, 0.9999, 0.1, MAP), Scores(0.9, 0.01, 0.1, MAP)
# As the shipped bundle has them: four such pictures in a row flag an exam.
PARAMS = DecisionParams(logit_offset=2.0, gain=0.15, flag_threshold=3.36)
Noise = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


@cache
def exam(count: int = 190) -> tuple[np.ndarray, ...]:
    """Pictures of one live exam, uint8 [720,1280,3]."""
    video = cv2.VideoCapture(str(CLIP))
    video.set(cv2.CAP_PROP_POS_FRAMES, FIRST)
    return tuple(video.read()[1] for _ in range(count))


def clean(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    return image


def dither(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(cv2.add(image, np.repeat(rng.integers(0, 2, image.shape[:2], np.uint8)[..., None], 3, 2)))


@cache
def rounded(sigma: float) -> np.ndarray:
    """int16: noise of several pictures, in whole grey levels as a picture has them. To draw it is dearer than to read a picture,
    so each takes a part of this that begins anywhere."""
    return np.round(np.random.default_rng(round(100 * sigma)).normal(0, sigma, 4 * 720 * 1280)).astype(np.int16)


@cache
def gauss(sigma: float) -> Noise:
    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        many, pixels = rounded(sigma), image.shape[0] * image.shape[1]
        at = int(rng.integers(len(many) - pixels))
        noise = many[at : at + pixels].reshape(image.shape[:2])
        return np.asarray(cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U))

    return add


@cache
def jpeg(quality: int, sigma: float = 1.0) -> Noise:
    """A noisy picture requantised: what is near a step falls to either side of it."""

    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        data = cv2.imencode(".jpg", gauss(sigma)(image, turn, rng), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))

    return add


def brighter(image: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(cv2.LUT(image, np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8)))


def predicted(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    """As an inter-frame codec: still between key frames, one a second, which redraw it a little otherwise."""
    return jpeg(60)(image, 0, np.random.default_rng(turn // 25))


@cache
def flicker(levels: float) -> Noise:
    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        return brighter(image, 1 + levels / 100 * (turn % 3 - 1))

    return add


def bar(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    """The band that rolls over a screen which a camera looks at."""
    rows = np.arange(len(image), dtype=np.float32) / len(image) * 9.4 + 0.7 * turn
    return np.clip(np.round(image * (1 + 0.04 * np.sin(rows))[:, None, None]), 0, 255).astype(np.uint8)


@cache
def shake(pixels: float) -> Noise:
    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        (dx, dy), size = rng.uniform(-pixels, pixels, 2), image.shape[1::-1]
        return np.asarray(cv2.warpAffine(image, np.array([[1, 0, dx], [0, 1, dy]], np.float32), size))

    return add


def in_fan(image: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The screen with another picture in its fan: as the scanner itself shows a held one otherwise."""
    return np.where(inside()[..., None], picture, image)


@cache
def inside() -> np.ndarray:
    """bool [720,1280]: the fan of `exam`."""
    fan = json.loads(SESSION.read_text())["exams"][1]["fan"]
    sector = Fan("sector", tuple(fan["box"]), tuple(fan["apex"]), *(fan[name] for name in ("r0", "r1", "a0", "a1")))
    return rasterise(sector, (0, 0, 1280, 720))


def gamma(speed: float) -> Noise:
    """The operator turns the grey map of a held picture to and fro."""

    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        table = (np.arange(256) / 255) ** (2 ** np.sin(speed * turn / FPS)) * 255
        return in_fan(image, np.asarray(cv2.LUT(image, table.astype(np.uint8))))

    return add


def zoom(speed: float) -> Noise:
    """The operator zooms a held picture in and out, around the middle of its fan."""

    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        way = cv2.getRotationMatrix2D((616, 365), 0, 1.2 - 0.2 * np.cos(speed * turn / FPS))
        return in_fan(image, np.asarray(cv2.warpAffine(image, way, image.shape[1::-1])))

    return add


def pan(pixels: float) -> Noise:
    """The operator moves a held picture about."""

    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        x, y = pixels * np.sin(turn / 9), pixels * np.sin(turn / 13)
        return in_fan(image, np.asarray(cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), image.shape[1::-1])))

    return add


def camera(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    return jpeg(85, 2.0)(flicker(2)(shake(0.5)(image, turn, rng), turn, rng), turn, rng)


@cache
def gain(share: float) -> Noise:
    """A scanner's gain turned down; the picture is as alive as before."""

    def add(image: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
        return brighter(image, share)

    return add


NOISES: dict[str, Noise] = {
    "clean": clean, "dither": dither, "sigma .25": gauss(0.25), "sigma .5": gauss(0.5), "sigma 3": gauss(3), "jpeg 90": jpeg(90),
    "jpeg 20": jpeg(20), "key frames": predicted, "flicker": flicker(2), "bar": bar, "shake .5": shake(0.5), "shake 1": shake(1),
    "camera": camera, "sigma 6": gauss(6), "shake 4": shake(4), "gamma": gamma(1), "zoom": zoom(0.5),
    "fast zoom": zoom(1.5), "pan": pan(12),
}  # fmt: skip


def watch(
    images: Iterable[np.ndarray], noise: Noise = clean, well: int = 0, fps: float = FPS, seed: int = 0
) -> list[tuple[Reading, Verdict]]:
    """An exam of these pictures. The model calls the first `well` of them healthy and all others sick. Exams that begin with the
    same `well` pictures begin once."""
    images, key = list(images), (noise, well, fps, seed)
    begun, state = _BEGUN.get(key, ([], None))
    if well and len(begun) == well and all(a is b for a, b in zip(begun, images, strict=False)):
        reader, running, rng, out = copy.deepcopy(state)
    else:
        reader, running, rng, out = ScreenReader(Preprocessing()), Exam(PARAMS), np.random.default_rng(seed), []
    for turn in range(len(out), len(images)):
        if well and turn == well and state is None:
            _BEGUN[key] = images[:well], copy.deepcopy((reader, running, rng, out))
        reading = reader.read(Frame(turn, round(turn / fps * 1e9) + 10**9, noise(images[turn], turn, rng)))
        scores = (WELL if turn < well else SICK) if reading.signal is Signal.OK else None
        out.append((reading, running.step(reading, scores)))
    return out


_BEGUN: dict[tuple[Noise, int, float, int], tuple[list[np.ndarray], Any]] = {}  # what was known after the healthy pictures
