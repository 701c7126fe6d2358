"""The command `bench`: what this machine costs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from edge.cli.common import Parser, Progress, bundle_of, config_of, hours, positive, share
from edge.errors import ConfigError


def _add_bench(bench: Parser) -> None:
    from benchmarks.suites import DEFAULT, MODULES

    bench.description = (
        f"Suites: {', '.join(MODULES)}; or all. When none is named, {', '.join(DEFAULT)}: a few minutes. Exit code 1 when a case "
        "failed or the older run is of another machine, 3 when a budget or --fail-if-slower was not kept."
    )
    bench.add_argument("suites", nargs="*", metavar="SUITE", type=suite, help="what is measured; all for everything")
    form = bench.add_mutually_exclusive_group()
    for name in ("json", "markdown"):
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name, help=f"print {name}")
    bench.add_path("--out", "FILE", "also write the JSON here")
    bench.add_path("--compare", "OLD.json", "say what changed since an older run's JSON")
    bench.add_argument(
        "--fail-if-slower",
        type=share,
        metavar="10%",
        dest="allowed",
        help="exit code 3 when a figure is worse by more",
    )
    bench.add_flag("--budgets", "exit code 3 when a budget of benchmarks/budgets.yaml is exceeded")
    bench.add_numbers((
        ("threads", 1, "of inference"),
        ("calls", 1000, "timed calls a case"),
        ("seconds", 30, "a case may take, about"),
        ("fps", 30, "the camera's rate"),
        ("events", 1_000_000, "rows that `growth` fills the event store with"),
        ("frames", 18000, "of `soak`: ten minutes at 30 fps"),
    ), positive)  # fmt: skip
    bench.add_argument("--hours", type=hours, default=0.0, metavar="H", help="of `soak`, instead of --frames")
    bench.add_daemons_bundle(store="--store")
    bench.set_defaults(handler=_bench, form="text")


def suite(text: str) -> str:
    """The name of a suite, or "all"; argparse answers any other with exit code 2."""
    from benchmarks.suites import MODULES

    if text != "all" and text not in MODULES:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected any of {', '.join(MODULES)}, or all")
    return text


def _bench(args: argparse.Namespace) -> int:
    from benchmarks.case import Bench
    from benchmarks.command import Request, bench

    if args.allowed is not None and not args.compare:
        raise ConfigError("--fail-if-slower: needs --compare OLD.json, a result of `hygroma bench --out OLD.json`")
    progress = Progress()
    measured = Bench(
        bundle_of(config_of(args, at_home=True)),
        Path(),
        threads=args.threads,
        calls=args.calls,
        limit_s=float(args.seconds),
        rate_hz=float(args.fps),
        events_max=args.events,
        soak_frames=args.frames,
        soak_hours=args.hours,
    )
    request = Request(tuple(args.suites), measured, args.form, args.out, args.compare, args.allowed, args.budgets)

    def say(text: str) -> None:
        progress.clear()
        print(text)

    edge_log = logging.getLogger("edge")
    usual = edge_log.level
    edge_log.setLevel(logging.INFO if args.verbose else logging.ERROR)  # flags made on purpose are no news
    try:
        return bench(request, progress, say, say if args.form == "text" else lambda text: print(text, file=sys.stderr))
    finally:
        edge_log.setLevel(usual)


COMMANDS = {"bench": _add_bench}
