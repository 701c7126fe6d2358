"""Commands about models and what they learn from: `pretrain`, `sensitivity`, `ladder`, `lesions`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from edge.cli.common import Parser, Progress, require_writable, tell, toolchain
from edge.errors import ConfigError


def _add_pretrain(pretrain: Parser) -> None:
    pretrain.description = (
        "Masked autoencoding (75 % of the patches hidden) on every picture under FOLDER. Frames of patients on whom "
        "anything is tested later must not be in it. Goes on where it was cut off."
    )
    pretrain.add_path("folder", "FOLDER", "unlabelled frames: pictures or DICOM stills")
    pretrain.add_path("--init", "FILE", "USF-MAE's checkpoint, or any ViT with timm's keys", required=True)
    pretrain.add_path("--output", "FILE", "the checkpoint to write; FILE.work while it runs", required=True)
    pretrain.add_device()
    pretrain.add_numbers((
        ("image", 224, "input side, pixels"),
        ("epochs", 50, "how often every frame is seen"),
        ("batch", 64, "frames a step"),
        ("mask-ratio", 0.75, "share of the patches that is hidden"),
        ("seed", 0, "decides order, augmentation and masks"),
        ("threads", 2, "CPU threads"),
    ))  # fmt: skip
    pretrain.add_argument("--lr", type=float, metavar="RATE", help="peak rate (default: MAE's, 1.5e-4 x batch / 256)")
    pretrain.add_json("print the result as one JSON object")
    pretrain.set_defaults(handler=_pretrain)


def _pretrain(args: argparse.Namespace) -> int:
    with toolchain():
        from export.training.pretrain import Settings, pretrain
    progress = Progress()
    settings = Settings(args.image, args.epochs, args.batch, args.lr, args.mask_ratio, args.seed, args.threads)
    result = pretrain(args.folder, args.init, args.output, settings, args.device, progress)
    progress.clear()
    return tell(args, result, lambda: (
        f"{result['checkpoint']}: {result['frames']} frames, {result['epochs']} epochs from {result['start']}, "
        f"masked loss {result['losses'][0]:.4f} -> {result['losses'][-1]:.4f}\ndecoder {result['decoder']}"
    ))  # fmt: skip


def _add_sensitivity(command: Parser) -> None:
    command.description = (
        "Per block linear of a recipe's student: the cost of quantising it alone, and the gain of keeping it alone in float, on "
        "images that the student never saw; then mixed precision up to the gate. Writes JSON, Markdown and SVG. Earlier "
        "stages run if they must."
    )
    command.add_recipe()
    command.add_argument(
        "--run", metavar="NAME", help="fold0 to fold3, or refit on the validation split (default: the first fold)"
    )
    command.add_numbers([("crops", 256, "images at most")])
    command.add_path("--out", "DIR", "default: `sensitivity` in the recipe's work folder")
    command.add_json("print the JSON")
    command.set_defaults(handler=_sensitivity)


def _sensitivity(args: argparse.Namespace) -> int:
    with toolchain():
        from export.atomic import writable
        from export.pipeline import Pipeline, run_name
        from export.recipe import load_recipe
        from export.report.sensitivity import write_study
    if args.crops < 2:
        raise ConfigError(f"--crops: found {args.crops}; give at least 2, one of either class")
    progress = Progress()
    pipeline = Pipeline(load_recipe(args.recipe), progress)
    runs = {run_name(number): number for number in sorted(pipeline.runs)}
    name = args.run or next(iter(runs))
    if name not in runs:
        raise ConfigError(f"--run: found {name!r}; this recipe has {', '.join(runs)}")
    folder = writable(args.out or pipeline.work / "sensitivity")
    found = pipeline.study(runs[name], args.crops)
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
            f"  {layer.layer}: {layer.only.hygroma_rms:.5f} alone; {layer.spared.hygroma_rms:.5f} left when it stays float"
        )
    last = result.search[-1]
    print(f"{'passes the gate' if last.gate.passed else 'fails the gate'} with {len(last.spared)} linears kept in float")
    print(f"written to {folder}")
    return 0


def _add_lesions(command: Parser) -> None:
    command.description = (
        "Discriminators that try to tell edited stills from untouched ones, cross-validated by patient (an AUC of .5 "
        "is a coin), and a contact sheet of fifty stills. Exit code 1 when one of them tells them apart, or could ask nothing."
    )
    command.epilog = "docs/notebook/simulated-lesions.md says what was found on the stills that the shipped model was trained on."
    command.add_path("data", "DATA", "a table with nt_box and thalami_box (docs/data.md)")
    command.add_path("--out", "DIR", "lesions.json and the contact sheet: pictures of the data", required=True)
    command.add_numbers((("stills", 240, "stills that are edited"), ("seed", 0, "of the stills and the edits")))
    command.add_path("--init", "FILE", "a ViT's checkpoint: its frozen features discriminate too")
    command.add_json("print lesions.json")
    command.set_defaults(handler=_lesions)


def _lesions(args: argparse.Namespace) -> int:
    with toolchain():
        from calibration.honesty import check_lesions, contact_sheet, make_specimens, write_checks
        from calibration.open_dataset import open_dataset
        from export.training.features import backbone_features
    if args.seed < 0:
        raise ConfigError(f"--seed: found {args.seed}; expected 0 or more")
    require_writable(args.out, "--out")
    backbone = backbone_features(args.init) if args.init else None
    progress = Progress()
    specimens = make_specimens(
        open_dataset(args.data).images, args.stills, args.seed, lambda done, total: progress("edits", done, total)
    )
    checks = check_lesions(specimens, backbone, on_step=lambda done, total: progress("checks", done, total))
    pages = contact_sheet(specimens, args.out)
    text = write_checks(checks, specimens, args.seed, args.init, args.out / "lesions.json")
    progress.clear()
    if args.json:
        print(text)
    else:
        for c in checks:
            print(
                f"{c.question}; {c.features}: ROC-AUC {c.auc:.3f} ({c.low:.3f}-{c.high:.3f}), {c.images} images of "
                f"{c.patients} patients: {c.verdict if c.honest else c.verdict.upper()}"
            )
        print(f"contact sheet: {pages[0]}")
    return 0 if all(c.honest for c in checks) else 1


def _add_ladder(ladder: Parser) -> None:
    ladder.description = (
        "Distils students of several sizes from one fold's teacher, converts each and judges all of them on that "
        "fold. Goes on where it was cut off. Writes WORK/ladder: ladder.json, ladder.md, ladder.svg."
    )
    ladder.epilog = "Latencies need an idle machine: measure them by themselves, with --latency-only, as often as you like."
    ladder.add_recipe()
    ladder.add_path("--rungs", "FILE", "the students to compare with (default: export/recipes/ladder.yaml)")
    ladder.add_device()
    ladder.add_ray("rungs")
    which = ladder.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", default=[], metavar="NAME", help="make these rungs alone")
    which.add_argument(
        "--latency-only",
        action="store_true",
        help="measure all rungs in turn, one thread, and train nothing; one that is not finished with random weights",
    )
    ladder.add_json("print the table as one JSON object")
    ladder.set_defaults(handler=_ladder)


def _ladder(args: argparse.Namespace) -> int:
    with toolchain():
        from benchmarks.ladder import measure, write_page
        from export.ladder import climb, graphs, unfinished, write_table
        from export.recipe import load_ladder, load_recipe, shipped_ladder
    progress = Progress()
    recipe = load_recipe(args.recipe)
    rungs = load_ladder(args.rungs or shipped_ladder(), recipe)
    folder = Path(recipe.work) / "ladder"
    if args.latency_only:
        with tempfile.TemporaryDirectory(prefix="hygroma-ladder-") as made:
            measure(graphs(recipe, rungs, Path(made)), folder, progress, untrained=unfinished(recipe, rungs))
        table = write_table(recipe, rungs)
    else:
        table = climb(recipe, rungs, args.only, args.ray, progress, args.device)
    page = write_page(table, folder)
    progress.clear()
    print(json.dumps(table) if args.json else page.read_text(), end="\n" if args.json else "")
    return 0


COMMANDS = {
    "pretrain": _add_pretrain,
    "sensitivity": _add_sensitivity,
    "ladder": _add_ladder,
    "lesions": _add_lesions,
}
