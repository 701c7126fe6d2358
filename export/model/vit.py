"""The vision transformer used for teacher and student: one file, the whole model.

After facebookresearch/mae `models_vit.py` and timm's `VisionTransformer` (same parameter names, so that USF-MAE, MAE and
DINOv2 checkpoints load by key). Two heads and a nuchal map are added:

- `nuchal_map`: one logit per patch, supervised by the annotated nuchal boxes.
- `hygroma`: reads the patch tokens pooled with the map's softmax (a translucency is a few pixels thick; a global token does
  not see it) beside the mean token; also the tokens after an early block, pooled alike, where `tap` names one: thickness
  fades with depth (ridge regression on frozen DINOv2 tokens inside the annotated box, 224 px, rank correlation with the
  measured thickness out of fold, n = 903: block 3 .60, block 6 .59, block 9 .48, block 12 .32).
- `plane`: reads the mean token and the class token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.heads import HEADS, Head

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # normalisation of every public ViT checkpoint this project starts from
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig:
    """image: input side in pixels; patch: patch side; width, depth, heads: as in the ViT papers."""

    image: int = 192
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    layer_scale: bool = True  # DINOv2 has it, MAE does not
    eps: float = 1e-6
    tap: int = 0  # the hygroma head also reads the tokens after this many blocks; 0: only the last
    others: tuple[Head, ...] = field(default=(), repr=False)  # heads besides plane and hygroma; they read what the plane's does

    @property
    def answers(self) -> tuple[Head, ...]:
        """Every head of the model."""
        return (*HEADS, *self.others)

    @property
    def grid(self) -> int:
        return self.image // self.patch


class Attention(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.proj = nn.Linear(c.width, c.width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, w = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, t, w))


class Mlp(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.fc1 = nn.Linear(c.width, 4 * c.width)
        self.fc2 = nn.Linear(4 * c.width, c.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=c.eps)
        self.attn = Attention(c)
        self.ls1 = LayerScale(c.width) if c.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(c.width, eps=c.eps)
        self.mlp = Mlp(c)
        self.ls2 = LayerScale(c.width) if c.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, c: ViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, c.width, c.patch, c.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


@dataclass
class ViTOutputs:
    """Logits `plane` [N], `hygroma` [N], `nuchal_map` [N,G,G]; `embedding` [N,W]; `tokens` [N,1+G*G,W] after the last norm;
    `hygroma_shown` [N]: what the hygroma head would say were it shown where to look; None unless it was. `others`: logits [N] of
    the model's further heads, by name."""

    plane: Tensor
    hygroma: Tensor
    embedding: Tensor
    nuchal_map: Tensor
    tokens: Tensor
    hygroma_shown: Tensor | None = None
    others: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, head: str) -> Tensor:
        """What a head says, [N]."""
        found: Tensor = self.others[head] if head in self.others else getattr(self, head)
        return found


class HygromaViT(nn.Module):
    """Input: float [N,3,S,S], ImageNet-normalised (see `normalise`)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = c = config
        self.patch_embed = PatchEmbed(c)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + c.grid**2, c.width))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=c.eps)
        self.map_head = nn.Linear(c.width, 1)
        self.plane_head = nn.Linear(2 * c.width, 1)
        self.tap_norm = nn.LayerNorm(c.width, eps=c.eps) if c.tap else None
        self.hygroma_head = nn.Sequential(nn.Linear((3 if c.tap else 2) * c.width, 64), nn.GELU(), nn.Linear(64, 1))
        self.other_heads = nn.ModuleDict({head.name: nn.Linear(2 * c.width, 1) for head in c.others})
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def fitted_heads(self) -> dict[str, nn.Module]:
        """The heads that are fitted again once the trunk is finished, by name."""
        return {"hygroma": self.hygroma_head, "plane": self.plane_head}

    def forward(self, x: Tensor, shown: Tensor | None = None) -> ViTOutputs:
        """shown [N,G,G], not negative: where the annotator saw the nuchal region, in training alone."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        early = None
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if self.tap_norm is not None and number == self.config.tap:
                early = self.tap_norm(x[:, 1:])
        tokens = self.norm(x)
        cls, patches = tokens[:, 0], tokens[:, 1:]
        mean = patches.mean(1)
        map_logits = self.map_head(patches).squeeze(-1)
        seen = patches if early is None else torch.cat([patches, early], 2)
        whole = torch.cat([cls, mean], 1)
        plane = self.plane_head(whole).squeeze(-1)
        others = {name: head(whole).squeeze(-1) for name, head in self.other_heads.items()}

        def judge(where: Tensor) -> Tensor:
            nuchal = (where.unsqueeze(1) @ seen).squeeze(1)
            return self.hygroma_head(torch.cat([nuchal, mean], 1)).squeeze(-1)

        told = None if shown is None else judge(F.normalize(shown.flatten(1).to(seen.dtype), p=1.0))
        g = self.config.grid
        return ViTOutputs(plane, judge(map_logits.softmax(1)), mean, map_logits.reshape(-1, g, g), tokens, told, others)


def normalise(grey: Tensor) -> Tensor:
    """uint8 or float [N,1,S,S] in [0,255] -> float [N,3,S,S], ImageNet-normalised."""
    mean = torch.tensor(IMAGENET_MEAN, device=grey.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=grey.device).view(1, 3, 1, 1)
    return (grey.float() / 255 - mean) / std
