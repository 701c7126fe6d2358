"""Score-CAM (Wang et al. 2020, arXiv 1910.01279): where a classifier's answer comes from, by masking, without gradients.

Each channel of a late layer, brought to the picture's size and to [0,1], masks the picture; its weight is the softmax over
channels of what the masked picture scores above a black one. The map is the weighted sum of the channels, its negative part cut.
Where the mask is 0 the picture is black, which in ultrasound means no echo. One forward pass a channel: offline only.

Layers: of a transformer the first norm of its last block, class token dropped, laid out as the patch grid; of DenseNet-169
its features before pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.errors import InputError
from export.model.vit import HygromaViT, normalise
from export.training.systems import DenseNetClassifier

MASKED_AT_ONCE = 64  # pictures a forward pass: bounds memory
FLAT = 1e-6  # range of a channel that masks nothing


@dataclass(frozen=True)
class Target:
    """layer: whose output is read; grid: patches a side where that output is tokens, else None; logit: the model's output ->
    [N]."""

    layer: nn.Module
    grid: int | None
    logit: Callable[[object], Tensor]


def target_of(model: nn.Module) -> Target:
    """InputError for a model of another kind."""
    if isinstance(model, HygromaViT):
        return Target(model.blocks[-1].norm1, model.config.grid, lambda out: out.hygroma)  # type: ignore[attr-defined,arg-type]
    if isinstance(model, DenseNetClassifier):
        return Target(model.cnn.features, None, lambda out: out)  # type: ignore[arg-type,return-value]
    raise InputError(
        f"Score-CAM: found a {type(model).__name__}; expected one of the vision transformers or DenseNet-169"
    )


@torch.no_grad()
def score_cam(
    model: nn.Module, crop: np.ndarray, on_step: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """crop uint8 [S,S] -> float32 [G,G] in [0,1], 1 at its largest; zeros where nothing speaks for the class. `on_step` hears how
    many of the channels are done."""
    model.eval()
    target, device = target_of(model), next(model.parameters()).device
    grey = torch.from_numpy(crop)[None, None].to(device, torch.float32)
    channels = _activations(model, target, grey)  # [C,g,g]
    low, high = channels.amin((1, 2), keepdim=True), channels.amax((1, 2), keepdim=True)
    useful = (high - low).flatten() > FLAT
    channels, low, high = channels[useful], low[useful], high[useful]
    if not len(channels):
        return np.zeros(tuple(low.shape[1:]), np.float32)
    small = (channels - low) / (high - low)
    logits: list[Tensor] = []
    for number, part in enumerate(small.split(MASKED_AT_ONCE)):
        on_step(number * MASKED_AT_ONCE, len(small))
        masks = F.interpolate(part[:, None], grey.shape[2:], mode="bilinear", align_corners=False)
        logits.append(_logits(model, target, grey * masks))
    gains = torch.cat(logits) - _logits(model, target, torch.zeros_like(grey))
    found = (gains.softmax(0)[:, None, None] * channels).sum(0).clamp(min=0)
    return (found / found.max().clamp(min=FLAT)).cpu().numpy().astype(np.float32)


def _logits(model: nn.Module, target: Target, grey: Tensor) -> Tensor:
    return target.logit(model(normalise(grey))).float()


def _activations(model: nn.Module, target: Target, grey: Tensor) -> Tensor:
    """float [C,g,g] of one picture [1,1,S,S]."""
    seen: list[Tensor] = []
    hook = target.layer.register_forward_hook(lambda module, given, out: seen.append(out))
    try:
        model(normalise(grey))
    finally:
        hook.remove()
    out = seen[0][0].float()
    return out if target.grid is None else out[1:].T.reshape(-1, target.grid, target.grid)
