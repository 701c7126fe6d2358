"""Workstation command `adapt`: a bundle's heads, fitted on a site's own images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.bundles import allow_unsigned
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.config import Config

FIGURES = ("ROC-AUC", "sensitivity", "specificity")


def add_adapt(
    commands: Any,
    config: Callable[[Path | None, str | None, bool], Config],
    new_progress: Callable[[], Any],
    toolchain_missing: Callable[[ImportError], ConfigError],
) -> None:
    """`config` reads where bundles lie and whose signatures count; the others as `edge.cli.studies.add_models` has them."""
    adapt = commands.add_parser(
        "adapt",
        help="workstation: fit a bundle's heads on your own images",
        description="From a bundle and a folder per class (DATA/hygroma, DATA/normal) to a bundle of your own: the hygroma head "
        "fitted on your images, the plane head too where the CSV's `plane` column tells standard planes from others, all else "
        "kept to the bit. Judged out of fold, grouped by patient, against the bundle as it was.",
        epilog="docs/adapt.md says what is fitted and what the figures mean.",
    )
    adapt.add_argument("data", type=Path, metavar="DATA", help="a folder with two folders of images, one a class")
    adapt.add_argument("--csv", type=Path, metavar="FILE", help="path,label,patient[,site][,plane][,fold], a row an image")
    adapt.add_argument("--positive", default="hygroma", metavar="CLASS", help="the positive folder (default: hygroma)")
    adapt.add_argument("--bundle", metavar="B", help="the bundle to start from (default: the shipped one)")
    adapt.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the bundle; report and predictions, which name your images"
    )
    adapt.add_argument("--name", metavar="ID", help="of the new model (default: the old one's with -site)")
    adapt.add_argument("--version", default="1.0.0", help="of the new model (default 1.0.0)")
    for name, default, text in (
        ("exams", 400, "phantom exams that the decision is fitted on; it is measured on 1.75 times as many"),
        ("seed", 0, "of the folds"),
        ("threads", 2, "CPU threads"),
    ):
        adapt.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    adapt.add_argument(
        "--accept-failing-gate", action="store_true", help="write it all the same; recorded and shown"
    )
    adapt.add_argument("--json", action="store_true", help="print the result as one JSON object")

    def run(args: argparse.Namespace) -> int:
        try:
            from export.adapt import Settings, adapt
        except ImportError as error:
            raise toolchain_missing(error) from None
        from calibration.dataset import load_dataset
        from edge.bundle import load_bundle
        from edge.bundle.trust import SHIPPED_BUNDLE

        own = config(None, args.bundle, args.allow_unsigned)
        start = load_bundle(own.engine.bundle or SHIPPED_BUNDLE, own.bundle.trust())
        settings = Settings(
            args.name or f"{start.manifest.model.id}-site", args.version, args.exams, seed=args.seed, threads=args.threads
        )
        progress = new_progress()
        data = load_dataset(args.data, args.csv, args.positive)
        found = adapt(start, data, args.out, settings, args.accept_failing_gate, progress)
        progress.clear()
        print(json.dumps(found) if args.json else _told(found, start.label))
        return 0

    adapt.set_defaults(handler=run)
    allow_unsigned(adapt)


def _told(found: dict[str, Any], start: str) -> str:
    whose = "" if found["patients known"] else " (no CSV: every image counts as a patient of its own)"
    lines = [f"{found['images']} images{whose}"]
    if found["left out"]:
        left = ", ".join(f"{signal} {n}" for signal, n in sorted(found["left out"].items()))
        lines.append(f"left out, since the device would not score them: {left}")
    lines.append(f"the device would call {found['called assessable']} of {found['images']} assessable")
    lines.append(f"plane head {found['plane head']}")
    for part in found["sets"]:
        lines.append(f"\n{part['name']}: {part['n']} images, {part['positives']} positive, out of fold; as it was: {start}")
        lines.append(f"{'':<11}" + "".join(f"{name:<22}" for name in FIGURES))
        for step, figures in part["steps"].items():
            cells = [figures["all folds"][name] for name in FIGURES]
            text = [f"{c['value']:.3f} ({c['low']:.3f}-{c['high']:.3f})" if c else "-" for c in cells]
            lines.append(f"{step:<11}" + "".join(f"{cell:<22}" for cell in text))
    lines.append("")
    for row in found["exams"]:
        interval = "" if row["low"] is None else f" ({row['low']:.3f}-{row['high']:.3f})"
        lines.append(f"phantom exams: {row['metric']} {row['value']:.3f}{interval}, n = {row['n']}")
    lines.append(f"gate of INT8: {found['gate']}")
    lines.append(f"bundle (sign it: `hygroma bundle sign`): {found['bundle']}\nreport: {found['report']}")
    return "\n".join(lines)
