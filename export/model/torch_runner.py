"""HygromaViT in PyTorch FP32 behind the runner contract: the reference that every conversion is held against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edge.engines.runner import HeldInMemory, check_crops
from edge.records import OUTPUT_NAMES, RawOutputs
from export.model.vit import HygromaViT, ViTConfig, normalise


class TorchRunner(HeldInMemory):
    """Runner over a state dict. RuntimeError (torch's) when the weights do not fit `config`. Uses torch's global thread
    count."""

    name = "torch-fp32"

    def __init__(self, state: Mapping[str, torch.Tensor], config: ViTConfig):
        self._model = HygromaViT(config).eval()
        self._model.load_state_dict(state)
        self.input_size = config.image

    def infer(self, crops: np.ndarray) -> RawOutputs:
        """See `Runner.infer`."""
        check_crops(self.name, self._active, crops, self.input_size)
        with torch.inference_mode():
            out = self._model(normalise(torch.from_numpy(np.array(crops))))  # a copy: crops may be read-only
        others = {name: logits.numpy() for name, logits in out.others.items()}
        return RawOutputs(*(getattr(out, name).numpy() for name in OUTPUT_NAMES), others=others)
