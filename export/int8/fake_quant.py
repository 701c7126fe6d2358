"""A student as its INT8 graph computes it, in PyTorch and with gradients: for what is fitted to undo the rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.int8.quantize import BLOCK_PREFIX, LEVELS
from export.int8.smoothquant import LINEARS, MLP_SCALE
from export.model.vit import HygromaViT, ViTConfig


class _Round(torch.autograd.Function):
    """Rounds forward; the gradient passes straight through (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


def rounded(x: Tensor, step: Tensor | float) -> Tensor:
    """x on the grid step * {-127..127}; no gradient where it is clipped."""
    levels: Tensor = _Round.apply((x / step).clamp(-LEVELS, LEVELS))
    return levels * step


class RoundedLinear(nn.Linear):
    """A block linear as the INT8 graph computes it: weights per output channel, inputs per tensor.

    limit: the largest |input| that INT8 represents. factor [K_in] or None: what the input is multiplied by first."""

    def __init__(self, linear: nn.Linear, limit: float, factor: Tensor | None):
        super().__init__(linear.in_features, linear.out_features)
        self.load_state_dict(linear.state_dict())
        self.step, self.factor = limit / LEVELS, factor

    def forward(self, x: Tensor) -> Tensor:
        if self.factor is not None:
            x = x * self.factor
        # a dead output has no range: any step represents its zeros
        step = (self.weight.detach().abs().amax(1, keepdim=True) / LEVELS).clamp(min=1e-12)
        return F.linear(rounded(x, self.step), rounded(self.weight, step), self.bias)


def rounded_model(state: Mapping[str, Tensor], config: ViTConfig, limits: Mapping[str, float]) -> HygromaViT:
    """A smoothed state (int8/smoothquant.py) and the largest |x| of each block linear's input, by the linear's name -> a model
    that computes what the INT8 graph computes."""
    model = HygromaViT(config).eval()
    model.load_state_dict({name: tensor for name, tensor in state.items() if not name.endswith(MLP_SCALE)})
    for i in range(config.depth):
        for linear in LINEARS:
            name = f"{BLOCK_PREFIX}{i}.{linear}"
            factor = state.get(f"{BLOCK_PREFIX}{i}.{MLP_SCALE}") if linear == "mlp.fc2" else None
            plain = model.get_submodule(name)
            assert isinstance(plain, nn.Linear)
            model.set_submodule(name, RoundedLinear(plain, limits[name], factor))
    return model
