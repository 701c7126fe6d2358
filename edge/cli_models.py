"""Workstation commands about models: `pretrain`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import ConfigError


def add_models(
    commands: Any, new_progress: Callable[[], Any], toolchain_missing: Callable[[ImportError], ConfigError]
) -> None:
    """`new_progress` makes a progress line; `toolchain_missing` says how to install what an import lacks."""
    pretrain = commands.add_parser(
        "pretrain",
        help="workstation: continue a checkpoint's MAE pretraining on unlabelled frames",
        description="Masked autoencoding (75 %% of the patches hidden) on every picture under FOLDER. Frames of patients on whom "
        "anything is tested later must not be in it. Goes on where it was cut off.",
    )
    pretrain.add_argument("folder", type=Path, metavar="FOLDER", help="unlabelled frames: pictures or DICOM stills")
    pretrain.add_argument(
        "--init", type=Path, required=True, metavar="FILE", help="USF-MAE's checkpoint, or any ViT with timm's keys"
    )
    pretrain.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the checkpoint to write; FILE.work while it runs"
    )
    pretrain.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="bf16 on both (default: cpu)")
    for name, kind, default, text in (
        ("image", int, 224, "input side, pixels"),
        ("epochs", int, 50, "how often every frame is seen"),
        ("batch", int, 64, "frames a step"),
        ("mask-ratio", float, 0.75, "share of the patches that is hidden"),
        ("seed", int, 0, "decides order, augmentation and masks"),
        ("threads", int, 2, "CPU threads"),
    ):
        pretrain.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=f"{text} (default {default})")
    pretrain.add_argument("--lr", type=float, metavar="RATE", help="peak rate (default: MAE's, 1.5e-4 x batch / 256)")
    pretrain.add_argument("--json", action="store_true", help="print the result as one JSON object")

    def run(args: argparse.Namespace) -> int:
        try:
            from export.pretrain import Settings, pretrain
        except ImportError as error:
            raise toolchain_missing(error) from None
        progress = new_progress()
        settings = Settings(args.image, args.epochs, args.batch, args.lr, args.mask_ratio, args.seed, args.threads)
        result = pretrain(args.folder, args.init, args.output, settings, args.device, progress)
        progress.clear()
        if args.json:
            print(json.dumps(result))
            return 0
        first, last = result["losses"][0], result["losses"][-1]
        print(
            f"{result['checkpoint']}: {result['frames']} frames, {result['epochs']} epochs from {result['start']}, "
            f"masked loss {first:.4f} -> {last:.4f}\ndecoder {result['decoder']}"
        )
        return 0

    pretrain.set_defaults(handler=run)
