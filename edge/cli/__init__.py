"""The command line: composes and prints. Everything that decides anything lives elsewhere. It alone in `edge` may import the
other folders, lazily."""

from edge.cli.main import main

__all__ = ["main"]
