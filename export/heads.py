"""The heads, fitted to the end on what the finished trunk shows them.

The plane head is a logistic regression on the trunk's features, fitted before the trunk is trained and again when it is: the
head that moved with the trunk ranked worse (teacher, fold 0, n = 302: ROC-AUC .891; fitted again .941).

In the few epochs that a trunk needs, a head that starts from nothing stays behind: even on the stills it was trained on, its
rank correlation with the measured thickness was .37. Trained again, on what it reads, kept: on a fold held out (0, model 0.3,
n = 225) .30 -> .48, and the ROC-AUC of simulated lesions .991 -> .993. The trunk and the map stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.bank import UNKNOWN, Bank, Entry
from edge.screen.preprocess import Preprocessing, letterbox
from export.augment import augment
from export.train import thickness_aims
from export.vit import HygromaViT, normalise

log = logging.getLogger("hygroma.train")

VIEWS = (
    2  # of every crop: as it is, and augmented; the head sees these alone, so more than one keeps it from learning them
)
SOURCE_WEIGHTS = {"real": 2.0, "cleaned": 1.3}  # untouched anatomy is what the edits stand for; every other source 1
# Chosen on fold 0 among five; they differ by .04 in rank correlation and .001 in ROC-AUC. STEPS were 20 epochs there.
STEPS, BATCH, LR, WEIGHT_DECAY, DROPOUT = 1000, 256, 1e-3, 0.5, 0.3
PROBE_C = 0.01  # inverse L2 strength of the plane head; .003 to .1 differ by .01 in AUC (frozen DINOv2, 4 folds)
LABEL_WEIGHT = 0.3  # of the cross-entropy beside the distance from the thickness's log-odds, which says more
CHUNK = 64  # crops that pass the trunk at once


@torch.no_grad()
def probe_plane_head(model: HygromaViT, bank: Bank, keep: np.ndarray) -> None:
    """Set `model.plane_head` to the logistic regression on the trunk's features of the untouched stills and axial heads among
    the entries `keep`, in place. Before fine-tuning it keeps the features from being distorted (arXiv 2202.10054)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    untouched = [int(i) for i in keep if bank.entries[i].source in ("real", "hc18")]
    spec = Preprocessing(size=model.config.image)
    model.eval()
    parts = []
    for start in range(0, len(untouched), CHUNK):
        crops = np.stack([letterbox(bank.crops[i], spec) for i in untouched[start : start + CHUNK]])
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model(normalise(torch.from_numpy(crops)[:, None])).tokens
        parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).float().numpy())
    read = np.concatenate(parts)
    scaler = StandardScaler().fit(read)
    probe = LogisticRegression(C=PROBE_C, max_iter=3000, class_weight="balanced")
    probe.fit(scaler.transform(read), [bank.entries[i].plane for i in untouched])
    weight = probe.coef_[0] / scaler.scale_  # standardising, folded in
    model.plane_head.weight.copy_(torch.from_numpy(weight)[None])
    model.plane_head.bias.fill_(float(probe.intercept_[0] - weight @ scaler.mean_))


def retrain_hygroma_head(
    model: HygromaViT,
    bank: Bank,
    keep: np.ndarray,
    seed: int,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Set `model.hygroma_head` to one trained on those of the entries `keep` that say anything about the hygroma, in place.
    Deterministic from `seed`. `on_chunk(done, total)` counts the crops that have passed the trunk."""
    entries, read = _kept_reading(model, bank, keep, seed, on_chunk)
    if not entries:
        return
    aims, labels = thickness_aims(entries)
    weight = torch.tensor([SOURCE_WEIGHTS.get(e.source, 1.0) for e in entries])
    middle, spread = read.mean(0), read.std(0).clamp(min=1e-4)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    fitted = _fitted((read - middle) / spread, aims, labels, weight, generator).state_dict()
    first = fitted["0.weight"] / spread  # standardising, folded into the first layer
    model.hygroma_head.load_state_dict(fitted | {"0.weight": first, "0.bias": fitted["0.bias"] - first @ middle})


def _kept_reading(
    model: HygromaViT, bank: Bank, keep: np.ndarray, seed: int, on_chunk: Callable[[int, int], None]
) -> tuple[list[Entry], Tensor]:
    """The entries, each VIEWS times, and what the head reads of them, float32 [VIEWS*N,W']."""
    told = [int(i) for i in keep if bank.entries[i].plane == 1 and _says_something(bank.entries[i])]
    size, spec = model.config.image, Preprocessing(size=model.config.image)
    read: list[Tensor] = []
    hook = model.hygroma_head.register_forward_pre_hook(lambda module, given: read.append(given[0].float()))
    model.eval()
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for view in range(VIEWS):
                for start in range(0, len(told), CHUNK):
                    on_chunk(view * len(told) + start, VIEWS * len(told))
                    rng = np.random.default_rng([seed, view, start])
                    crops = [
                        augment(bank.crops[i], bank.entries[i].box, size, rng)[0]
                        if view
                        else letterbox(bank.crops[i], spec)
                        for i in told[start : start + CHUNK]
                    ]
                    model(normalise(torch.from_numpy(np.stack(crops))[:, None]))
    finally:
        hook.remove()
    return [bank.entries[i] for i in told] * VIEWS, torch.cat(read) if read else torch.empty(0)


def _says_something(entry: Entry) -> bool:
    aim, label = thickness_aims([entry])
    return bool(label[0] != UNKNOWN) or not bool(aim[0].isnan())


def _fitted(read: Tensor, aims: Tensor, labels: Tensor, weight: Tensor, generator: torch.Generator) -> nn.Sequential:
    """The head for standardised readings: AdamW under one cycle."""
    head = nn.Sequential(nn.Linear(read.shape[1], 64), nn.GELU(), nn.Linear(64, 1))
    measured, labelled = ~aims.isnan(), labels != UNKNOWN
    aims, labels = aims.nan_to_num(), labels.clamp(min=0)
    batch = min(BATCH, len(read))
    optimiser = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=STEPS + 1)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(STEPS):
        if len(order) < batch:
            order = torch.randperm(len(read), generator=generator)
        now, order = order[:batch], order[batch:]
        logits = head(F.dropout(read[now], DROPOUT)).squeeze(1)
        label = F.binary_cross_entropy_with_logits(logits, labels[now], reduction="none") * labelled[now]
        distance = F.smooth_l1_loss(logits, aims[now], reduction="none") * measured[now]
        value = (weight[now] * (LABEL_WEIGHT * label + distance)).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        cycle.step()
    return head.eval()
