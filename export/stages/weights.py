"""train and distill: a run's teacher, and the student that learns from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.bank import Bank
from export.atomic import Form
from export.heads.features import HeadInputs
from export.heads.fit import CUTS, probe_plane_head, refit_hygroma_head
from export.model.vit import HygromaViT, ViTConfig
from export.model.weights import at_image, load_backbone, student_from_teacher
from export.training.systems import RANDOM
from export.training.train import Schedule, distillation_loss, fit
from export.training.unlabelled import distil_unlabelled
from export.training.watched import Watched

Epochs = Callable[[int, float], None]  # (epochs done, loss)
WEIGHTS: Form[dict[str, Any]] = Form(torch.save, partial(torch.load, weights_only=True))


@dataclass(frozen=True)
class Course:
    """How a model trains: goes on from `checkpoint`, which is written after every epoch. watched: what tells when to stop."""

    schedule: Schedule
    checkpoint: Path
    on_epoch: Epochs
    device: torch.device
    watched: Watched | None = None


def at_start(config: ViTConfig, init: str, seed: int) -> HygromaViT:
    """A teacher before its training. init: a checkpoint, or "random"."""
    torch.manual_seed(seed)
    model = HygromaViT(config)
    if init != RANDOM:
        load_backbone(model, Path(init))
    return model


def taught_teacher(bank: Bank, taught: np.ndarray, config: ViTConfig, init: str, course: Course) -> HygromaViT:
    """A teacher from `init`, trained on the bank's entries `taught`, if it is not there yet."""
    model = at_start(config, init, course.schedule.seed)
    if not course.checkpoint.is_file():
        probe_plane_head(model, bank, taught, course.schedule.seed)
    fit(
        model, bank, taught, course.schedule, course.checkpoint,
        on_epoch=course.on_epoch, device=course.device, watched=course.watched,
    )  # fmt: skip
    return model


def plane_again(model: HygromaViT, bank: Bank, taught: np.ndarray, seed: int) -> dict[str, Any]:
    """The weights of a teacher's plane head, fitted again at the end."""
    probe_plane_head(model, bank, taught, seed)
    return model.plane_head.state_dict()


def distilled_student(
    teacher: HygromaViT,
    bank: Bank,
    taught: np.ndarray,
    training: np.ndarray,
    config: ViTConfig,
    blocks: Sequence[int],
    course: Course,
    unlabelled: tuple[Sequence[np.ndarray], Course] | None,
) -> HygromaViT:
    """A student that starts from its teacher's `blocks`, distilled on the entries `training` if it is not there yet. unlabelled:
    the frames that it is shown first, without labels, its tokens drawn towards its teacher's last ones; None for none."""
    torch.manual_seed(course.schedule.seed)
    model = HygromaViT(config)
    student_from_teacher(model, teacher, tuple(blocks))
    teacher = at_image(teacher, config.image).to(course.device)
    if not course.checkpoint.is_file():
        if unlabelled is not None:
            frames, first = unlabelled
            distil_unlabelled(
                model, teacher, frames, first.schedule, first.checkpoint, on_epoch=first.on_epoch, device=first.device
            )
        probe_plane_head(model, bank, taught, course.schedule.seed)
    fit(
        model, bank, training, course.schedule, course.checkpoint, distillation_loss(teacher),
        on_epoch=course.on_epoch, device=course.device,
    )  # fmt: skip
    return model


def fitted_heads(
    model: HygromaViT,
    bank: Bank,
    training: np.ndarray,
    calibration: np.ndarray,
    seed: int,
    threads: int,
    on_step: Callable[[int, int], None],
) -> dict[str, Any]:
    """The weights of a student's heads, fitted to the end on what its trunk shows them, in float and in INT8."""
    shown = HeadInputs.by_student(model.state_dict(), model.config, calibration, threads)
    refit_hygroma_head(model, shown, bank, training, seed, on_step)
    probe_plane_head(model, bank, training, seed, CUTS, shown)
    return {name: head.state_dict() for name, head in model.fitted_heads().items()}
