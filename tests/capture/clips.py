"""Pictures and clips that ffmpeg makes, for tests; a moving bar says which picture it is."""

from __future__ import annotations

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
WIDTH, HEIGHT = 160, 120
BAR_PLACES = WIDTH // 8


def colours() -> np.ndarray:
    """BGR uint8 [HEIGHT,WIDTH,3]: smooth ramps of every channel, so that halved chroma loses little."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([60 + x, 40 + y, 200 - x // 2 - y // 3], axis=-1).astype(np.uint8)


def greys(n: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """BGR pictures with a bar that moves by eight pixels from one to the next."""
    pictures = []
    for index in range(n):
        picture = np.full((height, width, 3), 60, np.uint8)
        picture[:, (8 * index) % width : (8 * index) % width + 8] = 220
        pictures.append(picture)
    return pictures


def place(image: np.ndarray) -> int:
    """Which of `greys` a picture is, modulo its width over eight."""
    row = image.reshape(image.shape[0], image.shape[1], -1)[:, :, 0].mean(axis=0)
    return (int(np.argmax(np.convolve(row, np.ones(8), "valid"))) + 4) // 8


def ffmpeg(images: list[np.ndarray], *arguments: str, fps: int = 25) -> bytes:
    """What ffmpeg makes of pictures; with "-" as the last argument, its output."""
    height, width = images[0].shape[:2]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}"]
    command += ["-r", str(fps), "-i", "-", *arguments]
    done = subprocess.run(command, input=b"".join(i.tobytes() for i in images), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


_MADE: dict[tuple[object, ...], bytes] = {}


def clip(path: Path, images: list[np.ndarray], *arguments: str, fps: int = 25) -> Path:
    """A clip that was made once is written again, without ffmpeg."""
    pictures = sha256(b"".join(image.tobytes() for image in images)).digest()
    key = (pictures, images[0].shape, *arguments, fps, path.suffix)
    if key not in _MADE:
        ffmpeg(images, *arguments, str(path), fps=fps)
        _MADE[key] = path.read_bytes()
    path.write_bytes(_MADE[key])
    return path
