"""A runner without a model: deterministic, instant. For tests and for the daemon's dry runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge.engines.runner import HeldInMemory, check_crops
from edge.records import RawOutputs


def grey_response(crop: np.ndarray) -> tuple[float, float]:
    """uint8 [S,S] -> logits (plane, hygroma): `plane` rises with the mean grey level, `hygroma` with the share of dark
    pixels."""
    plane = (
        float(crop.mean()) - 64.0
    ) / 16.0  # 64: the mean of a typical fan crop, so that a black crop is not a plane
    hygroma = (float((crop < 32).mean()) - 0.5) * 8.0  # 32: fluid is darker than that on most presets
    return plane, hygroma


class FakeRunner(HeldInMemory):
    """Runner whose logits come from `respond` (uint8 [S,S] -> plane, hygroma).

    The embedding is the crop's coarse grey levels in [0,1], [embedding] long; the nuchal map is high where a patch is
    dark. size: S; embedding: D; grid: G, a divisor of S.
    """

    name = "fake"

    def __init__(
        self,
        size: int = 64,
        embedding: int = 16,
        grid: int = 4,
        respond: Callable[[np.ndarray], tuple[float, float]] = grey_response,
    ):
        self.input_size = size
        self._embedding, self._grid, self._respond = embedding, grid, respond

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """See `Runner.infer`."""
        check_crops(self.name, self._active, crops, self.input_size)
        n, side = len(crops), self.input_size // self._grid
        grey = crops[:, 0].astype(np.float32) / 255
        patches = grey.reshape(n, self._grid, side, self._grid, side).mean((2, 4))
        embedding = np.stack([np.resize(p.ravel(), self._embedding) for p in patches]) + grey.mean((1, 2))[:, None]
        plane, hygroma = np.array([self._respond(crop) for crop in crops[:, 0]], np.float32).T
        return RawOutputs(plane, hygroma, embedding.astype(np.float32), (1 - 4 * patches).astype(np.float32))
