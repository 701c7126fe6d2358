"""Training of teacher and student on a bank of labelled crops: one loop, one loss, resumable after every epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.bank import UNKNOWN, Bank
from export.augment import augment, map_target
from export.vit import HygromaViT, ViTOutputs, normalise

log = logging.getLogger("hygroma.train")

SOURCE_SHARES = {  # crops of an epoch, as a share of the number of training stills; standard planes appear three times over
    "real": 0.45,
    "sham": 0.30,
    "lesion": 0.50,
    "hc18": 0.15,
    "phantom": 0.35,
}
MAP_WEIGHT = 0.5  # the map's loss beside the two heads': localising helps, deciding matters more
SOFT_WEIGHT, TOKEN_WEIGHT = 0.5, 0.5  # the teacher beside the labels: it is no better than they are on simulated lesions
LABEL_SMOOTHING = 0.02  # simulated labels are clean, but probabilities of 0 and 1 would make the decision brittle


@dataclass(frozen=True)
class Schedule:
    """epochs, batch; lr: peak for the last block; layer_decay: factor a block towards the input; frozen_blocks: first n
    blocks and the embeddings are not trained."""

    epochs: int
    batch: int = 32
    lr: float = 2e-4
    layer_decay: float = 0.8
    weight_decay: float = 0.05
    warmup: float = 0.1
    frozen_blocks: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Tensors on the training device: crops uint8 [N,1,S,S]; plane, hygroma float [N] (UNKNOWN = -1); map [N,G,G]; has_map
    bool [N]."""

    crops: Tensor
    plane: Tensor
    hygroma: Tensor
    nuchal_map: Tensor
    has_map: Tensor


def draw_epoch(bank: Bank, keep: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of one epoch's crops: the shares of SOURCE_SHARES, shuffled; sources the bank lacks are left out."""
    by_source: dict[str, list[int]] = {}
    for i in keep:
        by_source.setdefault(bank.entries[i].source, []).append(int(i))
    stills = len(by_source["real"])
    picks = []
    for source, indices in sorted(by_source.items()):
        count = round(SOURCE_SHARES[source] * stills)
        picks.append(rng.choice(indices, count, replace=count > len(indices)))
    out = np.concatenate(picks)
    rng.shuffle(out)
    return out


def make_batch(bank: Bank, indices: np.ndarray, size: int, grid: int, rng: np.random.Generator) -> Batch:
    crops, maps, has_map = [], [], []
    for i in indices:
        entry = bank.entries[i]
        crop, box = augment(bank.crops[i], entry.box, size, rng)
        crops.append(crop)
        maps.append(map_target(box, grid))
        has_map.append(entry.box is not None)
    entries = [bank.entries[i] for i in indices]
    return Batch(
        torch.from_numpy(np.stack(crops))[:, None],
        torch.tensor([e.plane for e in entries]),
        torch.tensor([e.hygroma for e in entries]),
        torch.from_numpy(np.stack(maps)),
        torch.tensor(has_map),
    )


def batches(bank: Bank, order: np.ndarray, model: HygromaViT, schedule: Schedule, epoch: int) -> Iterator[Batch]:
    """The epoch's batches, the next one augmented while the present one trains. Deterministic from seed and epoch."""
    chunks = [order[i : i + schedule.batch] for i in range(0, len(order) - schedule.batch + 1, schedule.batch)]

    def build(number: int) -> Batch:
        rng = np.random.default_rng([schedule.seed, epoch, number])
        return make_batch(bank, chunks[number], model.config.image, model.config.grid, rng)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(build, 0)
        for number in range(len(chunks)):
            batch = coming.result()
            if number + 1 < len(chunks):
                coming = pool.submit(build, number + 1)
            yield batch


def label_loss(out: ViTOutputs, batch: Batch) -> Tensor:
    """Masked cross-entropies of both heads plus the nuchal map's."""

    def head(logits: Tensor, labels: Tensor) -> Tensor:
        known = labels != UNKNOWN
        targets = labels.clamp(LABEL_SMOOTHING, 1 - LABEL_SMOOTHING)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (loss * known).sum() / known.sum().clamp(min=1)

    maps = F.binary_cross_entropy_with_logits(out.nuchal_map.float(), batch.nuchal_map, reduction="none").mean((1, 2))
    map_loss = (maps * batch.has_map).sum() / batch.has_map.sum().clamp(min=1)
    return head(out.plane.float(), batch.plane) + head(out.hygroma.float(), batch.hygroma) + MAP_WEIGHT * map_loss


def parameter_groups(model: HygromaViT, schedule: Schedule) -> list[dict[str, object]]:
    """Layer-wise learning-rate decay (arXiv 2106.08254); no weight decay on vectors. Frozen blocks get no gradient."""
    depth = model.config.depth
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0
        if name.startswith(("norm.", "map_head", "plane_head", "hygroma_head")):
            layer = depth + 1
        parameter.requires_grad = layer > schedule.frozen_blocks or schedule.frozen_blocks == 0
        if parameter.requires_grad:
            groups.setdefault((layer, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": (3.0 if layer == depth + 1 else 1.0) * schedule.layer_decay ** max(0, depth - layer),
            "weight_decay": schedule.weight_decay if matrix else 0.0,
        }
        for (layer, matrix), parameters in groups.items()
    ]


Loss = Callable[[ViTOutputs, Batch, Tensor], Tensor]  # (outputs, batch, normalised input) -> scalar


def fit(
    model: HygromaViT,
    bank: Bank,
    keep: np.ndarray,
    schedule: Schedule,
    checkpoint: Path,
    loss: Loss = lambda out, batch, _: label_loss(out, batch),
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
) -> None:
    """Train `model` in place on the bank's entries `keep`. A checkpoint after every epoch; a rerun goes on from it."""
    optimiser = torch.optim.AdamW(parameter_groups(model, schedule), lr=schedule.lr)  # type: ignore[arg-type]
    epoch = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        epoch = saved["epoch"]
    steps = len(draw_epoch(bank, keep, np.random.default_rng(0))) // schedule.batch
    model.train()
    while epoch < schedule.epochs:
        order = draw_epoch(bank, keep, np.random.default_rng([schedule.seed, epoch]))
        started, total = time.monotonic(), 0.0
        for number, batch in enumerate(batches(bank, order, model, schedule, epoch)):
            progress = (epoch * steps + number) / (schedule.epochs * steps)
            factor = min(1.0, progress / schedule.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in optimiser.param_groups:
                group["lr"] = schedule.lr * group["scale"] * max(factor, 1e-3)
            x = normalise(batch.crops)
            with torch.autocast("cpu", torch.bfloat16):
                out = model(x)
                value = loss(out, batch, x)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
            optimiser.step()
            total += float(value.detach())
        epoch += 1
        log.info(
            "%s epoch %d/%d loss %.4f %.0f s",
            checkpoint.stem,
            epoch,
            schedule.epochs,
            total / steps,
            time.monotonic() - started,
        )
        partial = checkpoint.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}, partial)
        partial.replace(checkpoint)
        on_epoch(epoch, total / steps)
    model.eval()


def distillation_loss(teacher: HygromaViT) -> Loss:
    """Labels, plus the teacher's soft logits, map and token directions on the same augmented crop (real pixels only: the
    teacher of this recipe has not seen phantoms, whose batches carry labels alone)."""
    teacher.eval()

    def loss(out: ViTOutputs, batch: Batch, x: Tensor) -> Tensor:
        with torch.no_grad():
            aim = teacher(x)
        soft = F.binary_cross_entropy_with_logits(out.plane.float(), aim.plane.float().sigmoid())
        judged = batch.plane == 1  # the hygroma head answers for assessable planes only
        gap = F.binary_cross_entropy_with_logits(out.hygroma.float(), aim.hygroma.float().sigmoid(), reduction="none")
        soft = soft + (gap * judged).sum() / judged.sum().clamp(min=1)
        soft = soft + MAP_WEIGHT * F.binary_cross_entropy_with_logits(
            out.nuchal_map.float(), aim.nuchal_map.float().sigmoid()
        )
        tokens = 1 - F.cosine_similarity(out.tokens.float(), aim.tokens.float(), dim=-1).mean()
        return label_loss(out, batch) + SOFT_WEIGHT * soft + TOKEN_WEIGHT * tokens

    return loss


@torch.no_grad()
def predict(model: HygromaViT, crops: np.ndarray, batch: int = 64) -> dict[str, np.ndarray]:
    """FP32 outputs for uint8 crops [N,S,S]: logits "plane", "hygroma" [N], "embedding" [N,W], "nuchal_map" [N,G,G]."""
    model.eval()
    parts: list[ViTOutputs] = []
    for start in range(0, len(crops), batch):
        out = model(normalise(torch.from_numpy(crops[start : start + batch])[:, None]))
        parts.append(replace(out, tokens=out.tokens[:, :0]))
    names = ("plane", "hygroma", "embedding", "nuchal_map")
    return {name: torch.cat([getattr(part, name) for part in parts]).numpy() for name in names}
