"""Which of two semantic versions is the later one (semver.org, section 11)."""

from __future__ import annotations

Precedence = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def precedence(version: str) -> Precedence:
    """A version as ModelInfo allows it -> a key that sorts as versions do: 1.2.0-rc.9 < 1.2.0-rc.10 < 1.2.0 < 1.10.0."""
    release, dash, pre = version.partition("-")
    parts = tuple(_identifier(part) for part in pre.split(".")) if dash else ()
    return tuple(int(part) for part in release.split(".")), not dash, parts


def _identifier(part: str) -> tuple[bool, int, str]:
    number = part.isascii() and part.isdigit()  # numbers come before words, and compare as numbers
    return (False, int(part), "") if number else (True, 0, part)
