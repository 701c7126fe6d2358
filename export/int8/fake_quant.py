"""A student as its INT8 graph computes it, in PyTorch and with gradients: for what is fitted to undo the rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.int8.quantize import BATCH, BLOCK_PREFIX, LEVELS, FloatModel
from export.int8.smoothquant import LINEARS, MLP_SCALE, State
from export.model.vit import HygromaViT, ViTConfig, normalise

BRANCH_ENDS = ("attn.proj", "mlp.fc2")  # all errors pass through them, and SmoothQuant leaves their outputs alone


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


@torch.no_grad()
def correct_biases(student: FloatModel, smoothed: Mapping[str, Tensor], limits: Mapping[str, float]) -> State:
    """The smoothed state with the mean of every branch's output as in the float student, over the crops for its ranges (bias
    correction, arXiv 1906.04721, section 4.2). limits: the largest |input|, by the linear's name. From the first branch to
    the last, since each sees what those before it made."""
    config, crops = student.config, student.calibration
    names = [f"{BLOCK_PREFIX}{i}.{end}" for i in range(config.depth) for end in BRANCH_ENDS]
    reference = HygromaViT(config).eval()
    reference.load_state_dict(dict(student.state))
    aims = _means(reference, names, crops)
    model = rounded_model(smoothed, config, limits)
    out = dict(smoothed)
    for name in names:
        shift = aims[name] - _means(model, [name], crops)[name]
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        linear.bias.add_(shift)
        out[f"{name}.bias"] = linear.bias.detach().clone()
    return out


def _means(model: nn.Module, names: list[str], crops: np.ndarray) -> dict[str, Tensor]:
    """The mean output [K] of the named linears over crops and tokens."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            total = output.double().mean(1).sum(0)
            sums[name] = sums[name] + total if name in sums else total

        return model.get_submodule(name).register_forward_hook(hook)

    hooks = [watch(name) for name in names]
    for start in range(0, len(crops), BATCH):
        model(normalise(torch.from_numpy(crops[start : start + BATCH])))
    for handle in hooks:
        handle.remove()
    return {name: (total / len(crops)).float() for name, total in sums.items()}
