"""Early stopping: labelled training patients that a model is not trained on tell after every epoch whether it still improves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from calibration.bank import UNKNOWN, Bank
from calibration.leakage import inner_split
from edge.errors import HygromaError
from export.model.vit import HygromaViT, normalise

SCORED_AT_ONCE = 64  # pictures a forward pass: bounds memory
WITH_FINDING = ("real", "sham", "lesion")  # sources whose label is a finding; "cleaned" shows the same picture again


@dataclass(frozen=True)
class Watched:
    """crops uint8 [N,S,S], as the device would score them, and labels {0,1} [N]; patience: epochs without a smaller loss after
    which training ends, 1 or more."""

    crops: np.ndarray
    labels: np.ndarray
    patience: int

    @torch.no_grad()
    def loss(self, model: HygromaViT, device: torch.device) -> float:
        """Cross-entropy of the hygroma head in float32; `model` is on `device`, and stays in the mode that it is in."""
        training = model.training
        model.eval()
        parts = [
            model(normalise(torch.from_numpy(self.crops[at : at + SCORED_AT_ONCE])[:, None].to(device))).hygroma.float().cpu()
            for at in range(0, len(self.crops), SCORED_AT_ONCE)
        ]
        model.train(training)
        aim = torch.from_numpy(np.asarray(self.labels)).float()
        return float(F.binary_cross_entropy_with_logits(torch.cat(parts), aim))

    def ended(self, losses: Sequence[float]) -> bool:
        """Whether training is over after these losses, one an epoch."""
        return len(losses) - best_epoch(losses) >= self.patience


def best_epoch(losses: Sequence[float]) -> int:
    """The epoch, from 1, with the smallest loss, of equal ones the first; 0 without a finite one."""
    finite = [(loss, number) for number, loss in enumerate(losses, 1) if math.isfinite(loss)]
    return min(finite)[1] if finite else 0


def require_best(best: Any, where: object) -> Any:
    """The best weights. HygromaError where no epoch had any."""
    if best is None:
        raise HygromaError(
            f"{where}: training diverged, no epoch had a finite loss; lower the learning rate, and delete the file"
        )
    return best


def watchable(bank: Bank, taught: np.ndarray) -> np.ndarray:
    """Of the entries `taught`, those that may tell when to stop: real images with a finding, or, where these lack a class, all
    entries with one."""
    entries = bank.entries
    known = [i for i in taught if entries[i].source in WITH_FINDING and entries[i].hygroma != UNKNOWN]
    real = [i for i in known if entries[i].source == "real"]
    both = {entries[i].hygroma for i in real} == {0.0, 1.0}
    return np.array(real if both else known, int)


def set_aside(bank: Bank, taught: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries `taught` of a run -> (trained on, watched): about a fifth of the patients with a finding is watched, and
    nothing of theirs is trained on. InputError where either part would lack a class."""
    told = watchable(bank, taught)
    groups = {int(i): group_of(bank, int(i)) for i in taught}
    labels = np.array([int(bank.entries[i].hygroma) for i in told], int)
    _, watched = inner_split(labels, [groups[int(i)] for i in told], np.arange(len(told)), seed)
    watched = told[watched]
    aside = {groups[int(i)] for i in watched}
    return np.array([i for i in taught if groups[int(i)] not in aside], int), watched


def group_of(bank: Bank, index: int) -> str:
    """Whose an entry is: the patient; without one the still, and without a still the entry itself."""
    entry = bank.entries[index]
    return entry.owner if entry.group or entry.still >= 0 else f"entry {index}"
