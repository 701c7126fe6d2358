"""The `engine` command and `validate --engine`: composes and prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.common import Parser, Progress, config_of, tell
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.config import Config
    from edge.engines.runner import Runner
    from edge.engines.tensorrt.cache import EngineCache, Entry

Action = Callable[[argparse.Namespace, "Config"], int]


def _add_engine(engine: Parser) -> None:
    from edge.engines.graph_forms import PRECISIONS
    from edge.engines.tensorrt.race import CANDIDATES

    actions = engine.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, run: Action, text: str, builds: bool = False) -> Parser:
        action: Parser = actions.add_parser(name, help=text)
        action.add_bundle("another bundle than the configured one")
        action.add_config()
        action.add_argument("--cache", metavar="DIR", help="the engines' folder (else engine.cache of the configuration)")
        action.add_json()
        if builds:
            action.add_numbers([("batch", 1, "crops a call, the daemon's one")])
            action.add_numbers([("workspace-mb", 1024, "scratch memory for tactics, MB")])
            action.add_argument("--level", type=int, default=3, metavar="0-5", help="the builder's effort (default 3)")
            action.add_flag("--no-library-tactics", "keep cuBLAS and cuDNN out, where they are stubs")
            action.add_flag("--force", "build again what is there already")
        action.set_defaults(handler=lambda args: run(args, config_of(args)))
        return action

    build = add("build", _build, "one engine into the cache, checked", builds=True)
    build.add_argument(
        "--precision", default="int8", metavar="P", help=f"{', '.join(PRECISIONS)} (default int8)"
    )
    add("race", _race, f"build {', '.join(CANDIDATES)}; keep the fastest that passes", builds=True)
    add("list", _list, "what is in the cache")
    add("prune", _prune, "keep what this machine uses for this bundle, with what is known of it; remove the rest")


def add_engine_validation(validate: Parser) -> None:
    """Add the options of `validate` that concern engines."""
    from edge.engines.graph_forms import PRECISIONS
    from edge.engines.runtimes import RUNTIMES

    validate.add_path("--crops", "FILE.npz", "with a recipe: write the gate's crops here; with --engine: read")
    validate.add_flag("--engine", "compare this machine's engine with PyTorch and the INT8 graph")
    validate.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="with --engine: whose (else engine.runtime of the configuration, else tensorrt)",
    )
    validate.add_argument(
        "--precision",
        default="",
        choices=PRECISIONS,
        help="with --engine: which of this machine's engines (else the race's winner)",
    )
    validate.add_bundle("with --engine: another bundle than the configured one")
    validate.add_config("with --engine: the daemon's configuration")
    validate.add_argument("--cache", metavar="DIR", help="with --engine: the engines' folder")


def validate_engine(args: argparse.Namespace) -> int:
    """`validate --engine`: 0 when the engine passes the gate, 3 when not."""
    from edge.engines.choice import choose, engine_to_validate
    from edge.engines.runtimes import AUTO, TENSORRT
    from edge.engines.tensorrt.key import sha256
    from edge.engines.validated import keep_record
    from edge.errors import EngineError

    if not args.crops:
        raise ConfigError("--engine: needs --crops FILE.npz, which `hygroma validate RECIPE --crops FILE.npz` writes")
    try:
        from export.report.engine_gate import engine_report, load_crops
    except ImportError as error:
        raise ConfigError(
            f"validate --engine: {error.name} is missing: pip install scipy, and install from a checkout"
        ) from None
    config = config_of(args)
    data, bundle = load_crops(args.crops), _bundle(config)
    runtime = args.runtime or (config.engine.runtime if config.engine.runtime != AUTO else TENSORRT)
    if args.precision and runtime != TENSORRT:
        raise ConfigError(f"--precision: found {args.precision} with {runtime}, which runs the bundle's INT8 graph; leave it out")
    cache = _cache(args, config)
    engine: Runner
    if runtime == TENSORRT:
        engine, ran = engine_to_validate(bundle, cache, args.precision)
    else:
        engine, ran = choose(bundle, runtime, config.engine.threads).runner, bundle.model
    report = engine_report(bundle, engine, data) | {"crops_sha256": sha256(args.crops.read_bytes())}
    try:
        kept: Path | None = keep_record(cache, sha256(ran), report)
    except EngineError as error:
        kept = None
        print(f"not kept, so `hygroma doctor` will not show it: {error}; or run as the user who may write there", file=sys.stderr)
    if args.json:
        print(json.dumps(report | {"file": kept and str(kept)}))
    else:
        print(f"{report['bundle']} on {report['engine']}: {report['n']} crops, {report['positives']} positives")
        for name, step in report["steps"].items():
            verdict = "passed" if step["passed"] else f"FAILED ({'; '.join(step['reasons'])})"
            print(
                f"  {name}: {verdict}; {step['flips']} flips, {step['positives_lost']} positives lost, AUC drop "
                f"{step['auc_drop']:.4f}, |dp| max {step['max_dp']:.4f}, p99 {step['p99_dp']:.4f}{_bounds(step)}"
            )
            plane = step["plane"]
            print(
                f"    planes, not gated: {plane['lost']} of {plane['assessable']} assessable ones lost, {plane['gained']} "
                f"gained, |dp| max {plane['max_dp']:.4f}, p99 {plane['p99_dp']:.4f}"
            )
        if kept:
            print(f"written to {kept}; `hygroma doctor` shows it")
    return 0 if report["passed"] else 3


def _bounds(step: dict[str, Any]) -> str:
    """What n allows to be said of a gate's step."""
    bound = step["positives_lost_bound"]
    lost = "" if bound is None else f"; loses at most {bound:.1%} of positives (95 %)"
    return f"{lost}, McNemar p {step['mcnemar_p']:.3g}"


def _cache(args: argparse.Namespace, config: Config) -> EngineCache:
    from edge.engines.tensorrt.cache import EngineCache

    return EngineCache(args.cache or config.engine.cache or None)


def _bundle(config: Config) -> Bundle:
    from edge.bundle import load_bundle
    from edge.update.slots import bundle_path

    return load_bundle(bundle_path(config), config.bundle.trust())


def _options(args: argparse.Namespace, precision: str) -> Any:
    from edge.engines.tensorrt.build import BuildOptions

    return BuildOptions(precision, args.batch, args.workspace_mb, args.level, not args.no_library_tactics)


def _build(args: argparse.Namespace, config: Config) -> int:
    from edge.engines.selftest import run_selftest
    from edge.engines.tensorrt.host import cached_engine, this_host
    from edge.engines.tensorrt.runner import TensorRTRunner
    from edge.errors import EngineError

    cache, progress = _cache(args, config), Progress()
    options, host, bundle = _options(args, args.precision), this_host(), _bundle(config)
    stored, built_now = cached_engine(host, cache, bundle, options, progress, args.force)
    progress.clear()
    with TensorRTRunner(stored.plan, args.precision, host.api, host.cuda) as runner:
        try:
            report = run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
        except EngineError as error:
            cache.set_aside(stored.entry.key, str(error))
            raise
        captured = runner.captured
    row = _entry_row(stored.entry) | {"built_now": built_now, "captured": captured, "selftest": asdict(report)}
    return tell(args, row, lambda: (
        f"{args.precision} for {host.platform}: {'built' if built_now else 'was there already'}, passes the golden images\n"
        f"  {stored.entry.layers or 'layers not known'}\n  {cache.root / stored.entry.key.digest}"
    ))  # fmt: skip


def _race(args: argparse.Namespace, config: Config) -> int:
    from edge.engines.tensorrt.host import this_host
    from edge.engines.tensorrt.race import candidate_line, race

    cache, progress = _cache(args, config), Progress()
    options, host, bundle = _options(args, "int8"), this_host(), _bundle(config)
    result, path = race(host, cache, bundle, options, progress=progress, force=args.force)
    progress.clear()
    lines = (f"  {candidate_line(candidate, candidate.digest == result.winner)}" for candidate in result.candidates)
    return tell(args, asdict(result) | {"file": str(path)}, lambda: (
        "\n".join([f"{result.bundle} on {result.platform}", *lines, f"written to {path}"])
    ))  # fmt: skip


def _list(args: argparse.Namespace, config: Config) -> int:
    cache = _cache(args, config)
    entries = cache.entries()
    return tell(args, [_entry_row(entry) for entry in entries], lambda: (
        "\n".join(map(_entry_line, entries)) or f"no engines in {cache.root}"
    ))  # fmt: skip


def _prune(args: argparse.Namespace, config: Config) -> int:
    from edge.engines.tensorrt.host import this_host
    from edge.engines.tensorrt.key import sha256

    cache = _cache(args, config)
    pruned = cache.prune(this_host().platform, sha256(_bundle(config).model))
    return tell(args, asdict(pruned), lambda: (
        f"{len(pruned.removed)} removed ({pruned.freed / 1e6:.1f} MB), {len(pruned.kept)} kept in {cache.root}"
    ))  # fmt: skip


def _entry_row(entry: Entry) -> dict[str, Any]:
    from edge.schema import encode

    return {"digest": entry.key.digest, **encode(entry)}


def _entry_line(entry: Entry) -> str:
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.built_s))
    key, size = entry.key, f"{entry.bytes / 1e6:.1f} MB"
    return f"{key.digest}  {key.precision:<6} {size}  {built}  {entry.bundle}  {key.platform}"


COMMANDS = {"engine": _add_engine}
