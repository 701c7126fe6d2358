"""Initialisation: timm- or MAE-keyed ViT checkpoints into HygromaViT, with patch and position resampling."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.naming import some
from edge.errors import InputError
from export.model.vit import HygromaViT, ViTConfig

log = logging.getLogger("hygroma.weights")

_DROPPED = ("decoder_", "mask_token", "head.", "fc_norm.")  # MAE's decoder and classification heads
_FINAL = "fc_norm."  # the last norm of a model that was fine-tuned with mean pooling, which has no `norm.`
# Before every key of a model that trained on several GPUs, or inside another; and within, of one that was compiled.
_PREFIXES, _COMPILED = ("module.", "model.", "backbone.", "encoder."), "_orig_mod."
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_OURS = ("map_head.", "plane_head.", "hygroma_head.", "tap_norm.", "other_heads.")
_HEADER_MAX = 2**27  # bytes: safetensors' own limit is 100 MB


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A flat state dict from safetensors or torch, by content whatever the name (flat, or under `model`, `state_dict` or
    `model_state_dict`), without what compiling, several GPUs or an outer model put before its keys; never unpickling objects.
    InputError for anything else. MAE's own training script keeps its settings beside the weights, in a Namespace: plain values
    in a bag, which runs no code."""
    require_file(path)
    state: Any
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            # An open file: torch would go by the name's ending.
            with torch.serialization.safe_globals([Namespace]), path.open("rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InputError(
            f"{path}: not a checkpoint, or one that holds more than tensors; objects are never unpickled: "
            "save its state dict alone, torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        raise InputError(f"{path}: not readable as a checkpoint ({error}); copy it again") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    wrong = (
        "no state dict" if not isinstance(state, dict) else [k for k, v in state.items() if not isinstance(v, Tensor)]
    )
    if wrong:
        raise InputError(f"{path}: expected names and tensors, found {wrong}; save the model's state dict alone")
    return _plain_keys({str(key): value for key, value in state.items()})


def require_file(path: Path) -> None:
    """InputError when a checkpoint's path is none of a file."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"))
        hint = f", such as {path / inside[0]}" if inside else "; there is none in it"
        raise InputError(f"{path}: a folder; name the checkpoint's file{hint}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; correct `--init`, or `teacher.init` in the recipe")


def _is_safetensors(path: Path) -> bool:
    """It begins with the length of a JSON object, and that object."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER_MAX


def _plain_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    while prefix := next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_backbone(model: HygromaViT, path: Path) -> None:
    """Fill everything but our heads. InputError names every missing, unexpected and misshapen key."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(_OURS)}
    problem = f"{path}: not a checkpoint of this architecture ({model.config})"
    fill(model, own, backbone_state(read_checkpoint(path), model.config), problem)


def backbone_state(checkpoint: dict[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """The encoder's keys in single precision, patch embedding and positions resampled to `config`. A model that was fine-tuned
    with mean pooling normalises after it, by `fc_norm`: that is where the last norm starts then."""
    if "norm.weight" not in checkpoint and f"{_FINAL}weight" in checkpoint:
        log.info("the last norm starts from %s, that of mean pooling", _FINAL.rstrip("."))
        checkpoint = {f"norm.{k.removeprefix(_FINAL)}" if k.startswith(_FINAL) else k: v for k, v in checkpoint.items()}
    state = {k: v.float() for k, v in checkpoint.items() if not k.startswith(_DROPPED)}
    if "patch_embed.proj.weight" in state:
        state["patch_embed.proj.weight"] = resample_patch(state["patch_embed.proj.weight"], config.patch)
    if "pos_embed" in state:
        state["pos_embed"] = resample_positions(state["pos_embed"], config.grid)
    return state


def fill(model: nn.Module, own: dict[str, Tensor], state: dict[str, Tensor], problem: str) -> None:
    """Load `state` where it has exactly the keys and shapes of `own`, a part of the model's; else InputError, `problem` and
    every missing, unexpected and misshapen key."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} != {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        raise InputError(
            f"{problem}; missing {missing or 'none'}, unexpected {unexpected or 'none'}, "
            f"misshapen {sorted(shapes) or 'none'}"
        )
    if broken := [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]:
        raise InputError(
            f"{problem}: values that are no numbers in {some(broken)}; its training diverged: give an earlier checkpoint"
        )
    model.load_state_dict(state, strict=False)


def resample_patch(weight: Tensor, patch: int) -> Tensor:
    """Patch embedding [W,3,p,p] -> [W,3,patch,patch] by the pseudo-inverse of the resize (FlexiViT, arXiv 2212.08013).
    Another shape comes back as it is, to be named by `load_backbone`."""
    old = weight.shape[-1]
    if old == patch or weight.ndim != 4 or weight.shape[-2] != old:
        return weight
    basis = torch.eye(old * old).reshape(old * old, 1, old, old)
    resize = F.interpolate(basis, (patch, patch), mode="bilinear", antialias=False).reshape(old * old, patch * patch)
    pinv = torch.linalg.pinv(resize.double()).float()  # [patch^2, old^2]
    return (weight.flatten(2) @ pinv.T).reshape(*weight.shape[:2], patch, patch)


def resample_positions(positions: Tensor, grid: int) -> Tensor:
    """[1,1+g*g,W] -> [1,1+grid*grid,W], bicubic, class token kept. Another shape comes back as it is."""
    if positions.ndim != 3 or positions.shape[1] < 2:
        return positions
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == grid or old**2 != positions.shape[1] - 1:
        return positions
    cls, patches = positions[:, :1], positions[:, 1:]
    patches = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([cls, patches.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], 1)


def at_image(model: HygromaViT, image: int) -> HygromaViT:
    """The same model for another input side, pixels: positions resampled, weights shared otherwise. Itself when it is that."""
    if image == model.config.image:
        return model
    out = HygromaViT(replace(model.config, image=image))
    state = model.state_dict()
    out.load_state_dict(state | {"pos_embed": resample_positions(state["pos_embed"], out.config.grid)})
    return out


def student_from_teacher(student: HygromaViT, teacher: HygromaViT, blocks: tuple[int, ...]) -> None:
    """Start a shallower student from the teacher's chosen blocks, embeddings, last norm and heads; one for another input side
    with the positions resampled, a thinner one with channels evenly taken from the teacher's (weight selection, arXiv
    2311.18823), whole attention heads among them."""
    c, t = student.config, teacher.config
    if len(blocks) != c.depth or c.width > t.width or c.width * t.heads != t.width * c.heads:
        raise InputError(
            f"recipe `student.blocks` {blocks}: give {c.depth} teacher blocks; `student.width` ({c.width}) and "
            f"`student.heads` ({c.heads}): at most the teacher's ({t.width}, {t.heads}), in the same proportion"
        )
    state = {}
    for key, value in at_image(teacher, c.image).state_dict().items():
        if key.startswith("blocks."):
            number, rest = key.removeprefix("blocks.").split(".", 1)
            if int(number) not in blocks:
                continue
            key = f"blocks.{blocks.index(int(number))}.{rest}"
        state[key] = _selected(key, value, t, c)
    student.load_state_dict(state)


def _selected(key: str, value: Tensor, source: ViTConfig, target: ViTConfig) -> Tensor:
    """The rows and columns of one of the teacher's tensors that a thinner student starts from."""
    if source.width == target.width:
        return value
    head = source.width // source.heads
    channels = _evenly(source.width, target.width)
    attended = (_evenly(source.heads, target.heads)[:, None] * head + torch.arange(head)).flatten()  # whole heads
    hidden = _evenly(4 * source.width, 4 * target.width)
    layer = key.rpartition(".")[0]
    if not layer:  # class token, positions
        return value[..., channels]
    if layer.startswith("other_heads."):  # they read what the plane head does
        layer = "plane_head"
    if layer == "hygroma_head.2":  # reads no channels of the trunk
        return value
    rows = {"qkv": _tiled(attended, 3, source.width), "fc1": hidden}.get(layer.rpartition(".")[2], channels)
    if layer not in ("map_head", "plane_head", "hygroma_head.0"):
        value = value[rows]
    if not key.endswith("weight") or value.ndim != 2:
        return value
    columns = {"proj": attended, "fc2": hidden}.get(layer.rpartition(".")[2], channels)
    if layer in ("plane_head", "hygroma_head.0"):
        columns = _tiled(channels, value.shape[1] // source.width, source.width)
    value = value[:, columns]
    # Half the inputs sum to half the variance. Of ViT-Tiny from ViT-S, after 20 steps: loss 5.28 unscaled, 5.05 so, 5.38 by
    # the whole factor of two (mean of 5 steps, one run each).
    return value * math.sqrt(source.width / target.width) if key.startswith("blocks.") else value


def _evenly(count: int, wanted: int) -> Tensor:
    """`wanted` of `count` indices, evenly spaced, in order."""
    return torch.arange(wanted) * count // wanted


def _tiled(index: Tensor, parts: int, width: int) -> Tensor:
    """The same indices of each of `parts` vectors of `width` that lie one after the other."""
    return (torch.arange(parts)[:, None] * width + index).flatten()
