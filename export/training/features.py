"""Frozen features of a pretrained backbone: what a linear probe reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from export.model.vit import HygromaViT, normalise
from export.model.weights import load_backbone
from export.training.systems import vit_shape

BATCH = 32  # images a call: bounds the memory of the attention maps


def backbone_features(path: Path, image: int = 224) -> Callable[[np.ndarray], np.ndarray]:
    """A checkpoint -> crops uint8 [N,image,image] -> float32 [N,2W]: class token and mean patch token after the last norm.
    InputError when the checkpoint is not a ViT's."""
    model = HygromaViT(vit_shape(path, image)).eval()
    load_backbone(model, path)

    @torch.no_grad()
    def features(crops: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(crops), BATCH):
            tokens = model(normalise(torch.from_numpy(crops[start : start + BATCH])[:, None])).tokens
            parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy())
        return np.concatenate(parts)

    return features
