"""The seconds around a flag, as people may see them: a moving WebP, which every browser plays.

Views come from `edge.screen.view`, so that nothing from outside the fan is in a clip either. Encoding runs on a thread of its
own: seventy pictures take about half a second, which the loop does not have.
"""

from __future__ import annotations

import io
import statistics
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np

BEFORE_NS = 5_000_000_000  # nanoseconds of the source's time before a flag: what led to it
AFTER_NS = 2_000_000_000  # nanoseconds after it: whether it held
SIDE = 320  # pixels: speckle and septa stay visible, and 70 pictures stay under 10 MB of memory and 1 MB of disk
QUALITY = 60  # WebP's; at 320 pixels no blocks show in speckle
MS_MIN, MS_ALONE = 20, 100  # milliseconds: browsers show a picture no shorter; and one without another for its time
PENDING_MAX = 8  # clips under way or waiting for the store; beyond, the oldest goes: the flag itself is kept elsewhere

Key = tuple[int, int]  # exam and frame of the flag


def encode_webp(images: list[np.ndarray], ms_each: int | list[int]) -> bytes:
    """uint8 grey [H,W] pictures -> a WebP that plays on a loop. `ms_each`: how long each is shown, milliseconds; of all, or of
    every one."""
    from PIL import Image

    first, *rest = (Image.fromarray(image) for image in images)
    out = io.BytesIO()
    first.save(
        out, "WEBP", save_all=True, append_images=rest, duration=ms_each, loop=0, quality=QUALITY, method=0, exact=False
    )
    return out.getvalue()


def decode_webp(data: bytes) -> tuple[list[np.ndarray], int]:
    """(uint8 grey [H,W] pictures, milliseconds each) of `encode_webp`'s bytes: one that is shown for longer comes as often as its
    time wants, so that a pause stays one."""
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(data)) as moving:
        found = [
            (np.asarray(frame.convert("L")), frame.info.get("duration", 0)) for frame in ImageSequence.Iterator(moving)
        ]
    ms_each = min(ms for _, ms in found) or MS_ALONE
    images: list[np.ndarray] = []
    end_ms = 0
    for image, ms in found:
        end_ms += ms
        images += [image] * max(1, round(end_ms / ms_each) - len(images))
    return images, ms_each


@dataclass
class _Take:
    """One clip under way: `until_ns` is None once no more pictures are wanted."""

    images: list[tuple[int, np.ndarray]]
    until_ns: int | None
    encoded: Future[bytes] | None = field(default=None)


class Clips:
    """Remembers the last seconds of one exam, and makes a clip of each flag. Used from the loop's thread."""

    def __init__(self, encode: Callable[[list[np.ndarray], list[int]], bytes] = encode_webp) -> None:
        self._encode = encode
        self._recent: deque[tuple[int, np.ndarray]] = deque()
        self._exam_id: int | None = None
        self._takes: dict[Key, _Take] = {}
        self._workers = ThreadPoolExecutor(1, "clip")
        # Its thread starts now: out of memory, `Thread.start` may wait for ever, and the loop with it.
        self._workers.submit(int).result()

    def see(self, view: np.ndarray, t_ns: int, exam_id: int) -> None:
        """A view, uint8 [S,S], its stamp, and its exam: another exam's pictures are another patient's."""
        if exam_id != self._exam_id:
            self._recent.clear()
            self._exam_id = exam_id
            for take in self._takes.values():
                self._close(take)
        item = (t_ns, cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        self._recent.append(item)
        while t_ns - self._recent[0][0] > BEFORE_NS:
            self._recent.popleft()
        for take in self._takes.values():
            if take.until_ns is not None:
                take.images.append(item)
        self.tick(t_ns)

    def flag(self, key: Key, t_ns: int) -> None:
        while len(self._takes) >= PENDING_MAX:
            self._takes.pop(next(iter(self._takes)))
        self._takes[key] = _Take(list(self._recent), t_ns + AFTER_NS)

    def tick(self, t_ns: int) -> None:
        """Time goes on also while no view comes: the clip then ends with the last one."""
        for take in self._takes.values():
            if take.until_ns is not None and t_ns >= take.until_ns:
                self._close(take)

    def ready(self) -> list[tuple[Key, Future[bytes]]]:
        """Clips that are encoded (or failed to be), until `done` takes them off."""
        return [(key, take.encoded) for key, take in self._takes.items() if take.encoded and take.encoded.done()]

    def done(self, key: Key) -> None:
        self._takes.pop(key, None)

    def finish(self) -> None:
        """Nothing more comes: end what is under way and wait for it."""
        for take in self._takes.values():
            self._close(take)
        self._workers.shutdown(wait=True)

    def _close(self, take: _Take) -> None:
        if take.until_ns is None:
            return
        take.until_ns = None
        stamps, images = [t for t, _ in take.images], [image for _, image in take.images]
        if images:
            take.encoded = self._workers.submit(self._encode, images, _shown_ms(stamps))


def _shown_ms(stamps: list[int]) -> list[int]:
    """Milliseconds for which each picture is shown: until the next one came. The last one, as long as is usual."""
    ends = [round((t - stamps[0]) / 1e6) for t in stamps]  # rounded from the start, so that nothing adds up
    steps = [max(MS_MIN, b - a) for a, b in zip(ends, ends[1:], strict=False)]
    return [*steps, round(statistics.median(steps)) if steps else MS_ALONE]
