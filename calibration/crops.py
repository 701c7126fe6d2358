"""What a model sees of a user's images: read as the device reads a still, cut to the fan, letterboxed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calibration.dataset import Dataset
from calibration.images import read_image
from calibration.leakage import perceptual_hash
from calibration.naming import lines
from edge.errors import InputError
from edge.screen.geometry import full_fan
from edge.screen.preprocess import Preprocessing, prepare, to_grey
from edge.screen.still import read_still

TRAINING_SCALE = 4 / 3  # side of a training crop in model inputs: zooming in by augmentation does not blur


@dataclass(frozen=True)
class Crops:
    """uint8. training [N,B,B]: to be augmented; model [N,S,S]: as the device would score them; hashes bool [N,255];
    signals: what the screen reader said of each ("OK", "DUAL", ...)."""

    training: np.ndarray
    model: np.ndarray
    hashes: np.ndarray
    signals: list[str]


def read_crops(data: Dataset, size: int, on_step: Callable[[int, int], None] = lambda done, total: None) -> Crops:
    """Every image, decoded once. InputError naming those that cannot be."""
    large, small = Preprocessing(size=round(size * TRAINING_SCALE)), Preprocessing(size=size)
    training, model, hashes, signals, bad = [], [], [], [], []
    for number, image in enumerate(data.images):
        on_step(number, len(data.images))
        try:
            picture = read_image(image.path)
        except InputError as error:
            bad.append(str(error))
            continue
        reading = read_still(picture, small)
        fan = reading.fan or full_fan(picture.shape)  # no fan found: the whole picture, as `hygroma score` does
        training.append(prepare(picture, fan, large))
        model.append(prepare(picture, fan, small))
        hashes.append(perceptual_hash(to_grey(picture)))
        signals.append(reading.signal.value)
    if bad:
        raise InputError(lines(bad))
    return Crops(np.stack(training), np.stack(model), np.stack(hashes), signals)
