"""What the parser says of every command, as two pages that tests hold to it:

    python -m edge.cli.reference > docs/commands.md
    python -m edge.cli.reference man > systemd/hygroma.1
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from edge.cli.common import Parser
from edge.cli.main import COMMANDS, DEVICE, EXIT_CODES, WORKSTATION, make_parser

GROUPS = {
    DEVICE: ("On the device", "They need nothing but the package."),
    WORKSTATION: (
        "On the workstation",
        "They need [the toolchain](install.md#the-toolchain); `keys` and `bundle sign` do not.",
    ),
}
PAGE = re.compile(r"\bdocs/([\w/-]+\.md)")  # a page, as help texts name it
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
UNIVERSAL = ("-h", "-v")  # options of every command: said once, at the top


@dataclass(frozen=True)
class Section:
    """One command. level: 0 for a command, 1 for its own commands. arguments: (how it is written, what it means)."""

    name: str
    level: int
    summary: str
    arguments: tuple[tuple[str, str], ...]
    epilog: str


def sections() -> Iterator[tuple[str, list[Section]]]:
    """Each group with its commands, in the table's order."""
    parsers = {name: parser for name, _, parser in _subcommands(make_parser())}
    for group in GROUPS:
        own = [command for command in COMMANDS if command.group == group]
        yield group, [s for c in own for s in _sections(f"hygroma {c.name}", c.help, parsers[c.name], 0)]


def _sections(name: str, summary: str, parser: Parser, level: int) -> Iterator[Section]:
    parser.fill()
    arguments = tuple((_written(action), _meaning(action)) for action in parser._actions if _told(action))
    epilog = _sentence(parser.epilog) if parser.epilog else ""
    yield Section(name, level, _sentence(parser.description or summary), arguments, epilog)
    for child, text, own in _subcommands(parser):
        yield from _sections(f"{name} {child}", text, own, level + 1)


def _subcommands(parser: Parser) -> Iterator[tuple[str, str, Parser]]:
    """Name, help and parser of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, helps.get(name, ""), own) for name, own in action.choices.items())


def _told(action: argparse.Action) -> bool:
    if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
        return False
    return not any(option in UNIVERSAL for option in action.option_strings)


def _written(action: argparse.Action) -> str:
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
    return " ".join(words)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": ""}
    needed = "needed" if action.required and action.option_strings else ""
    return "; ".join(part for part in (text, needed) if part)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    start = "" if PAGE.match(text) else text[:1].upper()
    return start + text[len(start) :] + ("" if text.endswith((".", "?")) else ".")


# -- as Markdown


def reference() -> str:
    """docs/commands.md: every command with its arguments, a group after the other."""
    lines = [
        "# Commands",
        "",
        "Made from the parser by `python -m edge.cli.reference > docs/commands.md`; do not edit.",
        "`hygroma COMMAND --help` prints the same. Every command takes `--help`, and `-v` to log what happens to stderr.",
        "What the exit codes mean: [troubleshooting.md](troubleshooting.md#exit-codes). On a device: `man hygroma`.",
    ]
    for group, found in sections():
        title, note = GROUPS[group]
        lines += ["", f"## {title}", "", note]
        for section in found:
            lines += ["", f"{'#' * (3 + section.level)} {section.name}", "", _linked(section.summary)]
            if section.arguments:
                rows = [f"| `{_cell(written)}` | {_cell(meaning)} |" for written, meaning in section.arguments]
                lines += ["", "| argument | meaning |", "|---|---|", *rows]
            if section.epilog:
                lines += ["", _linked(section.epilog)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _linked(text).replace("|", "\\|")


def _linked(text: str) -> str:
    return PAGE.sub(r"[\1](\1)", text)


# -- as a manual page


def manual() -> str:
    """systemd/hygroma.1, in man(7)'s macros."""
    parser = make_parser()
    lines = [
        '.\\" Made from the parser by python -m edge.cli.reference man; do not edit.',
        ".TH HYGROMA 1",
        ".SH NAME",
        _roff(f"hygroma - {(parser.description or '').split('.')[0]}"),
        ".SH SYNOPSIS",
        ".B hygroma",
        "COMMAND [arguments]",
        ".SH DESCRIPTION",
        _roff(parser.description or ""),
        "Every command takes \\-\\-help, and \\-v to log what happens to stderr.",
    ]
    for group, found in sections():
        title, note = GROUPS[group]
        lines += [f".SH {_roff(title.upper())}", _roff(LINK.sub(r"\1", note).replace("`", ""))]
        for section in found:
            lines += [f".SS {_roff(section.name)}", _roff(section.summary)]
            for written, meaning in section.arguments:
                lines += [".TP", f".B {_roff(written)}", _roff(meaning)]
            lines += [".PP", _roff(section.epilog)] if section.epilog else []
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", _roff(meaning)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text for roff: a backslash and a hyphen stand for themselves, and no line begins with a control character."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(manual() if sys.argv[1:] == ["man"] else reference(), end="")
