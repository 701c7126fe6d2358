"""The command line: composes and prints. Everything that decides anything lives elsewhere; heavy imports are lazy.

Exit codes: 0 done; 1 done, but something was unreadable or a check failed; 2 wrong usage; 3 a gate failed; 65 bad bundle; 66 bad
input; 69 source unavailable; 70 engine; 74 event store; 78 configuration (see edge/errors.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.cli_adapt import add_adapt
from edge.cli_bundles import add_commands, allow_unsigned, recipe_means_build
from edge.cli_engine import add_engine, add_engine_validation, validate_engine
from edge.cli_models import add_device, add_models, add_ray
from edge.errors import ConfigError, GateError, HygromaError, StoreError
from edge.kinds import CLIPS, DICOMS, STILLS

if TYPE_CHECKING:
    from edge.config import Config
    from edge.demo import DemoResult
    from edge.loop import Summary
    from edge.stills import Scored

STAGE_HELP = {
    "train": "fine-tune the teachers, one a fold and one on everything",
    "distill": "distil a student from each teacher",
    "quantize": "INT8 graphs of the students",
    "validate": "held-out figures of every form, as JSON and HTML, and the gate's verdicts",
    "bundle": "the bundle, unless its conversion fails the gate",
}


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(recipe_means_build(sys.argv[1:] if argv is None else argv))
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        return int(args.handler(args))
    except HygromaError as error:
        print(f"hygroma: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("hygroma: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return 0
    except OSError as error:  # a disk that is full or read-only, where no stage expected it
        logging.getLogger("hygroma").info("%s", error, exc_info=True)
        said = error.strerror or error
        print(
            f"hygroma: {error.filename or 'the disk'}: {said}; free space or correct the path (-v says where)",
            file=sys.stderr,
        )
        return StoreError.exit_code


class _Parser(argparse.ArgumentParser):
    """Takes -v before and after a command's name: commands' parsers are of this class too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log what happens to stderr"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hygroma",
        description="Watches a point-of-care ultrasound screen for a thick nuchal collection. Decision support, not a diagnosis.",
        epilog="Device: demo, run, score, events, doctor, bench. Workstation: train, distill, quantize, validate, bundle, export,"
        " pretrain, sensitivity, lesions, crossval, compare, explain.",
    )
    parser.add_argument("--version", action="version", version=f"hygroma-edge {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="watch the phantom clinic session that ships with this package")
    demo.add_argument("--json", action="store_true", help="print one JSON object")
    demo.add_argument(
        "--realtime", action="store_true", help="play the clip at its own rate (72 s) instead of as fast as possible"
    )
    demo.add_argument(
        "--serve", action="store_true", help="real time with the status page, which stays up until Ctrl-C"
    )
    demo.add_argument("--bundle", metavar="B", help="another bundle than the shipped one")
    demo.add_argument(
        "--out", metavar="DIR", help="where events and evidence images go (default: a new temporary folder)"
    )
    demo.set_defaults(handler=_demo)

    run = commands.add_parser(
        "run",
        help="watch a source",
        description="Watch a source until it ends or SIGTERM. URI: file:clip.mp4, v4l2:/dev/video0, rtsp://host/path, phantom:",
        epilog=f"file: plays {' '.join(sorted(CLIPS))}, and whatever else FFmpeg does. images: takes {' '.join(sorted(STILLS))}.",
    )
    run.add_argument("--source", metavar="URI", help="what to watch (else source.uri of the configuration)")
    run.add_argument(
        "--bundle", metavar="B", help="a bundle's folder or .tar (else the configuration's, else the shipped one)"
    )
    run.add_argument("--config", metavar="C", type=Path, help="a YAML file; edge/config.example.yaml shows every key")
    run.add_argument("--events", metavar="DIR", help="the event store (else events.dir of the configuration)")
    run.add_argument(
        "--as-fast-as-possible", action="store_true", dest="fast", help="play a file without waiting for its clock"
    )
    run.add_argument("--no-status", action="store_true", help="no status page")
    run.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    run.set_defaults(handler=_run)

    score = commands.add_parser(
        "score",
        help="score stills, folders, DICOM files and clips",
        description="One line a frame. Every picture that decodes gets probabilities; `assessable` says if they mean anything.",
        epilog=f"Clips: {' '.join(sorted(CLIPS))}; stills: {' '.join(sorted(STILLS))}; DICOM: {' '.join(sorted(DICOMS))};"
        " files with another ending, or none, by their content.",
    )
    score.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    score.add_argument("--json", action="store_true", help="one JSON object a line")
    score.add_argument("--bundle", metavar="B", help="another bundle than the shipped one")
    score.add_argument(
        "--every", type=_positive, default=1, metavar="N", help="of clips, score every Nth frame (default 1)"
    )
    score.add_argument("--overlay", type=Path, metavar="DIR", help="also write each frame with its nuchal map")
    score.set_defaults(handler=_score)

    _add_events(commands)
    add_engine(commands, _engine_config, _Progress)
    bench = _add_bench(commands)

    doctor = commands.add_parser("doctor", help="find what is wrong on this machine and say what to do")
    doctor.add_argument("--config", metavar="C", type=Path)
    doctor.add_argument("--bundle", metavar="B")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(handler=_doctor)

    for parser_with_bundle in (demo, run, score, doctor, bench):
        allow_unsigned(parser_with_bundle)
    bundle_actions = add_commands(commands)
    for stage, text in STAGE_HELP.items():
        place, name = (bundle_actions, "build") if stage == "bundle" else (commands, stage)
        command = place.add_parser(
            name, help=f"workstation: {text}", description=f"{text}. Earlier stages run if they must."
        )
        optional = "?" if stage == "validate" else None  # `validate --engine` needs none
        command.add_argument("recipe", type=Path, metavar="RECIPE.yaml", nargs=optional)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        _add_where(command)
        if stage == "validate":
            add_engine_validation(command)
        if stage == "quantize":
            command.add_argument("--teacher", action="store_true", help="the refit's teacher too, with its gate")
        if stage == "bundle":
            command.add_argument(
                "--accept-failing-gate", action="store_true", help="write it all the same; recorded and shown"
            )
        command.set_defaults(handler=_stage, stage=stage)
    export = commands.add_parser("export", help="workstation: all stages of a recipe; goes on where it stopped")
    export.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    export.add_argument("--json", action="store_true", help="print the result as one JSON object")
    export.add_argument(
        "--accept-failing-gate", action="store_true", help="write the bundle all the same; recorded and shown"
    )
    _add_where(export)
    export.set_defaults(handler=_stage, stage="bundle")
    _add_crossval(commands)
    add_adapt(commands, _config, _Progress, _toolchain_missing)
    add_models(commands, _Progress, _toolchain_missing)
    return parser


def _add_where(command: argparse.ArgumentParser) -> None:
    """Where a recipe's stages train."""
    add_device(command)
    add_ray(command, "folds and refit")


def _add_crossval(commands: Any) -> None:
    crossval = commands.add_parser(
        "crossval",
        help="workstation: cross-validate one of the paper's systems on your own images",
        description="4-fold cross-validation, grouped by patient, on a folder per class (DATA/hygroma, DATA/normal). Everything "
        "wrong with the data is said before anything is trained. Goes on where it was cut off.",
        epilog="docs/paper-protocol.md has the whole protocol, command by command.",
    )
    crossval.add_argument("data", type=Path, metavar="DATA", help="a folder with two folders of images, one a class")
    crossval.add_argument(
        "--system", required=True, choices=("usf-mae", "vit-random", "densenet169"), help="what is trained"
    )
    crossval.add_argument(
        "--init", metavar="FILE|random", help="usf-mae: its checkpoint; densenet169: torchvision's, or random (default)"
    )
    crossval.add_argument(
        "--shape-of", type=Path, metavar="FILE", help="vit-random: this checkpoint's architecture (default: ViT-B/16)"
    )
    crossval.add_argument(
        "--csv", type=Path, metavar="FILE", help="path,label,patient,site[,plane][,fold], a row an image"
    )
    crossval.add_argument(
        "--positive", default="hygroma", metavar="CLASS", help="the positive folder (default: hygroma)"
    )
    crossval.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="results, weights and crops of the images"
    )
    add_device(crossval)
    add_ray(crossval, "folds")
    for name, default, text in (
        ("image", 224, "input side, pixels"),
        ("epochs", 50, "at most"),
        ("patience", 10, "epochs without improvement before a fold stops"),
        ("batch", 32, "images a step"),
        ("threads", 2, "CPU threads a fold"),
    ):
        crossval.add_argument(
            f"--{name}", type=_positive, default=default, metavar="N", help=f"{text} (default {default})"
        )
    crossval.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of folds, starts and augmentation (default 0)"
    )
    crossval.add_argument("--lr", type=_rate, metavar="RATE", help="peak learning rate (default: the system's own)")
    crossval.add_argument("--json", action="store_true", help="print the report as one JSON object")
    crossval.set_defaults(handler=_crossval)
    compare = commands.add_parser(
        "compare",
        help="workstation: Wilcoxon signed-rank test of two cross-validations",
        description="Two `hygroma crossval --out` folders of the same images and folds. Beside every p: n, the smallest p that "
        "this n allows, and what either system started from.",
    )
    compare.add_argument("a", type=Path, metavar="A", help="one --out folder")
    compare.add_argument("b", type=Path, metavar="B", help="the other; gains are B's over A")
    compare.add_argument(
        "--unit",
        default="image",
        choices=("image", "patient", "fold", "fold-metric"),
        help="what is paired (default: image)",
    )
    compare.add_argument("--json", action="store_true", help="print one JSON object")
    compare.set_defaults(handler=_compare)
    explain = commands.add_parser(
        "explain",
        help="workstation: Score-CAM overlays of a cross-validation",
        description="Where each fold's model looked in images that it never saw. One forward pass a channel: seconds an image.",
    )
    explain.add_argument("run", type=Path, metavar="RUN", help="the --out folder of `hygroma crossval`")
    explain.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the overlays go")
    explain.add_argument("--each", type=_positive, default=8, metavar="N", help="images of either class (default 8)")
    explain.add_argument(
        "--boxes",
        type=Path,
        metavar="CSV",
        help="path,x0,y0,x1,y1 in pixels: nuchal regions drawn by a reader; says how much of the maps lies inside (needs --data)",
    )
    explain.add_argument("--data", type=Path, metavar="DATA", help="the folder that was cross-validated, for --boxes")
    explain.add_argument("--json", action="store_true", help="print one JSON array; with --boxes an object with both lists")
    explain.set_defaults(handler=_explain)


def _add_events(commands: Any) -> None:
    events = commands.add_parser("events", help="list, show, export and review committed flags")
    actions = events.add_subparsers(title="actions", required=True, metavar="ACTION")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store", "--events", metavar="DIR", help="the event store's folder (default: where `hygroma run` keeps it)"
    )
    shared.add_argument("--json", action="store_true")
    listing = actions.add_parser("list", parents=[shared], help="newest first")
    listing.add_argument("--review", choices=("open", "confirmed", "dismissed"))
    show = actions.add_parser("show", parents=[shared], help="one event")
    show.add_argument("id", type=int)
    export = actions.add_parser(
        "export", parents=[shared], help="images, clips, events.json and events.csv into a folder"
    )
    export.add_argument("folder", type=Path)
    export.add_argument("--dicom", action="store_true", help="also as DICOM Secondary Capture, without a patient")
    export.add_argument("ids", type=int, nargs="*", help="events (default: all)")
    review = actions.add_parser("review", parents=[shared], help="record what a person decided")
    review.add_argument("id", type=int)
    review.add_argument("review", choices=("confirmed", "dismissed", "open"))
    review.add_argument("--by", required=True, help="who decided")
    pin = actions.add_parser(
        "pin", parents=[shared], help="never remove an event, whatever its age and the disk's space"
    )
    pin.add_argument("id", type=int)
    pin.add_argument("--off", action="store_true", help="removable again")
    for action in (listing, show, export, review, pin):
        action.set_defaults(handler=_events, action=action.prog.split()[-1])


def _add_bench(commands: Any) -> argparse.ArgumentParser:
    bench = commands.add_parser(
        "bench",
        help="measure this machine: latency, startup, streams, limits",
        description="Suites: models, pipeline, startup (these three when none is named: a few minutes), layers, streams, soak,"
        " growth, limits, peers; or all. Exit code 1 when a case failed or the older run is of another machine, 3 when a budget"
        " or --fail-if-slower was not kept.",
    )
    bench.add_argument("suites", nargs="*", metavar="SUITE")
    form = bench.add_mutually_exclusive_group()
    for name in ("json", "markdown"):
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name, help=f"print {name}")
    bench.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON here")
    bench.add_argument("--compare", type=Path, metavar="OLD.json", help="say what changed since an older run's JSON")
    bench.add_argument(
        "--fail-if-slower",
        type=_share,
        metavar="10%",
        dest="allowed",
        help="exit code 3 when a figure is worse by more",
    )
    bench.add_argument(
        "--budgets", action="store_true", help="exit code 3 when a budget of benchmarks/budgets.yaml is exceeded"
    )
    for flag, default, text in (
        ("threads", 1, "of inference"),
        ("calls", 1000, "timed calls a case"),
        ("seconds", 30, "a case may take, about"),
        ("fps", 30, "the camera's rate"),
        ("events", 1_000_000, "rows that `growth` fills the event store with"),
        ("frames", 18000, "of `soak`: ten minutes at 30 fps"),
    ):
        bench.add_argument(
            f"--{flag}", type=_positive, default=default, metavar="N", help=f"{text} (default {default})"
        )
    bench.add_argument("--hours", type=_hours, default=0.0, metavar="H", help="of `soak`, instead of --frames")
    bench.add_argument("--bundle", metavar="B", help="another bundle than the shipped one")
    bench.set_defaults(handler=_bench, form="text")
    return bench


def _share(text: str) -> float:
    try:
        value = float(text.rstrip("% ")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be a percentage of 0 or more, such as 10%")
    return value


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be a whole number of at least 1") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}; must be at least 1")
    return value


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 24 * 366:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be hours, above 0 and at most 8784, a year")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"found {value}; must be 0 or more, below 2^31")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {value}; must be above 0 and below 1, such as 2e-4")
    return value


# -- the device ---------------------------------------------------------------------------------------------------------


def _config(path: Path | None, bundle: str | None = None, unsigned: bool = False) -> Config:
    from edge.config import Config, load_config

    config = load_config(path) if path else Config()
    if bundle:
        config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, bundle=bundle))
    if unsigned:
        config = dataclasses.replace(config, bundle=dataclasses.replace(config.bundle, allow_unsigned=True))
    return config


def _engine_config(args: argparse.Namespace) -> Config:
    return _config(args.config, args.bundle, args.allow_unsigned)


def _demo(args: argparse.Namespace) -> int:
    from edge.demo import run_demo, to_json
    from edge.events.disk import why_unwritable
    from edge.status.server import port_problem

    folder = Path(args.out) if args.out else Path(tempfile.mkdtemp(prefix="hygroma-demo-"))
    if problem := why_unwritable(folder):
        raise ConfigError(f"--out: {problem}; name a folder that this user may write")
    config = _config(None, args.bundle, args.allow_unsigned)
    config = dataclasses.replace(
        config,
        events=dataclasses.replace(config.events, dir=str(folder), min_free_mb=0),
        status=dataclasses.replace(config.status, enabled=args.serve),
    )
    if args.serve and (problem := port_problem(config.status.host, config.status.port)):
        print(f"port {config.status.port} cannot be had ({problem}): the page goes to a free one", file=sys.stderr)
        config = dataclasses.replace(config, status=dataclasses.replace(config.status, port=0))
    progress = _Progress()
    say = (lambda text: None) if args.json else print
    say("The daemon watches a simulated clinic session (phantom). Not real patients.")

    def note(done: int, total: int, verdict: Any) -> None:
        state = "FLAGGED" if verdict.flagged else ", ".join(verdict.reasons) or "assessing"
        progress("frame", done, total, state)

    def end(result: DemoResult) -> None:
        progress.clear()
        if args.json:
            print(json.dumps(to_json(result)), flush=True)
        else:
            _print_demo(result, folder)
        if args.serve:
            print("the status page stays up; Ctrl-C ends it", file=sys.stderr, flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                _wait_for_ever()

    def show(url: str) -> None:
        print(f"status page: {url}", file=sys.stderr, flush=True)

    result = run_demo(config, args.realtime or args.serve, note, show, end)
    return 1 if result.summary.lost_events else 0


def _wait_for_ever() -> None:
    while True:
        time.sleep(3600)


def _print_demo(result: DemoResult, folder: Path) -> None:
    print(f"\n{'exam':<20}{'truth':<10}{'flagged':<9}{'after':<9}{'best':<7}{'assessable':<14}the screen was mostly")
    for exam in result.exams:
        after = f"{exam.seconds_to_flag:.1f} s" if exam.seconds_to_flag is not None else "-"
        best = f"{exam.best_hygroma:.2f}" if exam.best_hygroma is not None else "-"
        counted = f"{exam.assessable_frames}/{exam.frames}"
        print(
            f"{exam.name:<20}{exam.truth:<10}{'YES' if exam.flagged else 'no':<9}{after:<9}{best:<7}{counted:<14}{exam.said}"
        )
    for event in result.events:
        print(
            f"\nsuspected nuchal collection: refer. Exam {event.exam_id}, p {event.hygroma:.2f}, evidence {event.evidence:.1f}"
        )
        print(f"  {folder / event.image_path}")
    t = result.latency_ms
    print(
        f"\na frame took p50 {t.p50:.1f}, p95 {t.p95:.1f}, p99 {t.p99:.1f} ms from memory to verdict (n = {t.count}); "
        f"{result.fps:.0f} frames a second, {result.dropped} dropped"
    )
    print(f"bundle {result.bundle} on {result.engine}; events in {folder}")
    _say_lost(result.summary)


def _say_lost(summary: Summary) -> None:
    if summary.lost_events:
        flags = "1 flag" if summary.lost_events == 1 else f"{summary.lost_events} flags"
        print(f"{flags} raised but NOT WRITTEN: {summary.store_problem or 'the store failed for too long'}")


def _bench(args: argparse.Namespace) -> int:
    from benchmarks.command import Request, bench
    from edge.bundle import load_bundle
    from edge.bundle.trust import SHIPPED_BUNDLE

    if args.allowed is not None and not args.compare:
        raise ConfigError("--fail-if-slower: needs --compare OLD.json, a result of `hygroma bench --out OLD.json`")
    config = _config(None, args.bundle, args.allow_unsigned)
    progress = _Progress()
    request = Request(
        suites=tuple(args.suites),
        bundle=load_bundle(config.engine.bundle or SHIPPED_BUNDLE, config.bundle.trust()),
        threads=args.threads,
        calls=args.calls,
        limit_s=float(args.seconds),
        rate_hz=float(args.fps),
        events_max=args.events,
        soak_frames=args.frames,
        soak_hours=args.hours,
        form=args.form,
        out=args.out,
        compare=args.compare,
        allowed=args.allowed,
        budgets=args.budgets,
    )

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


def _run(args: argparse.Namespace) -> int:
    from edge.capture.build import open_source
    from edge.capture.uri import parse_uri
    from edge.watching import keep_at_home, open_watching

    config = _config(args.config, args.bundle, args.allow_unsigned)
    if args.source:
        config = dataclasses.replace(config, source=dataclasses.replace(config.source, uri=args.source))
    if args.events:
        config = dataclasses.replace(config, events=dataclasses.replace(config.events, dir=args.events))
    elif not args.config:
        config = keep_at_home(config)
    if args.no_status:
        config = dataclasses.replace(config, status=dataclasses.replace(config.status, enabled=False))
    if not config.source.uri:
        raise ConfigError("source.uri: nothing to watch; give --source URI or set source.uri in the configuration")
    source = (
        _phantom(args.fast)
        if parse_uri(config.source.uri).scheme == "phantom"
        else open_source(config.source.uri, config.capture, args.fast)
    )
    with open_watching(config, source) as watching:
        if watching.url and not args.json:
            print(f"watching {source.name}; status page: {watching.url}", file=sys.stderr)
        summary = watching.watch.run()
        label = watching.scorer.label
    total = summary.latencies["verdict"]
    if args.json:
        print(json.dumps({
            "source": source.name, "bundle": label, "frames": summary.frames, "seconds": round(summary.seconds, 2),
            "signal": summary.frames_by_signal, "duplicates": summary.duplicates, "dropped": summary.feed.dropped,
            "decode_errors": summary.feed.decode_errors, "errors": summary.errors, "store": str(watching.store.root),
            "store_problem": summary.store_problem, "lost_events": summary.lost_events,
            "exams": [dataclasses.asdict(exam) for exam in summary.exams],
            "events": [dataclasses.asdict(event) for event in summary.events],
            "latency_ms": {"p50": total.p50, "p95": total.p95, "p99": total.p99, "max": total.max},
        }))  # fmt: skip
        return 1 if summary.lost_events else 0
    states = ", ".join(f"{n} {state}" for state, n in sorted(summary.frames_by_signal.items()))
    assessed = sum(exam.assessable_frames for exam in summary.exams)
    print(
        f"{source.name}: {summary.frames} frames ({states or 'none'}), {assessed} assessable, {summary.feed.dropped} dropped, "
        f"{len(summary.events) + summary.lost_events} flagged; p50 {total.p50:.1f}, p99 {total.p99:.1f} ms a frame"
    )
    if summary.events:
        print(f"events in {watching.store.root}")
    _say_lost(summary)
    return 1 if summary.lost_events else 0


def _phantom(fast: bool) -> Any:
    from edge.capture.recorded import FramesSource

    try:
        from calibration.phantom import PhantomSource
    except ImportError:
        raise ConfigError(
            "phantom: needs the `calibration` package, which this installation lacks; `hygroma demo` plays a clip"
        ) from None
    phantom = PhantomSource()

    def images() -> Iterator[Any]:
        while (image := phantom.read()) is not None:
            yield image

    return FramesSource("phantom", images(), phantom.fps, fast)


def _score(args: argparse.Namespace) -> int:
    from edge.stills import Overlays, Unscored, score_paths
    from edge.watching import SHIPPED_BUNDLE, open_scorer

    overlays = Overlays(args.overlay) if args.overlay else None
    failed = False
    with open_scorer(args.bundle or SHIPPED_BUNDLE, _config(None, None, args.allow_unsigned)) as scorer:
        for result in score_paths(args.paths, scorer, args.every, overlays):
            if not isinstance(result, Unscored):
                print(json.dumps(_scored_json(result)) if args.json else _scored_line(result), flush=True)
                continue
            failed = True
            if args.json:
                print(json.dumps({"path": str(result.path), "error": result.error}), flush=True)
            else:
                print(f"hygroma: {result.error}", file=sys.stderr)
    return 1 if failed else 0


def _scored_json(scored: Scored) -> dict[str, object]:
    return {
        "path": str(scored.path), "frame": scored.frame, "signal": scored.reading.signal.value, "assessable": scored.assessable,
        "reasons": list(scored.reasons), "plane": round(scored.scores.plane, 6), "hygroma": round(scored.scores.hygroma, 6),
        "ood": round(scored.scores.ood, 4), "ms": round(scored.ms, 2),
    }  # fmt: skip


def _scored_line(scored: Scored) -> str:
    s = scored.scores
    state = "assessable" if scored.assessable else f"not assessable ({', '.join(scored.reasons)})"
    return f"{scored.path} frame {scored.frame}: {state}; plane {s.plane:.2f}, hygroma {s.hygroma:.2f}, ood {s.ood:.2f}"


def _events(args: argparse.Namespace) -> int:
    from edge.config import Config
    from edge.events.export import export
    from edge.events.store import EventStore
    from edge.watching import keep_at_home

    root = Path(args.store or keep_at_home(Config()).events.dir)
    problems: tuple[str, ...] = ()
    with EventStore(root, create=False) as store:
        if args.action == "list":
            found = store.events(args.review, limit=-1)
        elif args.action == "show":
            found = [store.show(args.id)]
        elif args.action == "review":
            found = [store.review(args.id, args.review, args.by)]
        elif args.action == "pin":
            found = [store.pin(args.id, not args.off)]
        else:
            done = export(store, args.folder, args.ids or None, args.dicom)
            found, problems = list(done.events), done.problems
    for problem in problems:
        print(f"hygroma: {problem}; not exported", file=sys.stderr)
    code = 1 if problems else 0
    if args.json:
        rows = [dataclasses.asdict(event) for event in found]
        print(json.dumps(rows[0] if args.action in ("show", "review", "pin") else rows))
        return code
    if args.action == "show":
        shown = dataclasses.asdict(found[0])
        shown |= {name: root / shown[name] for name in ("image_path", "clip_path") if shown[name]}
        print("\n".join(f"{name:<14}{value}" for name, value in shown.items()))
        return code
    for e in found:
        reviewer = (f" by {e.reviewed_by}" if e.reviewed_by else "") + (", pinned" if e.pinned else "")
        print(
            f"{e.id:>5}  {e.t_wall}  exam {e.exam_id}  p {e.hygroma:.2f}  evidence {e.evidence:.1f}  {e.review}{reviewer}  "
            f"{root / e.image_path}"
        )
    if not found:
        print("no events")
    if args.action == "export":
        print(f"written to {args.folder}")
    return code


def _doctor(args: argparse.Namespace) -> int:
    from edge.doctor import examine

    def load() -> Config:
        from edge.watching import keep_at_home

        config = _config(args.config, args.bundle, args.allow_unsigned)
        return config if args.config else keep_at_home(config)

    findings = list(examine(load))
    if args.json:
        print(json.dumps([dataclasses.asdict(f) for f in findings]))
    else:
        for f in findings:
            print(f"{f.level.upper():<5} {f.check:<9} {f.found}" + (f"\n      -> {f.fix}" if f.fix else ""))
    return 1 if any(f.level == "fail" for f in findings) else 0


# -- the workstation ----------------------------------------------------------------------------------------------------


def _stage(args: argparse.Namespace) -> int:
    if getattr(args, "engine", False):
        return validate_engine(args, _engine_config)
    if args.recipe is None:
        raise ConfigError("validate: needs RECIPE.yaml, or --engine with --crops FILE.npz")
    try:
        from export.recipe import load_recipe
        from export.runs import run_recipe
        from export.validate import read_verdicts
    except ImportError as error:
        raise _toolchain_missing(error) from None
    progress, accepted = _Progress(), getattr(args, "accept_failing_gate", False)
    pipeline = run_recipe(load_recipe(args.recipe), args.stage, accepted, args.device, args.ray, progress)
    if crops := getattr(args, "crops", None):
        pipeline.save_gate_crops(crops)
    path, gate = pipeline.quantize_teacher() if getattr(args, "teacher", False) else (None, None)
    progress.clear()
    code = 0
    result: dict[str, Any] = {
        "stage": args.stage,
        "work": str(pipeline.work),
        "report": str(pipeline.work / "report" / "validation.html"),
    }
    if args.stage == "bundle":
        result["bundle"] = str(pipeline.work / "bundle")
    elif args.stage == "validate":
        passed, result["gate"] = read_verdicts(pipeline.work / "report")
        code = 0 if passed else GateError.exit_code
    else:
        del result["report"]
    if gate is not None:
        code = 0 if gate.passed else GateError.exit_code
        result |= {"teacher": str(path), "teacher's gate": "passed" if gate.passed else "; ".join(gate.reasons)}
    if args.json:
        print(json.dumps(result))
    else:
        gates = {f"gate, {name}": said for name, said in result.pop("gate", {}).items()}
        print("\n".join(f"{key}: {value}" for key, value in (result | gates).items()))
    return code


def _crossval(args: argparse.Namespace) -> int:
    try:
        from export.crossval import Settings, cross_validate
        from export.systems import choose_system
    except ImportError as error:
        raise _toolchain_missing(error) from None
    progress = _Progress()
    report = cross_validate(
        args.data,
        choose_system(args.system, args.init, args.image, args.shape_of),
        args.out,
        args.csv,
        args.positive,
        Settings(args.epochs, args.patience, args.batch, args.lr, args.seed, args.threads),
        args.device,
        args.ray,
        progress,
    )
    progress.clear()
    if args.json:
        print(json.dumps(report))
        return 0
    whose = "" if report["patients known"] else " (no CSV: every image counts as a patient of its own)"
    print(
        f"{report['system']} from {report['start']}: {report['images']} images, {report['positives']} {report['classes'][1]}, "
        f"{report['patients']} patients{whose}\n"
    )
    print(f"{_figures_head()}threshold  best epoch")
    for fold in report["folds"]:
        print(f"fold {fold['fold']:<3}{_figures_line(fold['figures'])}{fold['threshold']:<11.3f}{fold['best_epoch']}")
    print(f"{'pooled':<8}{_figures_line(report['pooled'])}")
    if report["by site"]:
        print("by site, each image by its fold's model and threshold, as pooled")
        for site in report["by site"]:
            print(f"{'':<8}{_figures_line(site['figures'])}{_site_name(site)}")
    shown = [report["pooled"], *(site["figures"] for site in report["by site"])]
    kinds = sorted({figure["interval"] for part in shown for figure in part.values()})
    print(f"\n95 % intervals: {', '.join(kinds)}. Out-of-fold predictions: {args.out / 'predictions.csv'}")
    if shared := report["patients in both classes"]:
        print(
            f"{shared} patients have images of both classes and stay in one fold; if the CSV numbers each class anew, two "
            "patients share a number there: write hygroma-1 and normal-1, and give another --out"
        )
    odd = {signal: n for signal, n in report["signals"].items() if signal != "OK"}
    if odd:
        print(f"the daemon would not assess {sum(odd.values())} of these images ({odd}); they count all the same")
    return 0


_METRICS = ("accuracy", "sensitivity", "specificity", "roc_auc")


def _figures_head() -> str:
    return f"{'':<8}{'n':>5}  " + "".join(f"{name:<20}" for name in _METRICS)


def _figures_line(figures: dict[str, Any]) -> str:
    cells = [f"{f['value']:.3f} ({f['low']:.3f}-{f['high']:.3f})" if f else "-" for f in map(figures.get, _METRICS)]
    return f"{figures['accuracy']['n']:>5}  " + "".join(f"{cell:<20}" for cell in cells)


def _site_name(site: dict[str, Any]) -> str:
    only = {0: "no positive image, so no area", site["images"]: "positive images only, so no area"}.get(
        site["positives"]
    )
    name = site["site"] or "no site given"
    return f"{name} ({only})" if only else f"{name} ({site['positives']} positive)"


def _compare(args: argparse.Namespace) -> int:
    try:
        from export.compare import compare
        from export.crossval import load_run
    except ImportError as error:
        raise _toolchain_missing(error) from None
    result = compare(load_run(args.a), load_run(args.b), args.unit)
    if args.json:
        print(json.dumps(result))
        return 0
    if any(system["by site"] for system in result["systems"]):
        print(f"{_figures_head()}site")
    for letter, system in zip("AB", result["systems"], strict=True):
        print(f"{letter} {system['system']}, start: {system['start']} ({system['folder']})")
        for site in system["by site"]:
            print(f"{'':<8}{_figures_line(site['figures'])}{_site_name(site)}")
    print(f"{result['images']} images of {result['patients']} patients\n")
    for test in result["tests"]:
        print(
            f"{test['paired']}: p = {test['p']:.3g} (n = {test['n']}, {test['ties']} of them without a difference; smallest p "
            f"possible {test['smallest_p']:.3g}; B better in {test['second_better']}; {test['starts']})"
        )
    print("".join(f"\n{remark}" for remark in result["remarks"]))
    return 0


def _explain(args: argparse.Namespace) -> int:
    try:
        from export.explain import explain
        from export.localise import mass_in_words
    except ImportError as error:
        raise _toolchain_missing(error) from None
    if (args.boxes is None) != (args.data is None):
        raise ConfigError("--boxes and --data: found one without the other; give both, or neither")
    progress = _Progress()
    boxes = None if args.boxes is None else (args.boxes, args.data)
    rows, located = explain(args.run, args.out, args.each, boxes, lambda done, total: progress("Score-CAM", done, total))
    progress.clear()
    if args.json:
        print(json.dumps(rows if boxes is None else {"overlays": rows, "localisation": located}))
        return 0
    for row in rows:
        print(f"{row['label']:<12}{row['probability']:.3f}  called {row['decision']:<12}{row['overlay']}")
    for row in located:
        print(mass_in_words(row))
    return 0


def _toolchain_missing(error: ImportError) -> ConfigError:
    if (error.name or "").split(".")[0] in ("edge", "export", "calibration"):  # ours: a bug, not a package to install
        raise error
    return ConfigError(f"the workstation's packages are missing ({error.name}): pip install -e '.[toolchain]'")


class _Progress:
    """A one-line bar on a terminal; a line now and then elsewhere. Always on stderr."""

    WIDTH = 30  # characters
    QUIET_S = 10.0  # seconds between lines when stderr is a file

    def __init__(self) -> None:
        self._live, self._last, self._what = sys.stderr.isatty(), 0.0, ""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        wait = 0.1 if self._live else self.QUIET_S
        if what == self._what and now - self._last < wait:
            return
        self._last, self._what = now, what
        filled = self.WIDTH * done // max(1, total)
        line = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}] {what} {done}/{total} {note}"
        print(
            f"\r{line[:110]:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True
        )

    def clear(self) -> None:
        if self._live:
            print("\r" + " " * 110 + "\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
