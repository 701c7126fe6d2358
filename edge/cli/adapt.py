"""The command `adapt`: a bundle's heads, fitted on a site's own images."""

from __future__ import annotations

import argparse
from typing import Any

from edge.cli.common import Parser, Progress, bundle_of, config_of, tell, toolchain

FIGURES = ("ROC-AUC", "sensitivity", "specificity")


def _add_adapt(adapt: Parser) -> None:
    adapt.description = (
        "From a bundle and a data set, a folder per class or a table, to a bundle of your own: the hygroma head "
        "fitted on your images, the plane head too where folders or table tell standard planes from others, all else "
        "kept to the bit. Judged out of fold, grouped by patient, against the bundle as it was."
    )
    adapt.epilog = "docs/adapt.md says what is fitted and what the figures mean."
    adapt.add_labelled()
    adapt.add_daemons_bundle("the bundle to start from (default: the daemon's: the installed one, else the shipped one)")
    adapt.add_path("--out", "DIR", "the bundle; report and predictions, which name your images", required=True)
    adapt.add_argument("--name", metavar="ID", help="of the new model (default: the old one's with -site)")
    adapt.add_argument("--version", default="1.0.0", help="of the new model (default 1.0.0)")
    adapt.add_numbers((
        ("exams", 400, "phantom exams that the decision is fitted on; it is measured on 1.75 times as many"),
        ("seed", 0, "of the folds"),
        ("threads", 2, "CPU threads"),
    ))  # fmt: skip
    adapt.add_accept_failing()
    adapt.add_json("print the result as one JSON object")
    adapt.set_defaults(handler=_adapt)


def _adapt(args: argparse.Namespace) -> int:
    with toolchain():
        from calibration.open_dataset import open_dataset
        from export.site.adapt import Settings, adapt
    start = bundle_of(config_of(args, at_home=True))
    settings = Settings(
        args.name or f"{start.manifest.model.id}-site", args.version, args.exams, seed=args.seed, threads=args.threads
    )
    progress = Progress()
    data = open_dataset(args.data, args.positive)
    found = adapt(start, data, args.out, settings, args.accept_failing_gate, progress)
    progress.clear()
    return tell(args, found, lambda: _told(found, start.label))


def _told(found: dict[str, Any], start: str) -> str:
    whose = "" if found["patients known"] else " (no table: every image counts as a patient of its own)"
    lines = [f"{found['images']} images{whose}"]
    if found["left out"]:
        left = ", ".join(f"{signal} {n}" for signal, n in sorted(found["left out"].items()))
        lines.append(f"left out (held out, without a finding, or not to be scored by the device): {left}")
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


COMMANDS = {"adapt": _add_adapt}
