"""The masked autoencoder, after facebookresearch/mae `models_mae.py` (arXiv 2111.06377), with its parameter names: the encoder
sees a random quarter of the patches, a light decoder reconstructs the others. USF-MAE is such a model, pretrained on ultrasound.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge.errors import InputError
from export.model.vit import Block, PatchEmbed, ViTConfig
from export.model.weights import backbone_state, fill, read_checkpoint, resample_positions

MASK_RATIO = 0.75  # of the patches: MAE's and USF-MAE's
DECODER_WIDTH, DECODER_DEPTH = 512, 8  # dec512d8b: USF-MAE's
DECODER_HEAD_WIDTH = 32  # 512 wide, 16 heads
DECODER = ("decoder_", "mask_token")
FLAT = 1e-6  # added to a patch's variance, so that one without picture (outside the fan) divides by no zero


class MaskedAutoencoder(nn.Module):
    """Input: float [N,3,S,S], ImageNet-normalised. Positions are not trained, neither the encoder's nor the decoder's."""

    def __init__(self, config: ViTConfig, decoder_width: int = DECODER_WIDTH, decoder_depth: int = DECODER_DEPTH):
        super().__init__()
        self.config = c = config
        self.patch_embed = PatchEmbed(c)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.pos_embed = nn.Parameter(sine_positions(c.width, c.grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=c.eps)
        heads = max(1, decoder_width // DECODER_HEAD_WIDTH)
        d = replace(c, width=decoder_width, depth=decoder_depth, heads=heads, layer_scale=False)
        self.decoder_embed = nn.Linear(c.width, d.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d.width))
        self.decoder_pos_embed = nn.Parameter(sine_positions(d.width, c.grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(d) for _ in range(d.depth))
        self.decoder_norm = nn.LayerNorm(d.width, eps=c.eps)
        self.decoder_pred = nn.Linear(d.width, 3 * c.patch**2)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, noise: Tensor, ratio: float = MASK_RATIO) -> tuple[Tensor, Tensor]:
        """`noise` [N,G*G] decides what is masked (see `random_masking`). Predicted patches [N,G*G,3*p*p]; mask [N,G*G]."""
        tokens = self.patch_embed(x) + self.pos_embed[:, 1:]
        visible, mask, restore = random_masking(tokens, noise, ratio)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        visible = torch.cat([cls, visible], 1)
        for block in self.blocks:
            visible = block(visible)
        decoded = self.decoder_embed(self.norm(visible))
        masked = self.mask_token.to(decoded.dtype).expand(len(x), tokens.shape[1] - decoded.shape[1] + 1, -1)
        patches = torch.cat([decoded[:, 1:], masked], 1)
        patches = patches.gather(1, restore[..., None].expand(-1, -1, patches.shape[2]))
        decoded = torch.cat([decoded[:, :1], patches], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            decoded = block(decoded)
        return self.decoder_pred(self.decoder_norm(decoded))[:, 1:], mask


def random_masking(tokens: Tensor, noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample, keep the tokens [N,L,W] with the smallest noise [N,L]: kept [N,int(L*(1-ratio)),W] in the noise's order;
    mask [N,L], 1 where a token was removed; restore [N,L], which undoes that order."""
    keep = int(tokens.shape[1] * (1 - ratio))
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    kept = tokens.gather(1, shuffle[:, :keep, None].expand(-1, -1, tokens.shape[2]))
    return kept, (restore >= keep).float(), restore


def masked_loss(predicted: Tensor, mask: Tensor, x: Tensor, patch: int) -> Tensor:
    """Mean squared error over the masked patches alone. Each patch of the target is normalised by its own mean and variance."""
    target = patchify(x, patch)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + FLAT).sqrt()
    error = (predicted.float() - target).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def patchify(x: Tensor, patch: int) -> Tensor:
    """[N,3,S,S] -> [N,G*G,p*p*3], channel last within a patch, as in MAE."""
    n, c, side, _ = x.shape
    g = side // patch
    return x.reshape(n, c, g, patch, g, patch).permute(0, 2, 4, 3, 5, 1).reshape(n, g * g, patch * patch * c)


def sine_positions(width: int, grid: int) -> Tensor:
    """MAE's fixed positions [1,1+grid*grid,width]: sine and cosine of column, then of row; zero for the class token."""
    if width % 4:
        raise ValueError(f"width {width}: sine and cosine of two axes need a multiple of 4")
    omega = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    parts = [f(np.outer(axis, omega)) for axis in (columns, rows) for f in (np.sin, np.cos)]
    table = np.concatenate([np.zeros((1, width)), np.concatenate(parts, 1)])
    return torch.from_numpy(table).float()[None]


def load_autoencoder(path: Path, config: ViTConfig, seed: int) -> tuple[MaskedAutoencoder, str]:
    """The model that a checkpoint holds, and in words where its decoder comes from: the checkpoint, where it has one that fits
    this patch side, else a fresh one. InputError when the encoder does not fit `config`."""
    checkpoint = read_checkpoint(path)
    stored = {k: v.float() for k, v in checkpoint.items() if k.startswith(DECODER)}
    blocks = {int(found[1]) for key in stored if (found := re.match(r"decoder_blocks\.(\d+)\.", key))}
    token = stored.get("mask_token")
    shape = (DECODER_WIDTH, DECODER_DEPTH)
    if blocks and token is not None and token.ndim == 3 and token.shape[2] % DECODER_HEAD_WIDTH == 0:
        shape = (token.shape[2], max(blocks) + 1)
    torch.manual_seed(seed)
    model = MaskedAutoencoder(config, *shape)
    own = model.state_dict()
    encoder = {k: v for k, v in own.items() if not k.startswith(DECODER)}
    fill(
        model, encoder, backbone_state(checkpoint, config), f"{path}: not a checkpoint of this architecture ({config})"
    )
    if not stored:
        return model, f"fresh: {path.name} holds none"
    if "decoder_pos_embed" in stored:
        stored["decoder_pos_embed"] = resample_positions(stored["decoder_pos_embed"], config.grid)
    decoder = {k: v for k, v in own.items() if k.startswith(DECODER)}
    try:
        fill(model, decoder, stored, "its decoder does not fit")
    except InputError as error:
        if shape != (DECODER_WIDTH, DECODER_DEPTH):  # an odd decoder that is not used does not set the size
            torch.manual_seed(seed)
            model = MaskedAutoencoder(config)
            fill(model, encoder, backbone_state(checkpoint, config), str(path))
        return model, f"fresh: {path.name}: {error}"
    return model, f"kept from {path.name}"
