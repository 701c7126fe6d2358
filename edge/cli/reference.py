"""docs/commands.md, made from the parser: `python -m edge.cli.reference > docs/commands.md`. A test holds the page to it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from edge.cli.main import COMMANDS, DEVICE, WORKSTATION, make_parser

GROUPS = {
    DEVICE: ("On the device", "They need nothing but the package."),
    WORKSTATION: (
        "On the workstation",
        "They need [the toolchain](install.md#the-toolchain); `keys` and `bundle sign` do not.",
    ),
}
PAGE = re.compile(r"\bdocs/([\w/-]+\.md)")  # a page, as help texts name it
UNIVERSAL = ("-h", "-v")  # options of every command: said once, at the top


def reference() -> str:
    """The page, Markdown: every command with its arguments, in the table's order, a group after the other."""
    top = make_parser()
    parsers = {name: parser for name, _, parser in _subcommands(top)}
    lines = [
        "# Commands",
        "",
        "Made from the parser by `python -m edge.cli.reference > docs/commands.md`; do not edit.",
        "`hygroma COMMAND --help` prints the same. Every command takes `--help`, and `-v` to log what happens to stderr.",
        "What the exit codes mean: [troubleshooting.md](troubleshooting.md#exit-codes).",
    ]
    for group, (title, note) in GROUPS.items():
        lines += ["", f"## {title}", "", note]
        for command in COMMANDS:
            if command.group == group:
                lines += _section(f"hygroma {command.name}", command.help, parsers[command.name], 3)
    return "\n".join(lines) + "\n"


def _section(name: str, summary: str, parser: argparse.ArgumentParser, level: int) -> list[str]:
    fill = getattr(parser, "_fill", None)
    if fill is not None:
        parser._fill = None  # type: ignore[attr-defined]
        fill(parser)
    lines = ["", f"{'#' * level} {name}", "", _sentence(parser.description or summary)]
    if rows := [_row(action) for action in parser._actions if _told(action)]:
        lines += ["", "| argument | meaning |", "|---|---|", *rows]
    if parser.epilog:
        lines += ["", _sentence(parser.epilog)]
    for child, text, own in _subcommands(parser):
        lines += _section(f"{name} {child}", text, own, level + 1)
    return lines


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, help and parser of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, helps.get(name, ""), own) for name, own in action.choices.items())


def _told(action: argparse.Action) -> bool:
    if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
        return False
    return not any(option in UNIVERSAL for option in action.option_strings)


def _row(action: argparse.Action) -> str:
    metavar = action.metavar
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    if metavar is None and action.choices is not None:
        metavar = "|".join(str(choice) for choice in action.choices)
    if metavar is None and action.nargs != 0:
        metavar = action.dest.upper()
    words = [", ".join(action.option_strings)] if action.option_strings else []
    if metavar:
        many = {"+": f"{metavar}...", "*": f"[{metavar}...]", "?": f"[{metavar}]"}
        words.append(many.get(str(action.nargs), metavar))
    text = (action.help or "") % {**vars(action), "prog": ""}
    needed = "needed" if action.required and action.option_strings else ""
    said = "; ".join(part for part in (text, needed) if part)
    return f"| `{_cell(' '.join(words))}` | {_cell(said)} |"


def _cell(text: str) -> str:
    return _linked(text).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    start = "" if PAGE.match(text) else text[:1].upper()
    return _linked(start + text[len(start) :] + ("" if text.endswith((".", "?")) else "."))


def _linked(text: str) -> str:
    return PAGE.sub(r"[\1](\1)", text)


if __name__ == "__main__":
    print(reference(), end="")
