"""How messages name what is wrong, where it may be many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NAMED = 5  # files or pairs that a message names before it counts


def lines(problems: Sequence[str], most: int = NAMED) -> str:
    """The first `most`, a line each, and how many more there are."""
    rest = f"\nand {len(problems) - most} more" if len(problems) > most else ""
    return "\n".join(problems[:most]) + rest


def some(names: Iterable[object], most: int = NAMED) -> str:
    """The first `most`, and how many more there are."""
    items = [str(name) for name in names]
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
