"""Fine-tuning of one classifier on labelled crops, with early stopping on images that it is not trained on. Resumable after
every epoch; what comes next follows from seed and epoch alone, so that a run that was cut ends in the same weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.errors import ConfigError, HygromaError
from export.atomic import appearing, intact, remove
from export.model.vit import normalise
from export.training.augment import augment
from export.training.precision import autocast, record
from export.training.systems import Classifier
from export.training.train import LABEL_SMOOTHING, Schedule, ahead, layered_groups, rate_factor

log = logging.getLogger("hygroma.finetune")

MAX_GRADIENT = 1.0  # norm at which gradients are clipped, as in `train.fit`
SCORED_AT_ONCE = 64  # images
STATE = "training.pt"  # of an unfinished run


@dataclass(frozen=True)
class Examples:
    """training uint8 [N,B,B]: crops to augment; model uint8 [N,S,S]: crops as scored; labels {0,1} [N]."""

    training: np.ndarray
    model: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """best: the epoch, from 1, whose weights are kept; losses: cross-entropy on the watched images after every epoch."""

    best: int
    losses: list[float]


def open_device(name: str) -> torch.device:
    """ConfigError when CUDA is asked for and not there."""
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"--device cuda: torch {torch.__version__} sees no CUDA device here; use --device cpu, or install the driver "
                "and a CUDA build of torch (python -c 'import torch; print(torch.cuda.is_available())')"
            )
        torch.backends.cudnn.benchmark = False  # it would choose other kernels from run to run
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # float32 is what it says, in convolutions too
    elif name != "cpu":
        raise ConfigError(f"--device: found {name!r}; expected cpu or cuda")
    return torch.device(name)


def fine_tune(
    model: Classifier,
    examples: Examples,
    trained: np.ndarray,
    watched: np.ndarray,
    schedule: Schedule,
    patience: int,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Outcome:
    """Train `model` on the examples `trained` until `patience` epochs have not improved the loss on `watched`; leaves it with
    its best weights, in evaluation mode. `folder` holds the state of an unfinished run."""
    model.to(device)
    optimiser = torch.optim.AdamW(
        layered_groups(model, model.layer_of, model.depth, schedule),  # type: ignore[arg-type]
        lr=schedule.lr,
    )
    state, losses, best = folder / STATE, [], 0
    if state.is_file():
        with intact(state):
            saved = torch.load(state, map_location=device, weights_only=True)
            model.load_state_dict(saved["model"])
            optimiser.load_state_dict(saved["optimiser"])
            losses, best = saved["losses"], saved["best"]
    while len(losses) < schedule.epochs and len(losses) - best < patience:
        record(state, device)
        epoch, started = len(losses), time.monotonic()
        _train_epoch(model, optimiser, examples, trained, schedule, epoch, device)
        losses.append(_loss(model, examples, watched, device))
        if losses[-1] < min(losses[:-1], default=float("inf")):
            best = epoch + 1
            with appearing(best_weights(folder, best)) as partial:
                torch.save(model.state_dict(), partial)
        with appearing(state) as partial:
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses, "best": best},
                partial,
            )
        for old in folder.glob("epoch*.pt"):  # an older best, or one newer than the state: its epoch was cut off
            if old != best_weights(folder, best):
                remove(old)
        log.info("%s epoch %d watched loss %.4f %.0f s", folder.name, epoch + 1, losses[-1], time.monotonic() - started)
        on_epoch(epoch + 1, losses[-1])
    if best == 0:
        raise HygromaError(
            f"{folder}: training diverged, no epoch had a finite loss; lower the learning rate, and delete the folder"
        )
    model.load_state_dict(torch.load(best_weights(folder, best), map_location=device, weights_only=True))
    model.eval()
    return Outcome(best, losses)


def best_weights(folder: Path, epoch: int) -> Path:
    """Where the weights of the best epoch so far are kept."""
    return folder / f"epoch{epoch:04d}.pt"


@torch.no_grad()
def logits(model: Classifier, crops: np.ndarray, device: torch.device) -> np.ndarray:
    """FP32 logits [N] of crops uint8 [N,S,S]."""
    model.eval()
    parts = [
        model(normalise(torch.from_numpy(crops[start : start + SCORED_AT_ONCE])[:, None].to(device)))
        for start in range(0, len(crops), SCORED_AT_ONCE)
    ]
    return torch.cat(parts).float().cpu().numpy()


def _loss(model: Classifier, examples: Examples, keep: np.ndarray, device: torch.device) -> float:
    aim = torch.from_numpy(examples.labels[keep]).float()
    return float(F.binary_cross_entropy_with_logits(torch.from_numpy(logits(model, examples.model[keep], device)), aim))


def _train_epoch(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    examples: Examples,
    trained: np.ndarray,
    schedule: Schedule,
    epoch: int,
    device: torch.device,
) -> None:
    model.train()
    torch.manual_seed(schedule.seed * schedule.epochs + epoch)  # should a system have dropout
    steps = max(1, min(-(-len(trained) // schedule.batch), len(trained) // model.least_batch))
    for number, (crops, labels) in enumerate(_batches(examples, trained, steps, schedule.seed, epoch)):
        factor = rate_factor((epoch * steps + number) / (schedule.epochs * steps), schedule.warmup)
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * group["scale"] * factor
        aim = labels.clamp(LABEL_SMOOTHING, 1 - LABEL_SMOOTHING).to(device)
        with autocast(device):
            out = model(normalise(crops.to(device)))
        loss = F.binary_cross_entropy_with_logits(out.float(), aim)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], MAX_GRADIENT)
        optimiser.step()


def _batches(
    examples: Examples, trained: np.ndarray, steps: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every trained image once, in batches of nearly equal size: uint8 [n,1,S,S], float [n]. The next batch is augmented while
    the present one trains."""
    order = np.random.default_rng([seed, epoch]).permutation(trained)
    chunks, size = np.array_split(order, steps), examples.model.shape[1]

    def make(number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, epoch, number])
        crops = np.stack([augment(examples.training[i], None, size, rng)[0] for i in chunks[number]])
        return torch.from_numpy(crops)[:, None], torch.from_numpy(examples.labels[chunks[number]]).float()

    return ahead(make, steps)
