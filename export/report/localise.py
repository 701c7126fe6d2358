"""Does a map lie where the annotator drew the nuchal region? Pointing game (Zhang et al. 2016, arXiv 1608.00507) and share of
the map's mass inside the box, each against what a map that knows nothing would get; agreement of two forms of one map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from calibration.intervals import patient_interval
from edge.errors import InputError
from export.report import metrics
from export.report.records import Agreement, Localisation
from export.training.augment import Box, map_target

MORE = "is more than chance gives"


def localisation_row(method: str, maps: np.ndarray, boxes: Sequence[Box], groups: Sequence[str]) -> Localisation:
    """maps [N,G,G], not negative; boxes in fractions of the picture; groups [N]: patients, for the intervals.

    Pointing: the share of pictures whose highest cell touches the box; by chance, the share of cells that do. Mass: the mean
    share of the map inside the box, cells on its edge counted by the covered part; by chance, the box's share of the picture.
    A map of zeros has nothing inside. InputError when lengths differ, nothing is there or a map is negative."""
    if not len(maps) == len(boxes) == len(groups) or not len(maps):
        raise InputError(
            f"{method}: found {len(maps)} maps, {len(boxes)} boxes, {len(groups)} patients; expected as many"
        )
    if maps.min() < 0:
        raise InputError(f"{method}: found a map with {maps.min():.3g}; shares need values of 0 or more")
    covered = np.stack([map_target(box, maps.shape[-1]) for box in boxes])
    n, flat, inside = len(maps), maps.reshape(len(maps), -1), covered.reshape(len(maps), -1)
    hits = (inside[np.arange(n), flat.argmax(1)] > 0) & (flat.max(1) > 0)
    mass = (flat * inside).sum(1) / np.maximum(flat.sum(1), 1e-12)
    low, high = patient_interval(lambda keep: float(mass[keep].mean()), groups)
    pointing = metrics.proportion(int(hits.sum()), n)
    return {
        "method": method,
        "n": n,
        "grid": int(maps.shape[-1]),
        "pointing": pointing.bracket(),
        "pointing_chance": float((inside > 0).mean()),
        "mass": {"value": float(mass.mean()), "low": low, "high": high},
        "mass_chance": float(inside.mean()),
    }


def mass_verdict(row: Localisation) -> str:
    """Whether the 95 % interval of a row's mass tells it from chance, and which way, in words."""
    low, high, chance = row["mass"]["low"], row["mass"]["high"], row["mass_chance"]
    if not low < high:
        return "has no interval to tell it from chance by"
    if low > chance:
        return MORE
    return "is less than chance gives" if high < chance else "is not told from chance"


def mass_in_words(row: Localisation) -> str:
    """What a row of `localisation_row` says of its mass, without the full stop."""
    mass = row["mass"]
    figure = f"{mass['value']:.3f} [{mass['low']:.3f}, {mass['high']:.3f}] against {row['mass_chance']:.3f}"
    return f"{row['method']}: the mass inside the box {mass_verdict(row)} ({figure}, n {row['n']})"


def agreement(reference: np.ndarray, converted: np.ndarray) -> Agreement:
    """How much a conversion moves a map of probabilities [N,G,G]: share with the same highest cell, largest and mean change of
    a cell, median rank correlation of a picture's cells."""
    if reference.shape != converted.shape or not len(reference):
        raise InputError(f"maps: found {reference.shape} and {converted.shape}; expected the same, and one at least")
    a, b = (maps.reshape(len(maps), -1) for maps in (reference, converted))
    rho = [stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True) if np.ptp(x) > 0 and np.ptp(y) > 0]
    same = metrics.proportion(int((a.argmax(1) == b.argmax(1)).sum()), len(a))
    return {
        "n": len(a),
        "same_peak": same.bracket(),
        "max_change": float(np.abs(a - b).max()),
        "mean_change": float(np.abs(a - b).mean()),
        "median_rho": float(np.median(rho)) if rho else None,
    }


def map_cost(width: int, grid: int, depth: int) -> dict[str, float]:
    """Multiplications that the map adds to a forward pass, and their share of the blocks': one product a token and channel
    against 12 W^2 + 2 T W a token and block (Dosovitskiy et al. 2021's block)."""
    tokens = 1 + grid * grid
    added = float(grid * grid * width)
    return {"added": added, "share": added / (depth * tokens * (12 * width**2 + 2 * tokens * width))}
