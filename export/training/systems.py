"""The paper's systems (arXiv 2512.22730) and their control, as binary classifiers that train, read and predict alike.

usf-mae      the vision transformer of a checkpoint: USF-MAE's ViT-B/16, or any other with timm's keys
vit-random   the same transformer from a random start: what the pretraining is worth
densenet169  MONAI's DenseNet-169, from a random start or a checkpoint with torchvision's keys

A classifier takes float [N,3,S,S], ImageNet-normalised, and gives logits [N].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge.errors import ConfigError, InputError
from export.atomic import sha256_of
from export.model.vit import HygromaViT, ViTConfig
from export.model.weights import fill, load_backbone, read_checkpoint
from export.training.train import Schedule

USF_MAE, VIT_RANDOM, DENSENET = SYSTEMS = ("usf-mae", "vit-random", "densenet169")
BASELINES = (DENSENET,)  # systems that a recipe's teacher is compared with
RANDOM = "random"  # in place of a checkpoint's path
VIT_B = {"patch": 16, "width": 768, "depth": 12, "heads": 12, "layer_scale": False}  # USF-MAE's encoder
HEAD_WIDTH = 64  # of the ViT papers; a checkpoint does not say its number of heads
HEADS_OF_HUGE = 16  # ViT-H, 1280 wide, is the exception
DENSENET_STRIDE = 32  # pixels: a smaller input leaves nothing to pool
DENSENET_DEPTH = 5  # stem, four dense blocks
DIGITS = 16  # hex digits kept of a SHA-256


@dataclass(frozen=True)
class System:
    """What is trained. start: "random", or a checkpoint's absolute path; image: input side, pixels; vit: the transformer's
    shape, None for DenseNet. Picklable: a job on another machine builds the same."""

    name: str
    start: str
    image: int
    vit: ViTConfig | None

    @property
    def pretrained(self) -> bool:
        return self.start != RANDOM

    def described_start(self) -> str:
        return describe_start(self.start)

    def require_batch(self, batch: int) -> None:
        """ConfigError when its steps need more pictures."""
        least = DenseNetClassifier.least_batch if self.vit is None else 1
        if batch < least:
            raise ConfigError(
                f"--batch: found {batch}; {self.name} normalises over the pictures of a batch: give {least} or more"
            )

    def schedule(self, epochs: int, batch: int, seed: int, lr: float | None = None) -> Schedule:
        """How it is trained. A random start has nothing near the input worth keeping: no layer-wise decay, and a CNN then
        takes a higher rate. Rates are chosen, not tuned: `lr` overrides."""
        usual = 1e-3 if self.vit is None and not self.pretrained else 2e-4
        return Schedule(epochs, batch, lr or usual, 0.75 if self.pretrained else 1.0, seed=seed)


def choose_system(name: str, init: str | None, image: int, shape_of: Path | None = None) -> System:
    """A system that can be built: its checkpoint has been loaded once. `init`: "random" or a checkpoint's path; `shape_of`: the
    checkpoint whose architecture vit-random takes (ViT-B/16 without). ConfigError or InputError says what does not fit."""
    if name not in SYSTEMS:
        raise ConfigError(f"--system: found {name!r}; expected one of {', '.join(SYSTEMS)}")
    given = init if init not in (None, RANDOM) else None
    if name == USF_MAE and given is None:
        raise ConfigError("--system usf-mae: give its checkpoint, --init FILE; its random start is --system vit-random")
    if name == VIT_RANDOM and given is not None:
        raise ConfigError("--system vit-random: starts at random; --shape-of FILE gives it a checkpoint's architecture")
    if name != VIT_RANDOM and shape_of is not None:
        raise ConfigError(f"--shape-of: is for --system vit-random, not {name}; leave it out")
    start = str(Path(given).resolve()) if given else RANDOM
    vit = None
    if name == DENSENET:
        if image < DENSENET_STRIDE:
            raise ConfigError(f"--image: found {image}; DenseNet-169 needs {DENSENET_STRIDE} pixels or more")
    else:
        source = Path(given) if given else shape_of
        vit = vit_shape(source, image) if source else ViTConfig(image, **VIT_B)  # type: ignore[arg-type]
        if image % vit.patch:
            raise ConfigError(f"--image: found {image}; must be a multiple of the patch side, {vit.patch}")
    system = System(name, start, image, vit)
    if vit is None:
        build(system, seed=0)
    elif given:
        load_backbone(HygromaViT(vit), Path(given))
    return system


def vit_shape(checkpoint: Path, image: int) -> ViTConfig:
    """The architecture of a ViT checkpoint with timm's keys. Its own patch side where that divides `image`, else 16 (the
    embedding is then resampled). InputError when it is no such checkpoint."""
    state = read_checkpoint(checkpoint)
    needed = ("cls_token", "patch_embed.proj.weight", "pos_embed")
    missing = [key for key in needed if key not in state]
    blocks = {int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))}
    if missing or not blocks:
        raise InputError(
            f"{checkpoint}: no vision transformer with timm's keys: {', '.join(missing) or 'blocks.*'} missing, "
            f"found {', '.join(list(state)[:3]) or 'nothing'}...; give a USF-MAE, MAE or timm ViT checkpoint"
        )
    width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    heads = HEADS_OF_HUGE if width == HEADS_OF_HUGE * 80 else max(1, width // HEAD_WIDTH)
    if width % heads:
        raise InputError(f"{checkpoint}: width {width} is no multiple of {HEAD_WIDTH}, the width of a head")
    if image % patch:
        patch = VIT_B["patch"]
    return ViTConfig(image, patch, width, max(blocks) + 1, heads, "blocks.0.ls1.gamma" in state)


def describe_start(start: str) -> str:
    """ "random", or a checkpoint's name and hash."""
    return start if start == RANDOM else f"{Path(start).name} (SHA-256 {sha256_of(Path(start))[:DIGITS]})"


class Classifier(nn.Module):
    """`depth` layers between input and heads, and which one a parameter is in (see `layered_groups`). least_batch: pictures that
    a step needs."""

    depth: int
    least_batch = 1

    def layer_of(self, name: str) -> int:
        raise NotImplementedError


class DenseNetClassifier(Classifier):
    """MONAI's DenseNet-169; a layer is the stem or a dense block with its transition."""

    least_batch = 2  # batch norm: of one picture there is no variance

    def __init__(self) -> None:
        super().__init__()
        try:
            from monai.networks.nets import DenseNet169
        except ImportError as error:
            raise ConfigError(
                f"--system densenet169: the package {error.name} is missing: pip install 'hygroma-edge[toolchain]'"
            ) from None
        self.cnn, self.depth = DenseNet169(spatial_dims=2, in_channels=3, out_channels=1), DENSENET_DEPTH - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn(x).squeeze(-1)

    def layer_of(self, name: str) -> int:
        if "class_layers" in name or "norm5" in name:
            return self.depth + 1
        found = re.search(r"(?:denseblock|transition)(\d)", name)
        return int(found[1]) if found else 0


def build(system: System, seed: int) -> Classifier:
    """DenseNet-169 at its start, on the CPU; the same for the same seed."""
    torch.manual_seed(seed)
    cnn = DenseNetClassifier()
    if system.pretrained:
        _load_densenet(cnn.cnn, Path(system.start))
    return cnn


def _load_densenet(cnn: nn.Module, path: Path) -> None:
    """Fill everything but the classification layer from torchvision's keys (the old dotted ones too) or MONAI's."""
    state = {
        re.sub(r"(denselayer\d+)\.(norm|conv)\.?(\d)\.", r"\1.layers.\2\3.", key): value.float()
        for key, value in read_checkpoint(path).items()
        if not key.startswith(("classifier.", "class_layers.out.")) and not key.endswith("num_batches_tracked")
    }
    own = {k: v for k, v in cnn.state_dict().items() if "class_layers.out" not in k and "num_batches" not in k}
    fill(cnn, own, state, f"{path}: not a checkpoint of DenseNet-169")
