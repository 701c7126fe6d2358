"""baseline: what the paper compares with, trained fold by fold on what the folds' teachers see of images with a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from calibration.bank import UNKNOWN, Bank
from edge.engines.selftest import sigmoid
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing
from export.atomic import remove
from export.stages.crops import Crops
from export.training.finetune import STATE, Examples, best_weights, fine_tune, logits
from export.training.systems import Classifier, System, build
from export.training.train import Schedule
from export.training.watched import WITH_FINDING, set_aside

LEARNED = (*WITH_FINDING, "cleaned")  # sources that a teacher learns its finding from, phantoms aside


@dataclass(frozen=True)
class BaselineCourse:
    """How a fold's baseline trains. folder: of its state and of its best weights; on_epoch hears the epochs done and the watched
    loss."""

    system: System
    schedule: Schedule
    patience: int
    folder: Path
    device: torch.device
    on_epoch: Callable[[int, float], None]


def with_finding(bank: Bank, keep: np.ndarray) -> np.ndarray:
    """Of the entries `keep`, those with a finding."""
    entries = bank.entries
    return np.array([i for i in keep if entries[i].source in LEARNED and entries[i].hygroma != UNKNOWN], int)


def baseline_predictions(crops: Crops, run: int, seed: int, course: BaselineCourse) -> dict[str, np.ndarray]:
    """Train a fold's baseline where it is not there yet -> "index" [n] into the bank, of the fold's held-out entries with a
    finding; "baseline_hygroma" [n], probabilities; "losses" on the watched images, one an epoch; "best" [1], the epoch whose
    weights are kept; "trained_on", "watched" [1]."""
    bank, spec = crops.bank, Preprocessing(size=course.system.image)
    trained, watched = set_aside(bank, with_finding(bank, crops.taught(run)), seed)
    keep = np.concatenate([trained, watched])
    labels = np.array([int(bank.entries[i].hygroma) for i in keep])
    examples = Examples(bank.crops[keep], crops.of(keep, spec), labels)
    places = np.arange(len(keep))
    model = build(course.system, course.schedule.seed)
    course.folder.mkdir(parents=True, exist_ok=True)
    outcome = fine_tune(
        model, examples, places[: len(trained)], places[len(trained) :], course.schedule, course.patience,
        course.folder, course.device, course.on_epoch,
    )  # fmt: skip
    held_out = with_finding(bank, crops.held_out(run))
    said = sigmoid(logits(model, crops.of(held_out, spec), course.device)) if len(held_out) else np.empty(0)
    return {
        "index": held_out,
        "baseline_hygroma": said.astype(np.float32),
        "losses": np.array(outcome.losses),
        "best": np.array([outcome.best]),
        "trained_on": np.array([len(trained)]),
        "watched": np.array([len(watched)]),
    }


def trained_baseline(system: System, folder: Path, best: int) -> Classifier:
    """A fold's baseline as it predicted. InputError where its weights are gone or damaged."""
    model, path = build(System(system.name, "random", system.image, system.vit), 0), best_weights(folder, best)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for damaged files
        said = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise InputError(f"{path}: {said}; delete {folder} and {folder}.npz to have that fold trained anew") from None
    return model.eval()


def clear_state(folder: Path) -> None:
    """What only an unfinished training needs."""
    remove(folder / STATE)
