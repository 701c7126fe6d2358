"""The phantom as a camera."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibration.phantom.exam import render_session
from calibration.phantom.records import FPS, ExamSpec, PhantomFrame
from calibration.phantom.sampling import clinic_session


class PhantomSource:
    """Frames of a session, one a call, as fast as they are asked for; the caller paces them by `fps`.

    `truth` holds the labels of the frame read last. Ends with None unless `loop`.
    """

    def __init__(self, seed: int = 7, specs: list[ExamSpec] | None = None, loop: bool = False):
        self.specs = clinic_session(seed) if specs is None else specs
        self.fps, self.loop = FPS, loop
        self.truth: PhantomFrame | None = None
        self._frames: Iterator[tuple[int | None, PhantomFrame]] = render_session(self.specs)

    def read(self) -> np.ndarray | None:
        """The next screen, uint8 BGR [720,1280,3]; None after the last."""
        item = next(self._frames, None)
        if item is None and self.loop and self.specs:
            self._frames = render_session(self.specs)
            item = next(self._frames, None)
        self.truth = None if item is None else item[1]
        return None if item is None else item[1].image
