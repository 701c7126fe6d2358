"""Made-up labelled images and checkpoints in the forms that users bring, small enough for a test."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import torch

SHAPE = (120, 150)  # rows, columns of an image


def picture(rng: np.random.Generator, dark: bool) -> np.ndarray:
    """uint8 grey: smooth noise, with a dark ellipse or without; no two alike."""
    noise = cv2.GaussianBlur(rng.normal(0, 60, SHAPE).astype(np.float32), (0, 0), 5)
    image = 100 + 35 * (noise - noise.mean()) / noise.std() + rng.normal(0, 8, SHAPE)
    if dark:
        centre = (int(rng.integers(55, 95)), int(rng.integers(45, 75)))
        image = np.ascontiguousarray(image)
        cv2.ellipse(image, centre, (32, 16), 0, 0, 360, 5.0, -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_images(folder: Path, patients: int = 8, each: int = 1) -> list[dict[str, str]]:
    """`patients` of either class with `each` images: the rows of a table for them, which lies in `folder`."""
    rng = np.random.default_rng(0)
    rows = []
    for kind in ("normal", "hygroma"):
        (folder / kind).mkdir(parents=True)
        for patient in range(patients):
            for number in range(each):
                name = f"{kind}/{patient:02d}-{number}.png"
                cv2.imwrite(str(folder / name), picture(rng, kind == "hygroma"))
                finding = str(int(kind == "hygroma"))
                rows.append({"path": name, "hygroma": finding, "patient": f"{kind[0]}{patient}", "site": "A"})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def usf_mae_state(width: int = 768, depth: int = 12, grid: int = 14, patch: int = 16, decoder: int = 512) -> dict:
    """The keys and shapes of `mae_vit_base_patch16_dec512d8b` (facebookresearch/mae), which USF-MAE's checkpoints hold; each
    tensor one number, so that the file is small whatever its shapes."""
    block = {
        "norm1.weight": (1,), "norm1.bias": (1,), "attn.qkv.weight": (3, 1), "attn.qkv.bias": (3,),
        "attn.proj.weight": (1, 1), "attn.proj.bias": (1,), "norm2.weight": (1,), "norm2.bias": (1,),
        "mlp.fc1.weight": (4, 1), "mlp.fc1.bias": (4,), "mlp.fc2.weight": (1, 4), "mlp.fc2.bias": (1,),
    }  # fmt: skip
    positions = 1 + grid * grid
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **{f"blocks.{i}.{k}": tuple(width * n for n in s) for i in range(depth) for k, s in block.items()},
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mask_token": (1, 1, decoder),
        "decoder_pos_embed": (1, positions, decoder),
        "decoder_embed.weight": (decoder, width),
        "decoder_embed.bias": (decoder,),
        **{f"decoder_blocks.{i}.{k}": tuple(decoder * n for n in s) for i in range(8) for k, s in block.items()},
        "decoder_norm.weight": (decoder,),
        "decoder_norm.bias": (decoder,),
        "decoder_pred.weight": (3 * patch * patch, decoder),
        "decoder_pred.bias": (3 * patch * patch,),
    }
    return {key: torch.tensor([(1 + i) / 1000]).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    """A small checkpoint of USF-MAE's form (64 wide, 2 blocks, /16 at 64 pixels) with weights to train from."""
    torch.manual_seed(seed)
    state = usf_mae_state(64, 2, 4, decoder=32)
    ones = {key for key in state if "norm" in key and key.endswith("weight")}
    torch.save({k: torch.ones(v.shape) if k in ones else 0.02 * torch.randn(v.shape) for k, v in state.items()}, path)
    return path
