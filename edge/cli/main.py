"""Where the command line begins: the table of commands, and what becomes of an error.

Exit codes: 0 done; 1 done, but something was unreadable or a check failed; 2 wrong usage; 3 a gate failed; 65 bad bundle; 66 bad
input; 69 source unavailable; 70 engine; 74 event store; 78 configuration (see edge/errors.py).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from edge import __version__
from edge.cli.common import LogHandler, Parser
from edge.errors import HygromaError, StoreError

DEVICE, WORKSTATION = "device", "workstation"


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
    given = sys.argv[1:] if argv is None else argv
    if "bundle" in given:
        from edge.cli.bundles import recipe_means_build

        given = recipe_means_build(given)
    args = make_parser().parse_args(given)
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


def make_parser() -> Parser:
    """The parser of every command of the table."""
    listed = {group: ", ".join(c.name for c in COMMANDS if c.group == group) for group in (DEVICE, WORKSTATION)}
    parser = Parser(
        prog="hygroma",
        description="Watches a point-of-care ultrasound screen for a thick nuchal collection. Decision support, not a diagnosis.",
        epilog=" ".join(f"{group.capitalize()}: {names}." for group, names in listed.items()),
    )
    parser.add_argument("--version", action="version", version=f"hygroma-edge {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        prefix = f"{WORKSTATION}: " if command.group == WORKSTATION else ""
        commands.add_parser(command.name, help=prefix + command.help, description=command.help, fill=command.fill)
    return parser
