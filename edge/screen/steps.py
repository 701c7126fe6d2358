"""Long work in small steps, so that a loop with a picture every few milliseconds can do a little of it with each.

A step is a generator's stretch from one `yield` to the next; what the work found is what the generator returns.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]


def finish(steps: Steps[T]) -> T:
    """Does all that is left, at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
