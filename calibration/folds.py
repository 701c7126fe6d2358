"""Who is held out together: folds of our own, the same on every version of every library and in whatever order images come.

An image goes with its group (a patient, copies included). Each fold gets about its share of each class, and a class in every fold
where the groups allow it: that holds for two classes always, and for more as far as putting the large groups first reaches.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np

Counts = dict[Hashable, int]  # images by class


def grouped_folds(labels: Sequence[Hashable] | np.ndarray, groups: Sequence[str], n: int, seed: int) -> np.ndarray:
    """int [N], 0 to n-1: the fold of each image. Another seed gives other folds."""
    counts: dict[str, Counts] = defaultdict(lambda: defaultdict(int))
    totals: Counts = defaultdict(int)
    for label, group in zip(np.asarray(labels).tolist(), groups, strict=True):
        counts[group][label] += 1
        totals[label] += 1
    # Large groups first, since small ones even out what they leave; of about equal size, as they are drawn.
    order = sorted(counts, key=lambda group: (-max(counts[group].values()).bit_length(), _drawn(group, seed)))
    folds: list[Counts] = [defaultdict(int) for _ in range(n)]
    chosen: dict[str, int] = {}

    def put(group: str, fold: int) -> None:
        chosen[group] = fold
        for label, count in counts[group].items():
            folds[fold][label] += count

    if len(totals) == 2:
        for fold, together in enumerate(_covering(order, counts, n)):
            for group in together:
                put(group, fold)
    for group in order:
        if group not in chosen:
            put(group, _best(counts[group], folds, totals))
    return np.array([chosen[group] for group in groups])


def _drawn(group: str, seed: int) -> bytes:
    """A place that no library draws: a hash of name and seed."""
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()


def _best(group: Counts, folds: list[Counts], totals: Counts) -> int:
    """The fold that stays nearest to its share of each class, by squares of shares; of equal ones the smallest, the first."""

    def cost(fold: int) -> tuple[Fraction, int, int]:
        there = folds[fold]
        grown = sum(
            (Fraction(count * (2 * there.get(label, 0) + count), totals[label] ** 2) for label, count in group.items()),
            Fraction(0),
        )
        return grown, sum(folds[fold].values()), fold

    return min(range(len(folds)), key=cost)


def _covering(order: list[str], counts: dict[str, Counts], n: int) -> list[list[str]]:
    """The fewest groups a fold that give both classes to as many folds as can have them: a group of both, or one of each."""
    labels = sorted({label for group in counts.values() for label in group}, key=repr)
    pure = [[group for group in order if set(counts[group]) == {label}] for label in labels]
    mixed = [group for group in order if len(counts[group]) == 2]
    pairs = [list(pair) for pair in zip(*pure, strict=False)][:n]
    return [*pairs, *([group] for group in mixed[: n - len(pairs)])]
