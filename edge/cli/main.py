"""Where the command line begins: the table of commands, and what becomes of an error."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from edge import __version__
from edge.cli.common import LogHandler, Parser
from edge.errors import BundleError, ConfigError, EngineError, HygromaError, InputError, SourceError, StoreError

DEVICE, WORKSTATION = "device", "workstation"
EXIT_CODES = (  # of edge/errors.py and of argparse; docs/troubleshooting.md says what to do about each
    (0, "done"),
    (1, "done, but something was unreadable or a check failed"),
    (2, "wrong usage"),
    (3, "a gate failed, or a figure is slower than its budget"),
    (BundleError.exit_code, "the bundle is missing, damaged or not trusted"),
    (InputError.exit_code, "an image, clip or table cannot be read, or does not fit"),
    (SourceError.exit_code, "the source cannot be opened or was lost"),
    (EngineError.exit_code, "the engine cannot be built or run, or failed its self-test"),
    (StoreError.exit_code, "the event store or the disk"),
    (ConfigError.exit_code, "the configuration, a recipe or an option"),
    (130, "interrupted; what was finished is kept"),
)


@dataclass(frozen=True)
class Command:
    """`group` is where it runs. `module` of this folder has in its COMMANDS what adds the arguments; it is imported only when the
    command is asked for."""

    name: str
    group: str
    help: str
    module: str

    def fill(self, parser: Parser) -> None:
        adders: dict[str, Callable[[Parser], None]] = import_module(f"edge.cli.{self.module}").COMMANDS
        adders[self.name](parser)


COMMANDS = (
    Command("demo", DEVICE, "watch the phantom clinic session that ships with this package", "device"),
    Command("run", DEVICE, "watch a source", "device"),
    Command("score", DEVICE, "score stills, folders, DICOM files and clips", "device"),
    Command("events", DEVICE, "list, show, export and review committed flags", "events"),
    Command("doctor", DEVICE, "find what is wrong on this machine and say what to do", "device"),
    Command("update", DEVICE, "install a signed bundle, or go back to the one before it", "bundles"),
    Command("engine", DEVICE, "build TensorRT engines on this device, race them, list and prune them", "engines"),
    Command("bench", DEVICE, "measure this machine: latency, startup, streams, limits", "bench"),
    Command("keys", WORKSTATION, "keys that sign bundles", "bundles"),
    Command("bundle", WORKSTATION, "build, sign and verify bundles", "bundles"),
    Command("data", WORKSTATION, "check a data set, or make one of a public download", "data"),
    Command("train", WORKSTATION, "fine-tune the teachers, one a fold and one on everything", "stages"),
    Command("distill", WORKSTATION, "distil a student from each teacher", "stages"),
    Command("quantize", WORKSTATION, "INT8 graphs of the students", "stages"),
    Command("validate", WORKSTATION, "held-out figures of every form, as JSON and HTML, and the gate's verdicts", "stages"),
    Command("export", WORKSTATION, "all stages of a recipe; goes on where it stopped", "stages"),
    Command("pretrain", WORKSTATION, "continue a checkpoint's MAE pretraining on unlabelled frames", "studies"),
    Command("sensitivity", WORKSTATION, "what INT8 costs, layer by layer", "studies"),
    Command("ladder", WORKSTATION, "compare the recipe's student with other sizes", "studies"),
    Command("lesions", WORKSTATION, "do the simulated lesions give themselves away?", "studies"),
    Command("crossval", WORKSTATION, "cross-validate one of the paper's systems on your own images", "paper"),
    Command("compare", WORKSTATION, "Wilcoxon signed-rank test of two cross-validations", "paper"),
    Command("explain", WORKSTATION, "Score-CAM overlays of a cross-validation", "paper"),
    Command("adapt", WORKSTATION, "fit a bundle's heads on your own images", "adapt"),
)


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.platform != "linux":  # V4L2, systemd, file locks and descriptors are Linux's
        print(f"hygroma: runs on Linux alone, found {sys.platform}; use a Linux machine, WSL 2 or a container", file=sys.stderr)
        return ConfigError.exit_code
    given = sys.argv[1:] if argv is None else argv
    if "bundle" in given:
        from edge.cli.bundles import recipe_means_build

        given = recipe_means_build(given)
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    args = parser.parse_args(given)
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[LogHandler()])
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


def _complete(parser: Parser) -> None:
    """Answers the shell, which asks what may come next, and ends the process. `register-python-argcomplete` sets that up."""
    import argcomplete

    commands = parser._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for word in os.environ.get("COMP_LINE", "").split():
        if word in commands:  # type: ignore[operator]
            commands[word].fill()  # type: ignore[index]
    argcomplete.autocomplete(parser)


def make_parser() -> Parser:
    """The parser of every command of the table."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES)
    listed = {group: ", ".join(c.name for c in COMMANDS if c.group == group) for group in (DEVICE, WORKSTATION)}
    parser = Parser(
        prog="hygroma",
        description="Watches a point-of-care ultrasound screen for a thick nuchal collection. Decision support, not a diagnosis.",
        epilog=" ".join(f"{group.capitalize()}: {names}." for group, names in listed.items()) + f" Exit codes: {codes}.",
    )
    parser.add_argument("--version", action="version", version=f"hygroma-edge {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        prefix = f"{WORKSTATION}: " if command.group == WORKSTATION else ""
        commands.add_parser(command.name, help=prefix + command.help, description=command.help, fill=command.fill)
    return parser
