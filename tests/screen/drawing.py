"""Synthetic scanner screens for the tests: speckle in a fan, lettering, rulers and grey bars around it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from calibration.phantom import sample_exam, skins
from edge.records import Fan, Frame
from edge.screen.geometry import rasterise, scaled, shifted

SECOND = 1_000_000_000  # ns
SCREEN = (720, 1280)  # pixels
SECTOR = Fan("sector", (312, 40, 969, 661), (640.0, -112.0), 160.0, 772.0, -0.44, 0.44)
ZOOM = Fan("sector", (240, 60, 1040, 660), (620.0, -520.0), 560.0, 1500.0, -0.33, 0.33)
RECT = Fan("rect", (300, 70, 980, 650))
LEFT, RIGHT = Fan("rect", (90, 120, 600, 620)), Fan("rect", (680, 120, 1190, 620))


def speckle(rng: np.random.Generator, shape: tuple[int, int] = SCREEN, lit: float = 70.0) -> np.ndarray:
    """uint8 [H,W]: Rayleigh speckle of a few pixels, with bands of tissue. `lit`: mean grey level."""
    small = rng.rayleigh(1.0, (shape[0] // 3 + 1, shape[1] // 4 + 1)).astype(np.float32)
    field = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    rows = np.linspace(0, 9, shape[0], dtype=np.float32)[:, None]
    return np.clip(field * lit * (0.8 + 0.3 * np.sin(rows)), 0, 255).astype(np.uint8)


def screen(
    rng: np.random.Generator, *fans: Fan, background: int = 0, shape: tuple[int, int] = SCREEN, furniture: bool = True,
    picture: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 BGR [H,W,3]: a scanner's screen with speckle in each of `fans`."""
    image = np.full((*shape, 3), background, np.uint8)
    if furniture:
        furnish(image)
    source = speckle(rng, shape) if picture is None else picture
    for fan in fans:
        mask = rasterise(fan, (0, 0, shape[1], shape[0]))
        image[mask] = source[mask][:, None]
    return image


def furnish(image: np.ndarray) -> None:
    """Name line, settings, ruler, grey bar, TGC curve, logo: what must never be taken for picture."""
    height, width = image.shape[:2]
    white = (225, 225, 225)
    cv2.putText(image, "DOE^JANE 12-34-56  CLINIC  23/11/2026 10:15", (20, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, white, 1)
    for i, line in enumerate(("Gn 45", "DR 60", "25 Hz", "D 9.1 cm", "MI 0.9", "TIb 0.2")):
        cv2.putText(image, line, (16, 90 + 26 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1)
    for i, y in enumerate(range(60, height - 60, 20)):
        cv2.line(image, (width - 60, y), (width - (48 if i % 5 else 40), y), white, 1)
    image[100:280, width - 30 : width - 18] = np.linspace(255, 0, 180).astype(np.uint8)[:, None, None]
    curve = np.array([[width - 110 + int(12 * np.sin(t)), height - 250 + 8 * t] for t in range(20)], np.int32)
    cv2.polylines(image, [curve], False, (60, 200, 230), 1)
    cv2.circle(image, (30, height - 60), 14, (200, 120, 40), -1)


def frames(images: list[np.ndarray], fps: float = 25.0, start: int = 0) -> list[Frame]:
    """Images as consecutive frames of a source."""
    return [Frame(start + i, int((start + i) / fps * SECOND), image) for i, image in enumerate(images)]


def iou(one: Fan | None, other: Fan, shape: tuple[int, int] = SCREEN) -> float:
    """Intersection over union of two fans on the pixel grid."""
    if one is None:
        return 0.0
    a, b = (rasterise(fan, (0, 0, shape[1], shape[0])) for fan in (one, other))
    return float((a & b).sum() / (a | b).sum())


def live(n: int, fan: Fan = SECTOR, seed: int = 0, furniture: bool = True) -> list[np.ndarray]:
    """`n` screens of moving speckle."""
    rng = np.random.default_rng(seed)
    base, blank = speckle(rng), screen(rng, furniture=furniture)
    x0, y0, x1, y1 = fan.box
    mask, out = rasterise(fan, fan.box), []
    for _ in range(n):
        dy, dx = rng.integers(5, 600, 2)
        image = blank.copy()
        image[y0:y1, x0:x1][mask] = np.roll(base, (dy, dx), (0, 1))[y0:y1, x0:x1][mask][:, None]
        out.append(image)
    return out


def menu() -> np.ndarray:
    image = np.full((720, 1280, 3), (46, 40, 36), np.uint8)
    cv2.rectangle(image, (0, 0), (1280, 54), (84, 66, 52), -1)
    for i in range(9):
        cv2.putText(image, f"Patient {i}  1990-01-0{i}", (60, 130 + 60 * i), 0, 0.8, (230, 230, 230), 2)
        cv2.rectangle(image, (500, 100 + 60 * i), (1150, 140 + 60 * i), (70, 70, 70), -1)
    return image


def flow(image: np.ndarray) -> np.ndarray:
    """Colour flow in a box of the fan: red and blue blobs."""
    out = image.copy()
    for i, (x, y) in enumerate([(600, 330), (650, 360), (700, 340), (640, 420)]):
        cv2.ellipse(out, (x, y), (26, 14), 20, 0, 360, (30, 40, 220) if i % 2 else (220, 60, 30), -1)
    return out


def barred(image: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int], level: int = 0) -> np.ndarray:
    """The screen scaled into a box of a capture of `size` (width, height), with bars of one grey level around it."""
    x0, y0, x1, y1 = box
    out = np.full((size[1], size[0], 3), level, np.uint8)
    out[y0:y1, x0:x1] = cv2.resize(image, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return out


def among_bars(fan: Fan, box: tuple[int, int, int, int]) -> Fan:
    """Where a fan of a SCREEN lies once that is scaled into a box."""
    return shifted(scaled(fan, (box[2] - box[0]) / SCREEN[1]), box[:2])


def worn(skin: str, n: int, seed: int = 0, lettering: tuple[int, int, int] | None = None) -> tuple[Fan, list[np.ndarray]]:
    """A fan and `n` screens of moving speckle in the interface of a phantom's vendor; `lettering`: its ink, of one colour."""
    spec = replace(sample_exam(9000 + seed, "normal", seconds=1.0, skin=skin), seed=seed)
    fan, blank, rng = spec.preset.fan, skins.screen(spec), np.random.default_rng(seed)
    if lettering is not None:
        ink = np.abs(blank.astype(np.int16) - skins.SKINS[skin].background).max(axis=2) > 60
        blank[ink] = lettering
    x0, y0, x1, y1 = fan.box
    source, out = cv2.cvtColor(np.minimum(speckle(rng, (2 * SCREEN[0], 2 * SCREEN[1])), 130), cv2.COLOR_GRAY2BGR), []
    mask = rasterise(fan, fan.box).astype(np.uint8)
    for _ in range(n):
        x, y = rng.integers(0, 2 * SCREEN[1] - (x1 - x0)), rng.integers(0, 2 * SCREEN[0] - (y1 - y0))
        image = blank.copy()
        cv2.copyTo(source[y : y + y1 - y0, x : x + x1 - x0], mask, image[y0:y1, x0:x1])
        out.append(image)
    return fan, out
