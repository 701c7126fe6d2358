"""The runner contract: every engine takes uint8 crops and gives the same typed outputs.

Every implementation is run through the same tests (`tests/contract`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np

from edge.errors import EngineError
from edge.records import RawOutputs

if TYPE_CHECKING:
    from edge.bundle.manifest import Tolerance


@runtime_checkable
class Runner(Protocol):
    """Activate on enter, release on exit. `infer` is called from one thread, any number of times."""

    name: str  # e.g. "onnxruntime-cpu"
    input_size: int  # S
    note: str  # what a person must know of how it computes on this machine, "" for nothing; known once activated

    @property
    def qdq_limit(self) -> Tolerance | None:
        """How far its answers may be from the canonical graph's, where that is less than the manifest allows."""

    def __enter__(self) -> Runner: ...

    def __exit__(self, *exc: object) -> None: ...

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """uint8 [N,1,S,S], N >= 1 -> RawOutputs. EngineError for any other dtype or shape, or before activation."""
        ...


R = TypeVar("R", bound="HeldInMemory")


class HeldInMemory:
    """Enter and exit of a runner that has nothing to open: it is active in between."""

    qdq_limit, note = None, ""
    _active = False

    def __enter__(self: R) -> R:
        self._active = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._active = False


def check_crops(name: str, active: bool, crops: np.ndarray, size: int) -> None:
    """The checks that every runner makes before it infers. EngineError unless active and `crops` is uint8
    [N,1,size,size], N >= 1."""
    if not active:
        raise EngineError(f"{name}: infer was called outside its `with` block; enter the runner first")
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (1, size, size) or len(crops) < 1:
        raise EngineError(
            f"{name}: found crops {crops.dtype} {list(crops.shape)}; expected uint8 [N,1,{size},{size}], N >= 1"
        )
