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

from edge.cli.bundles import allow_unsigned
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.config import Config
    from edge.engines.runner import Runner
    from edge.engines.tensorrt.cache import EngineCache
    from edge.engines.tensorrt.race import Candidate

Configure = Callable[[argparse.Namespace], "Config"]


def add_engine(commands: Any, configure: Configure, make_progress: Callable[[], Any]) -> None:
    """Add `engine build|list|race|prune`. configure: the arguments' configuration. make_progress: a progress line."""
    engine = commands.add_parser("engine", help="build TensorRT engines on this device, race them, list and prune them")
    actions = engine.add_subparsers(title="actions", required=True, metavar="ACTION")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--bundle", metavar="B", help="another bundle than the configured one")
    shared.add_argument("--config", metavar="C", type=Path)
    shared.add_argument("--cache", metavar="DIR", help="the engines' folder (else engine.cache of the configuration)")
    shared.add_argument("--json", action="store_true")
    allow_unsigned(shared)
    building = argparse.ArgumentParser(add_help=False)
    building.add_argument("--batch", type=int, default=1, metavar="N", help="crops a call (default 1, the daemon's)")
    building.add_argument("--workspace-mb", type=int, default=1024, metavar="MB", help="scratch memory for tactics")
    building.add_argument("--level", type=int, default=3, metavar="0-5", help="the builder's effort (default 3)")
    building.add_argument(
        "--no-library-tactics", action="store_true", help="keep cuBLAS and cuDNN out, where they are stubs"
    )
    building.add_argument("--force", action="store_true", help="build again what is there already")
    build = actions.add_parser("build", parents=[shared, building], help="one engine into the cache, checked")
    build.add_argument("--precision", default="int8", metavar="P", help="int8, fp16, mixed or fp32 (default int8)")
    actions.add_parser(
        "race", parents=[shared, building], help="build int8, fp16 and mixed; keep the fastest that passes"
    )
    actions.add_parser("list", parents=[shared], help="what is in the cache")
    actions.add_parser(
        "prune", parents=[shared], help="keep what this machine uses for this bundle, with what is known of it; remove the rest"
    )
    for name, action in actions.choices.items():
        action.set_defaults(handler=_handler(HANDLERS[name], configure, make_progress))


def add_engine_validation(validate: argparse.ArgumentParser) -> None:
    """Add the options of `validate` that concern engines."""
    group = validate.add_argument_group("engines")
    group.add_argument(
        "--crops", type=Path, metavar="FILE.npz", help="with a recipe: write the gate's crops here; with --engine: read"
    )
    group.add_argument(
        "--engine", action="store_true", help="compare this machine's engine with PyTorch and the INT8 graph"
    )
    group.add_argument(
        "--runtime",
        choices=("tensorrt", "openvino", "onnxruntime"),
        help="with --engine: whose (else engine.runtime of the configuration, else tensorrt)",
    )
    group.add_argument(
        "--precision",
        default="",
        choices=("int8", "fp16", "mixed", "fp32"),
        help="with --engine: which of this machine's engines (else the race's winner)",
    )
    group.add_argument("--bundle", metavar="B", help="with --engine: another bundle than the configured one")
    group.add_argument("--config", metavar="C", type=Path, help="with --engine: the daemon's configuration")
    group.add_argument("--cache", metavar="DIR", help="with --engine: the engines' folder")
    allow_unsigned(validate)


def validate_engine(args: argparse.Namespace, configure: Configure) -> int:
    """`validate --engine`: 0 when the engine passes the gate, 3 when not."""
    from edge.engines.choice import choose, engine_to_validate
    from edge.engines.tensorrt.cache import EngineCache
    from edge.engines.tensorrt.key import sha256
    from edge.engines.validated import keep_record
    from edge.errors import EngineError

    if not args.crops:
        raise ConfigError("--engine: needs --crops FILE.npz, which `hygroma validate RECIPE --crops FILE.npz` writes")
    try:
        from export.engine_gate import engine_report, load_crops
    except ImportError as error:
        raise ConfigError(
            f"validate --engine: {error.name} is missing: pip install scipy, and install from a checkout"
        ) from None
    config = configure(args)
    data, bundle = load_crops(args.crops), _bundle(config)
    runtime = args.runtime or (config.engine.runtime if config.engine.runtime != "auto" else "tensorrt")
    if args.precision and runtime != "tensorrt":
        raise ConfigError(f"--precision: found {args.precision} with {runtime}, which runs the bundle's INT8 graph; leave it out")
    cache = EngineCache(args.cache or config.engine.cache or None)
    engine: Runner
    if runtime == "tensorrt":
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


def _handler(run: Callable[..., int], configure: Configure, make_progress: Callable[[], Any]) -> Callable[..., int]:
    def handle(args: argparse.Namespace) -> int:
        from edge.engines.tensorrt.cache import EngineCache

        config = configure(args)
        return run(args, config, EngineCache(args.cache or config.engine.cache or None), make_progress())

    return handle


def _bundle(config: Config) -> Bundle:
    from edge.bundle import load_bundle
    from edge.update.slots import bundle_path

    return load_bundle(bundle_path(config), config.bundle.trust())


def _options(args: argparse.Namespace, precision: str) -> Any:
    from edge.engines.tensorrt.build import BuildOptions

    return BuildOptions(precision, args.batch, args.workspace_mb, args.level, not args.no_library_tactics)


def _build(args: argparse.Namespace, config: Config, cache: EngineCache, progress: Any) -> int:
    from edge.engines.selftest import run_selftest
    from edge.engines.tensorrt.host import cached_engine, this_host
    from edge.engines.tensorrt.runner import TensorRTRunner
    from edge.errors import EngineError

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
    if args.json:
        print(json.dumps(row))
        return 0
    print(
        f"{args.precision} for {host.platform}: {'built' if built_now else 'was there already'}, passes the golden images"
    )
    print(f"  {stored.entry.layers or 'layers not known'}\n  {cache.root / stored.entry.key.digest}")
    return 0


def _race(args: argparse.Namespace, config: Config, cache: EngineCache, progress: Any) -> int:
    from edge.engines.tensorrt.host import this_host
    from edge.engines.tensorrt.race import race

    options, host, bundle = _options(args, "int8"), this_host(), _bundle(config)
    result, path = race(host, cache, bundle, options, progress=progress, force=args.force)
    progress.clear()
    if args.json:
        print(json.dumps(asdict(result) | {"file": str(path)}))
        return 0
    print(f"{result.bundle} on {result.platform}")
    for candidate in result.candidates:
        print(f"  {candidate_line(candidate, candidate.digest == result.winner)}")
    print(f"written to {path}")
    return 0


def candidate_line(candidate: Candidate, won: bool) -> str:
    """One line for people."""
    if candidate.device_p50_ms is None or not candidate.passed:
        return f"{candidate.precision:<6} out: {candidate.reason}"
    graph = "" if candidate.captured else ", without a CUDA graph"
    return (
        f"{candidate.precision:<6} {candidate.device_p50_ms:.3f} ms on the device (p99 {candidate.device_p99_ms:.3f}), "
        f"{candidate.host_p50_ms:.3f} ms waited{graph}; {candidate.layers}{'  <- wins' if won else ''}"
    )


def _list(args: argparse.Namespace, config: Config, cache: EngineCache, progress: Any) -> int:
    entries = cache.entries()
    if args.json:
        print(json.dumps([_entry_row(entry) for entry in entries]))
        return 0
    for entry in entries:
        built = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.built_s))
        key, size = entry.key, f"{entry.bytes / 1e6:.1f} MB"
        print(f"{key.digest}  {key.precision:<6} {size}  {built}  {entry.bundle}  {key.platform}")
    if not entries:
        print(f"no engines in {cache.root}")
    return 0


def _prune(args: argparse.Namespace, config: Config, cache: EngineCache, progress: Any) -> int:
    from edge.engines.tensorrt.host import this_host
    from edge.engines.tensorrt.key import sha256

    pruned = cache.prune(this_host().platform, sha256(_bundle(config).model))
    if args.json:
        print(json.dumps(asdict(pruned)))
    else:
        print(f"{len(pruned.removed)} removed ({pruned.freed / 1e6:.1f} MB), {len(pruned.kept)} kept in {cache.root}")
    return 0


def _entry_row(entry: Any) -> dict[str, Any]:
    from edge.schema import encode

    return {"digest": entry.key.digest, **encode(entry)}


HANDLERS: dict[str, Callable[..., int]] = {"build": _build, "race": _race, "list": _list, "prune": _prune}
