"""Workstation commands about models: `pretrain` and `sensitivity`."""

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
    _add_sensitivity(commands, new_progress, toolchain_missing)
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


def _add_sensitivity(
    commands: Any, new_progress: Callable[[], Any], toolchain_missing: Callable[[ImportError], ConfigError]
) -> None:
    command = commands.add_parser(
        "sensitivity",
        help="workstation: what INT8 costs, layer by layer",
        description="Per block linear of a recipe's student: what quantising only it costs, and what sparing only it saves, on "
        "images that the student never saw; then mixed precision up to the gate. Writes JSON, Markdown and SVG. Earlier "
        "stages run if they must.",
    )
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument(
        "--run", metavar="NAME", help="fold0 to fold3, or refit on the validation split (default: the first fold)"
    )
    command.add_argument("--crops", type=int, default=256, metavar="N", help="images at most (default 256)")
    command.add_argument("--out", type=Path, metavar="DIR", help="default: `sensitivity` in the recipe's work folder")
    command.add_argument("--json", action="store_true", help="print the JSON")

    def run(args: argparse.Namespace) -> int:
        try:
            from export.pipeline import Pipeline, run_name
            from export.recipe import load_recipe
            from export.sensitivity import study, writable, write_study
        except ImportError as error:
            raise toolchain_missing(error) from None
        if args.crops < 2:
            raise ConfigError(f"--crops: found {args.crops}; give at least 2, one of either class")
        progress = new_progress()
        pipeline = Pipeline(load_recipe(args.recipe), progress)
        runs = {run_name(number): number for number in sorted(pipeline.runs)}
        name = args.run or next(iter(runs))
        if name not in runs:
            raise ConfigError(f"--run: found {name!r}; this recipe has {', '.join(runs)}")
        folder = writable(args.out or pipeline.work / "sensitivity")
        found = study(pipeline, runs[name], name, args.crops)
        write_study(found, folder)
        progress.clear()
        if args.json:
            print(json.dumps(found.to_dict()))
            return 0
        result = found.result
        print(
            f"{found.model}: {result.n} crops, {result.positives} positive; all in INT8: rms dp {result.all.hygroma_rms:.5f}"
        )
        for layer in sorted(result.layers, key=lambda c: -c.only.hygroma_rms)[:3]:
            print(
                f"  {layer.layer}: {layer.only.hygroma_rms:.5f} alone; {layer.spared.hygroma_rms:.5f} left when it is spared"
            )
        last = result.search[-1]
        print(f"{'passes the gate' if last.gate.passed else 'fails the gate'} with {len(last.spared)} linears spared")
        print(f"written to {folder}")
        return 0

    command.set_defaults(handler=run)
