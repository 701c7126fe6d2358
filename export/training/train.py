"""Training of teacher and student on a bank of labelled crops: one loop, one loss, resumable after every epoch."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.bank import Bank, Entry
from calibration.dataset import UNKNOWN
from export.atomic import intact
from export.model.heads import BY_SOURCE, HYGROMA, LABEL, PLANE, THICKNESS, Head
from export.model.vit import HygromaViT, ViTOutputs, normalise
from export.training.augment import augment, map_target
from export.training.precision import CPU, autocast, record
from export.training.watched import Watched, best_epoch, require_best

log = logging.getLogger("hygroma.train")

T = TypeVar("T")
B = TypeVar("B", "Batch", Tensor)  # what a step trains on: labelled crops, or crops alone

# Crops of an epoch, as a share of the number of training stills, by stratum (see `stratum`). Where few strata are there, all
# shares grow until an epoch has as many crops as there are stills.
EPOCH_SHARES = {
    "real, standard": 0.30,
    "real, positive": 0.30,
    "real, other": 0.25,  # as many as standard ones: three in four stills are standard planes
    "cleaned": 0.20,
    "sham": 0.25,
    "borderline": 0.12,
    "lesion": 0.40,
    "elsewhere": 0.16,
    "phantom": 0.25,
}
PLANE_WEIGHTS = {"real": 1.0, "cleaned": 0.5, "elsewhere": 1.0}  # an edit must not teach that what was edited is assessable
EDITED_PLANE_WEIGHT = 0.2  # of every other source
MAP_WEIGHT = 0.5  # the map's loss beside the two heads': localising helps, deciding matters more
# The softmax of the map pools the tokens that the hygroma head reads, so it is trained too, not the single logits alone: with
# those, .58 of its mass lay in the box, and ridge regression on what it pooled went with the thickness at .29, on what
# the annotated box pools at .54 (rank correlation, validation split, n = 119).
POOLING_WEIGHT = 0.25
SHOWN_WEIGHT = 0.5  # of the hygroma head's loss when it is shown the annotated box
# The hygroma head's log-odds follow the thickness where it is known: 0 at MIDDLE_MM, between the 95th centile of normal
# (2.1-2.7 mm) and the smallest collection (3.2 mm). Trained on the label alone it did not rank real stills by thickness
# (Spearman .2 out of fold, n = 456).
MIDDLE_MM = 2.75
LOG_ODDS_PER_E = 4.0  # 1.35 mm, the median normal, lands at -2.8; 6 mm at +3.1
MAX_LOG_ODDS = 5.0  # beyond it nothing is gained by being surer
THICKNESS_WEIGHT = 0.5
SOFT_PLANE_WEIGHT, SOFT_HYGROMA_WEIGHT, TOKEN_WEIGHT = 0.5, 0.2, 0.5  # the teacher beside the labels
RELATION_TEMPERATURE = 0.1  # of cosines: a token's likeness to itself, 1, is then e^10 times that to an unlike one
LABEL_SMOOTHING = 0.02  # simulated labels are clean, but probabilities of 0 and 1 would make the decision brittle


@dataclass(frozen=True)
class Schedule:
    """epochs, batch; lr: peak for the last block; layer_decay: factor a block towards the input; frozen_blocks: first n
    blocks and the embeddings are not trained; head_scale, new_heads: factors on lr for the plane head and the last norm, and
    for the map and hygroma heads."""

    epochs: int
    batch: int = 32
    lr: float = 2e-4
    layer_decay: float = 0.8
    weight_decay: float = 0.05
    warmup: float = 0.1
    frozen_blocks: int = 0
    head_scale: float = 3.0
    new_heads: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Tensors on the training device: crops uint8 [N,1,S,S]; plane: probability aimed at, and its weight [N], 0 where it is not
    known; hygroma: probability aimed at,
    or UNKNOWN = -1 [N]; log_odds: aimed at where the thickness is known, else NaN [N]; map [N,G,G]; has_map bool [N];
    labels {0,1} or UNKNOWN [N] of the model's further heads, by name."""

    crops: Tensor
    plane: Tensor
    plane_weight: Tensor
    hygroma: Tensor
    log_odds: Tensor
    nuchal_map: Tensor
    has_map: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict, kw_only=True)

    def to(self, device: torch.device) -> Batch:
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self) if f.name != "labels"), labels=labels)


def stratum(entry: Entry) -> str:
    """The stratum of EPOCH_SHARES that an entry is drawn from."""
    if entry.source == "real":
        return "real, positive" if entry.hygroma == 1 else "real, standard" if entry.standard else "real, other"
    return entry.source


def draw_epoch(bank: Bank, keep: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of one epoch's crops: the shares of EPOCH_SHARES, shuffled; strata the bank lacks are left out."""
    by_stratum: dict[str, list[int]] = {}
    for i in keep:
        by_stratum.setdefault(stratum(bank.entries[i]), []).append(int(i))
    stills = sum(bank.entries[i].source == "real" for i in keep)
    picks, factor = [], max(1.0, 1 / sum(EPOCH_SHARES[name] for name in by_stratum))
    for name, indices in sorted(by_stratum.items()):
        count = round(EPOCH_SHARES[name] * factor * stills)
        picks.append(rng.choice(indices, count, replace=count > len(indices)))
    out = np.concatenate(picks)
    rng.shuffle(out)
    return out


def thickness_log_odds(entry: Entry) -> float:
    """The log-odds of a hygroma that an entry's thickness stands for; NaN when it is unknown or not to be learned from (a
    real still whose label is unknown: evidence, or not the nuchal plane)."""
    untouched = entry.source in ("real", "cleaned", "phantom")
    if entry.thickness_mm <= 0 or untouched and entry.hygroma == UNKNOWN:
        return math.nan
    return float(np.clip(LOG_ODDS_PER_E * math.log(entry.thickness_mm / MIDDLE_MM), -MAX_LOG_ODDS, MAX_LOG_ODDS))


def thickness_aims(entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
    """What the hygroma head should say of each: log-odds [N], NaN where the thickness is not known, and probability [N],
    which is the smoothed label there, or UNKNOWN."""
    log_odds = torch.tensor([thickness_log_odds(e) for e in entries])
    labels = torch.tensor([e.hygroma for e in entries])
    smooth = torch.where(labels == UNKNOWN, labels, labels.clamp(LABEL_SMOOTHING, 1 - LABEL_SMOOTHING))
    return log_odds, torch.where(log_odds.isnan(), smooth, log_odds.sigmoid())


def make_batch(
    bank: Bank, indices: np.ndarray, size: int, grid: int, rng: np.random.Generator, others: Sequence[Head] = ()
) -> Batch:
    crops, maps, has_map = [], [], []
    for i in indices:
        entry = bank.entries[i]
        crop, box = augment(bank.crops[i], entry.box, size, rng)
        crops.append(crop)
        maps.append(map_target(box, grid))
        has_map.append(entry.box is not None)
    entries = [bank.entries[i] for i in indices]
    log_odds, hygroma = thickness_aims(entries)
    return Batch(
        torch.from_numpy(np.stack(crops))[:, None],
        torch.tensor([e.plane_aim for e in entries]),
        torch.tensor([0.0 if e.plane_aim == UNKNOWN else PLANE_WEIGHTS.get(e.source, EDITED_PLANE_WEIGHT) for e in entries]),
        hygroma,
        log_odds,
        torch.from_numpy(np.stack(maps)),
        torch.tensor(has_map),
        labels={head.name: torch.tensor([e.label(head.column) for e in entries]) for head in others},
    )


def batches(bank: Bank, order: np.ndarray, model: HygromaViT, schedule: Schedule, epoch: int) -> Iterator[Batch]:
    """The epoch's batches, the next one augmented while the present one trains. Deterministic from seed and epoch."""
    chunks = [order[i : i + schedule.batch] for i in range(0, len(order) - schedule.batch + 1, schedule.batch)]

    def build(number: int) -> Batch:
        rng = np.random.default_rng([schedule.seed, epoch, number])
        return make_batch(bank, chunks[number], model.config.image, model.config.grid, rng, model.config.others)

    return ahead(build, len(chunks))


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """make(0) to make(count - 1), the next one made while the present one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, 0)
        for number in range(count):
            made = coming.result()
            if number + 1 < count:
                coming = pool.submit(make, number + 1)
            yield made


def label_loss(out: ViTOutputs, batch: Batch, others: Sequence[Head] = ()) -> Tensor:
    """Cross-entropies of the heads and the nuchal map, and the hygroma head's distance from the thickness. others: the model's
    heads besides plane and hygroma."""
    told = sum(term for head in (PLANE, HYGROMA, *others) for term in LOSSES[head.loss](head, out, batch))
    maps = F.binary_cross_entropy_with_logits(out.nuchal_map.float(), batch.nuchal_map, reduction="none").mean((1, 2))
    aim = F.normalize(batch.nuchal_map.flatten(1), p=1.0)
    pooling = -(aim * out.nuchal_map.float().flatten(1).log_softmax(1)).sum(1)
    return told + MAP_WEIGHT * _mean(maps, batch.has_map) + POOLING_WEIGHT * _mean(pooling, batch.has_map)


def _by_source(head: Head, out: ViTOutputs, batch: Batch) -> list[Tensor]:
    label = batch.plane.clamp(LABEL_SMOOTHING, 1 - LABEL_SMOOTHING)
    said = out.logits(head.name).float()
    loss = F.binary_cross_entropy_with_logits(said, label, batch.plane_weight, reduction="sum")
    return [loss / batch.plane_weight.sum().clamp(min=1e-6)]  # a batch may have no label of a plane


def _with_thickness(head: Head, out: ViTOutputs, batch: Batch) -> list[Tensor]:
    found = [_hygroma_loss(out.logits(head.name), batch, torch.ones_like(batch.has_map))]
    if out.hygroma_shown is not None:
        found.append(SHOWN_WEIGHT * _hygroma_loss(out.hygroma_shown, batch, batch.has_map))
    return found


def _label_alone(head: Head, out: ViTOutputs, batch: Batch) -> list[Tensor]:
    label = batch.labels[head.name]
    aim = label.clamp(LABEL_SMOOTHING, 1 - LABEL_SMOOTHING)
    loss = F.binary_cross_entropy_with_logits(out.logits(head.name).float(), aim, reduction="none")
    return [_mean(loss, label != UNKNOWN)]


LOSSES: dict[str, Callable[[Head, ViTOutputs, Batch], list[Tensor]]] = {
    BY_SOURCE: _by_source,
    THICKNESS: _with_thickness,
    LABEL: _label_alone,
}


def _hygroma_loss(logits: Tensor, batch: Batch, among: Tensor) -> Tensor:
    """The hygroma head's cross-entropy and its distance from the thickness, over the crops `among` bool [N]."""
    logits = logits.float()
    known = (batch.hygroma != UNKNOWN) & among
    label = F.binary_cross_entropy_with_logits(logits, batch.hygroma.clamp(min=0), reduction="none")
    measured = ~batch.log_odds.isnan() & among
    distance = F.smooth_l1_loss(logits, batch.log_odds.nan_to_num(), reduction="none")
    return _mean(label, known) + THICKNESS_WEIGHT * _mean(distance, measured)


def _mean(values: Tensor, keep: Tensor) -> Tensor:
    """The mean of the kept values; 0 when there is none."""
    return (values * keep).sum() / keep.sum().clamp(min=1)


def layered_groups(
    model: torch.nn.Module, layer_of: Callable[[str], int], depth: int, schedule: Schedule
) -> list[dict[str, object]]:
    """Layer-wise learning-rate decay (arXiv 2106.08254); no weight decay on vectors. `layer_of`: parameter name -> 0 (nearest
    the input) to depth, depth + 1 for heads, depth + 2 for heads that start from nothing. Frozen layers get no gradient."""
    heads = {depth + 1: schedule.head_scale, depth + 2: schedule.new_heads}
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        parameter.requires_grad = layer > schedule.frozen_blocks or schedule.frozen_blocks == 0
        if parameter.requires_grad:
            groups.setdefault((layer, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": heads.get(layer, 1.0) * schedule.layer_decay ** max(0, depth - layer),
            "weight_decay": schedule.weight_decay if matrix else 0.0,
        }
        for (layer, matrix), parameters in groups.items()
    ]


def parameter_groups(model: HygromaViT, schedule: Schedule) -> list[dict[str, object]]:
    """The groups of our transformer: a layer a block; the last norm counts as a head."""
    depth = model.config.depth
    return layered_groups(model, lambda name: vit_layer(name, depth), depth, schedule)


def vit_layer(name: str, depth: int) -> int:
    """The layer of one of HygromaViT's parameters, as `layered_groups` counts."""
    if name.startswith(("norm.", "plane_head")):
        return depth + 1
    if name.startswith(("tap_norm", "map_head", "hygroma_head", "other_heads")):
        return depth + 2
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0


def rate_factor(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` in [0,1]: linear warm-up under a cosine, never below a thousandth."""
    return max(min(1.0, progress / warmup) * 0.5 * (1 + math.cos(math.pi * progress)), 1e-3)


Loss = Callable[[ViTOutputs, Batch, Tensor], Tensor]  # (outputs, batch, normalised input) -> scalar


def fit(
    model: HygromaViT,
    bank: Bank,
    keep: np.ndarray,
    schedule: Schedule,
    checkpoint: Path,
    loss: Loss | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
    faster: bool = True,
    device: torch.device = CPU,
    watched: Watched | None = None,
) -> None:
    """Train `model` in place on the bank's entries `keep` and their labels, as `fit_batches` does. A teacher that `loss` asks
    must be on `device`."""

    def epoch_of(epoch: int) -> Iterator[Batch]:
        order = draw_epoch(bank, keep, np.random.default_rng([schedule.seed, epoch]))
        return batches(bank, order, model, schedule, epoch)

    def value_of(batch: Batch) -> Tensor:
        x = normalise(batch.crops)
        out = model(x, batch.nuchal_map)
        return label_loss(out, batch, model.config.others) if loss is None else loss(out, batch, x)

    steps = len(draw_epoch(bank, keep, np.random.default_rng(0))) // schedule.batch
    fit_batches(model, steps, epoch_of, value_of, schedule, checkpoint, on_epoch, faster, device, watched)


def fit_batches(
    model: HygromaViT,
    steps: int,
    epoch_of: Callable[[int], Iterator[B]],
    value_of: Callable[[B], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
    faster: bool = True,
    device: torch.device = CPU,
    watched: Watched | None = None,
) -> None:
    """Train `model` in place on the batches of `epoch_of(epoch)`, `steps` of them, so that `value_of(batch)` becomes small. A
    checkpoint after every epoch; a rerun goes on from it. faster: products in bfloat16 where that is faster
    (`export.training.precision`). device: where it trains. The model comes back to the CPU, and a checkpoint's tensors are on
    it, so that any device goes on from any other's. watched: what tells when to stop; the model then comes back with the weights
    of the best epoch."""
    model.to(device)
    optimiser = torch.optim.AdamW(parameter_groups(model, schedule), lr=schedule.lr)  # type: ignore[arg-type]
    epoch, losses, best = 0, list[float](), None
    if checkpoint.is_file():
        with intact(checkpoint):
            saved = torch.load(checkpoint, map_location=CPU, weights_only=True)
            model.load_state_dict(saved["model"])
            optimiser.load_state_dict(saved["optimiser"])
            epoch = saved["epoch"]
            if watched is not None:
                losses, best = saved["losses"], saved["best"]
    model.train()
    while epoch < schedule.epochs and not (watched is not None and watched.ended(losses)):
        if faster:
            record(checkpoint, device)
        started, total = time.monotonic(), 0.0
        for number, batch in enumerate(epoch_of(epoch)):
            factor = rate_factor((epoch * steps + number) / (schedule.epochs * steps), schedule.warmup)
            for group in optimiser.param_groups:
                group["lr"] = schedule.lr * group["scale"] * factor
            with autocast(device, faster):
                value = value_of(batch.to(device))
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
        state = _on_cpu({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch})
        if watched is not None:
            losses.append(watched.loss(model, device))
            log.info("%s epoch %d watched loss %.4f", checkpoint.stem, epoch, losses[-1])
            if best_epoch(losses) == epoch:
                best = copy.deepcopy(state["model"])  # on the CPU they are the very tensors that train
            state |= {"losses": losses, "best": best}
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)
        on_epoch(epoch, total / steps)
    if watched is not None:
        model.load_state_dict(require_best(best, checkpoint))
    model.to(CPU).eval()


def _on_cpu(state: Any) -> Any:
    """A nest of dicts and lists with every tensor in it on the CPU."""
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state


def distillation_loss(teacher: HygromaViT) -> Loss:
    """Labels, plus the teacher's soft logits, map and token directions on the same augmented crop (real pixels only: the
    teacher of this recipe has not seen phantoms, whose batches carry labels alone). Of a student of another width, the
    tokens' relations take the place of their directions. The teacher must take the student's input size (`at_image`), and be
    on the device that trains."""
    teacher.eval()

    def loss(out: ViTOutputs, batch: Batch, x: Tensor) -> Tensor:
        with torch.no_grad():
            aim = teacher(x)
        plane = F.binary_cross_entropy_with_logits(out.plane.float(), aim.plane.float().sigmoid())
        judged = batch.plane == 1  # the hygroma head answers for assessable planes only
        gap = F.binary_cross_entropy_with_logits(out.hygroma.float(), aim.hygroma.float().sigmoid(), reduction="none")
        maps = F.binary_cross_entropy_with_logits(out.nuchal_map.float(), aim.nuchal_map.float().sigmoid())
        tokens = token_distance(out.tokens.float(), aim.tokens.float())
        return (
            label_loss(out, batch, teacher.config.others)
            + SOFT_PLANE_WEIGHT * (plane + MAP_WEIGHT * maps)
            + SOFT_HYGROMA_WEIGHT * _mean(gap, judged)
            + TOKEN_WEIGHT * tokens
        )

    return loss


def token_distance(found: Tensor, aim: Tensor) -> Tensor:
    """Of tokens [N,T,W] from the teacher's [N,T,V]: the mean angle's cosine from 1 where W = V; else the divergence of how
    alike the tokens of an image are to each other, which needs no projection (after TinyMIM, arXiv 2301.01296)."""
    if found.shape == aim.shape:
        return 1 - F.cosine_similarity(found, aim, dim=-1).mean()
    own, theirs = (F.normalize(t, dim=-1) for t in (found, aim))
    relations = (own @ own.transpose(1, 2) / RELATION_TEMPERATURE).log_softmax(-1)
    aimed = (theirs @ theirs.transpose(1, 2) / RELATION_TEMPERATURE).log_softmax(-1)
    return F.kl_div(relations, aimed, reduction="none", log_target=True).sum(-1).mean()


@torch.no_grad()
def predict(
    model: HygromaViT, crops: np.ndarray, batch: int = 64, device: torch.device = CPU
) -> dict[str, np.ndarray]:
    """FP32 outputs for uint8 crops [N,S,S]: logits of every head [N], "embedding" [N,W], "nuchal_map" [N,G,G], by name. device:
    where they are computed; the model comes back to the CPU."""
    model.to(device).eval()
    parts: list[ViTOutputs] = []
    for start in range(0, len(crops), batch):
        out = model(normalise(torch.from_numpy(crops[start : start + batch])[:, None].to(device)))
        parts.append(replace(out, tokens=out.tokens[:, :0]))
    names = (*(head.name for head in model.config.answers), "embedding", "nuchal_map")
    model.to(CPU)
    return {name: torch.cat([part.logits(name) for part in parts]).cpu().numpy() for name in names}
