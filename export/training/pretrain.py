"""MAE pretraining on a folder of unlabelled frames, so that a site can continue USF-MAE's on its own scanners.

Every frame is decoded, and its crop kept, before anything is trained. Resumable after every epoch; order, augmentation and masks
follow from seed, epoch and batch alone, so that a run that was cut ends in the same weights.

Leakage: a frame of a test patient must not be in the folder, labelled or not. Nothing here can know whose a frame is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.crops import TRAINING_SCALE
from edge.errors import ConfigError, HygromaError
from edge.events.disk import why_unwritable
from export.atomic import appearing, remove, sha256_of
from export.model.mae import MASK_RATIO, MaskedAutoencoder, load_autoencoder, masked_loss
from export.model.vit import normalise
from export.training.augment import augment_unlabelled
from export.training.finetune import MAX_GRADIENT, open_device
from export.training.frames import Progress, contents_of, decode_frames, find_frames
from export.training.precision import autocast, record, recorded
from export.training.systems import vit_shape
from export.training.train import ahead, rate_factor

log = logging.getLogger("hygroma.pretrain")

BASE_RATE, BASE_BATCH = 1.5e-4, 256  # MAE's rate a 256 images; scaled with the batch
BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.05  # MAE's
WARMUP = 0.05  # share of the steps: MAE's 40 of 800 epochs
PARTS = {"frames": "frames.npy", "state": "state.pt"}


@dataclass(frozen=True)
class Settings:
    """image: input side, pixels; lr: peak; None: MAE's, scaled with the batch; mask_ratio: share of patches removed."""

    image: int = 224
    epochs: int = 50
    batch: int = 64
    lr: float | None = None
    mask_ratio: float = MASK_RATIO
    seed: int = 0
    threads: int = 2

    @property
    def rate(self) -> float:
        return self.lr or BASE_RATE * self.batch / BASE_BATCH


def pretrain(
    folder: Path,
    init: Path,
    output: Path,
    settings: Settings,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Continue a checkpoint's pretraining on every picture under `folder`; `output` gets {"model": encoder and decoder, MAE's
    keys}. The same call goes on where one was cut off, from OUTPUT.work, which holds crops of the frames until it ends.

    InputError names frames that cannot be decoded, an empty folder, a checkpoint that fits no ViT; ConfigError settings that
    cannot work or are not those of the run begun in OUTPUT.work."""
    config = vit_shape(init, settings.image)
    _check(settings, config.patch)
    torch_device = open_device(device)
    work = output.with_name(output.name + ".work")
    if problem := why_unwritable(output.parent):
        raise ConfigError(f"--output: {problem}; name a file in a folder that this user may write")
    torch.set_num_threads(settings.threads)
    model, decoder = load_autoencoder(init, config, settings.seed)
    log.info("decoder %s", decoder)
    paths = find_frames(folder)
    made_by = _described(paths, folder, init, settings)
    state = _resume(work, made_by, output)
    losses = state["losses"] if state else []
    if not (output.is_file() and len(losses) == settings.epochs):
        frames = _frames(paths, work, settings.image, made_by["frames"], progress)
        losses = _train(model, frames, settings, torch_device, work / PARTS["state"], made_by, state, progress)
        with appearing(output) as partial:
            torch.save({"model": {k: v.cpu() for k, v in model.state_dict().items()}}, partial)
        remove(work / PARTS["frames"])
    return {
        "checkpoint": str(output), "frames": len(paths), "start": init.name, "decoder": decoder,
        "epochs": len(losses), "mask_ratio": settings.mask_ratio, "image": settings.image, "losses": losses,
        "precision": recorded(work / PARTS["state"]),
    }  # fmt: skip


def _check(settings: Settings, patch: int) -> None:
    patches = (settings.image // patch) ** 2
    for name, found, fine, right in (
        ("image", settings.image, settings.image > 0 and settings.image % patch == 0, f"a multiple of {patch}, the patch"),
        ("mask-ratio", settings.mask_ratio, 0 < settings.mask_ratio < 1, "a share above 0 and below 1"),
        ("mask-ratio", settings.mask_ratio, 0 < int(patches * (1 - settings.mask_ratio)) < patches,
         f"a share of the {patches} patches that removes at least one and leaves at least one"),
        ("lr", settings.lr, settings.lr is None or settings.lr > 0 and math.isfinite(settings.lr), "above 0, such as 2e-5"),
        ("seed", settings.seed, settings.seed >= 0, "0 or more"),
        *((n, v, v > 0, "1 or more") for n, v in
          (("epochs", settings.epochs), ("batch", settings.batch), ("threads", settings.threads))),
    ):  # fmt: skip
        if not fine:
            raise ConfigError(f"--{name}: found {found}; expected {right}")


def _described(paths: list[Path], folder: Path, init: Path, settings: Settings) -> dict[str, Any]:
    """What decides the weights: settings, contents of the frames, checkpoint."""
    out = {k: v for k, v in dataclasses.asdict(settings).items() if k != "threads"} | {"lr": settings.rate}
    return out | {"frames": contents_of(paths, folder), "init": sha256_of(init)}


def _resume(work: Path, made_by: dict[str, Any], output: Path) -> dict[str, Any] | None:
    path = work / PARTS["state"]
    if not path.is_file():
        if output.exists():
            raise ConfigError(f"{output}: exists, and no run of this command made it; name another --output")
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = json.loads(saved["made_by"])
    except Exception as error:  # torch raises many kinds for damaged files
        raise ConfigError(f"{path}: not readable ({error}); delete {work} to begin anew") from None
    wrong = [
        f"{key}: found {_short(found.get(key))}, now {_short(made_by[key])}"
        for key in made_by
        if found.get(key) != made_by[key]
    ]
    if wrong:
        raise ConfigError(f"{work}: begun with other settings: {'; '.join(wrong)}; name another --output, or delete it")
    return saved


def _short(value: object) -> object:
    return f"SHA-256 {value[:16]}" if isinstance(value, str) else value


def _frames(paths: list[Path], work: Path, size: int, digest: str, progress: Progress) -> np.ndarray:
    """uint8 [N,B,B], on disk: a hundred thousand would not fit into memory. InputError naming what cannot be decoded."""
    target, made_of = work / PARTS["frames"], work / "frames.json"
    if target.is_file() and made_of.is_file() and json.loads(made_of.read_text()) == [digest, size]:
        return np.asarray(np.load(target, mmap_mode="r"))
    remove(made_of)
    decode_frames(paths, round(size * TRAINING_SCALE), target, progress)
    with appearing(made_of) as partial:
        partial.write_text(json.dumps([digest, size]))
    return np.asarray(np.load(target, mmap_mode="r"))


def _train(
    model: MaskedAutoencoder,
    frames: np.ndarray,
    settings: Settings,
    device: torch.device,
    checkpoint: Path,
    made_by: dict[str, Any],
    saved: dict[str, Any] | None,
    progress: Progress,
) -> list[float]:
    """The mean loss of every epoch."""
    model.to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim == 2 or p.ndim == 4], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim not in (2, 4)], "weight_decay": 0.0},  # vectors and tokens
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=BETAS)
    losses: list[float] = []
    if saved:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        losses = saved["losses"]
    steps = -(-len(frames) // settings.batch)
    while len(losses) < settings.epochs:
        record(checkpoint, device)
        epoch, started, total = len(losses), time.monotonic(), 0.0
        progress("pretrain: epochs", epoch, settings.epochs)
        for number, (crops, noise) in enumerate(_batches(frames, model, settings, steps, epoch)):
            factor = rate_factor((epoch * steps + number) / (settings.epochs * steps), WARMUP)
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * factor
            x = normalise(crops.to(device))
            with autocast(device):
                predicted, mask = model(x, noise.to(device), settings.mask_ratio)
            loss = masked_loss(predicted, mask, x, model.config.patch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT)
            optimiser.step()
            total += float(loss.detach()) * len(crops)
        if not math.isfinite(total):
            raise HygromaError(
                f"{checkpoint}: training diverged in epoch {epoch + 1}; lower --lr and delete {checkpoint}"
            )
        losses = [*losses, total / len(frames)]
        with appearing(checkpoint) as partial:
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses,
                        "made_by": json.dumps(made_by)}, partial)  # fmt: skip
        log.info("epoch %d/%d loss %.4f %.0f s", epoch + 1, settings.epochs, losses[-1], time.monotonic() - started)
    progress("pretrain: epochs", settings.epochs, settings.epochs)
    return losses


def _batches(
    frames: np.ndarray, model: MaskedAutoencoder, settings: Settings, steps: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every frame once, in batches of nearly equal size: uint8 [n,1,S,S], and the noise of their masks [n,G*G]. The next batch
    is augmented while the present one trains."""
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(frames))
    chunks = np.array_split(order, steps)

    def make(number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([settings.seed, epoch, number])
        crops = np.stack([augment_unlabelled(frames[i], settings.image, rng) for i in chunks[number]])
        noise = rng.random((len(crops), model.config.grid**2), np.float32)
        return torch.from_numpy(crops)[:, None], torch.from_numpy(noise)

    return ahead(make, steps)
