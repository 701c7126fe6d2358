"""Distillation on unlabelled frames: before it is shown a label, the student learns to see what its teacher sees.

The student starts as the teacher's first blocks, so what leaves it are a middle layer's features. Here its tokens are drawn to
those that leave the teacher's last block, on frames that need no label: the run's own training pictures, label or not, and a
folder of frames that a site has recorded. Their directions are distilled or, where student and teacher differ in width, how alike
the tokens of an image are to each other (`export.training.train.token_distance`). Labels and logits follow, fold by fold.

Leakage: a fold's frames are its teacher's, so neither has seen the fold. Whose a frame of a site's folder is, nothing here can
know; what is the same image as a picture of the data is refused (`export.training.frames.decode_frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge.errors import InputError
from export.model.vit import HygromaViT, normalise
from export.training.augment import augment_unlabelled, reframe
from export.training.train import CPU, Schedule, ahead, fit_batches, token_distance

RECUT = 0.5  # share of the frames that are cut anew besides: how a still is cut must not say what it shows


def distil_unlabelled(
    student: HygromaViT,
    teacher: HygromaViT,
    frames: Sequence[np.ndarray],
    schedule: Schedule,
    checkpoint: Path,
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
    device: torch.device = CPU,
) -> None:
    """Train `student`'s blocks in place towards `teacher`'s last tokens on frames uint8 [B,B]. The teacher takes the student's
    input size (`at_image`) and is on `device`. Resumable, deterministic from the schedule's seed. InputError for fewer frames
    than a batch."""
    teacher.eval()
    size, steps = student.config.image, len(frames) // schedule.batch
    require_batch(len(frames), schedule.batch)

    def epoch_of(epoch: int) -> Iterator[Tensor]:
        order = np.random.default_rng([schedule.seed, epoch]).permutation(len(frames))

        def make(number: int) -> Tensor:
            rng = np.random.default_rng([schedule.seed, epoch, number])
            chosen = order[number * schedule.batch : (number + 1) * schedule.batch]
            return torch.from_numpy(np.stack([seen_anew(frames[i], size, rng) for i in chosen]))[:, None]

        return ahead(make, steps)

    def value_of(crops: Tensor) -> Tensor:
        x = normalise(crops)
        with torch.no_grad():
            aim = teacher(x).tokens
        return token_distance(student(x).tokens.float(), aim.float())

    fit_batches(student, steps, epoch_of, value_of, schedule, checkpoint, on_epoch, device=device)


def require_batch(frames: int, batch: int) -> None:
    """InputError for fewer frames than a batch."""
    if frames < batch:
        raise InputError(
            f"unlabelled frames: found {frames}, fewer than one batch ({batch}); add some to `unlabelled.frames`, or lower "
            "`batch` in the recipe"
        )


def seen_anew(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [B,B] -> uint8 [size,size]: the same frame, half of the time cut anew, at another place, scale, angle and gain."""
    return augment_unlabelled(reframe(frame, rng) if rng.random() < RECUT else frame, size, rng)
