"""A strict decoder from JSON values to frozen dataclasses, whose errors say where, what was found and what would be
right.

Fields carry their constraints in dataclass metadata, written with `rule(...)`. Every key of a dataclass must be present
unless the field has a default; no other key may be. Supported types: bool, int, float, str, `X | None`, `tuple[X,
...]`, `dict[str, X]`, and dataclasses of these.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from typing import Any, TypeVar

from edge.errors import BundleError

T = TypeVar("T")
MAX_DIGITS = 19  # of a whole number: 64 bits


@dataclasses.dataclass(frozen=True)
class Rule:
    """Limits of one field. `low`/`high` bound numbers (inclusive), or the length of a list, dict or string. `pattern`
    must match a whole string; `choices` lists the strings allowed; `hint` is the words that tell a reader what would be
    right."""

    low: float = -math.inf
    high: float = math.inf
    pattern: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""


def rule(**limits: Any) -> dict[str, Rule]:
    """Metadata for `dataclasses.field(metadata=rule(low=0, high=1))`; the arguments are Rule's."""
    return {"rule": Rule(**limits)}


class Decoder:
    """Decodes the values of one file; `file` (its path) begins every error message."""

    def __init__(self, file: str):
        self.file = file

    def fail(self, path: str, found: object, fix: str) -> BundleError:
        """The error to raise: file, field path, value found (shortened to 80 characters), fix."""
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return BundleError(f"{self.file}: {path or 'the whole file'}: found {shown}; {fix}")

    def parse(self, data: bytes) -> Any:
        """JSON text -> value. BundleError for bad UTF-8, bad JSON, a key given twice, NaN or Infinity, absurd
        nesting."""

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            out: dict[str, Any] = {}
            for key, value in pairs:
                if key in out:
                    raise self.fail(key, value, "the key is given twice; remove one")
                out[key] = value
            return out

        def constant(name: str) -> float:
            raise self.fail("", name, "only finite numbers are allowed")

        def whole(digits: str) -> int:
            if len(digits) > MAX_DIGITS:  # Python's own conversion takes quadratic time
                raise self.fail("", digits, f"a whole number has at most {MAX_DIGITS} digits")
            return int(digits)

        try:
            return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant, parse_int=whole)
        except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
            raise BundleError(
                f"{self.file}: not valid JSON ({error}); the file is damaged, fetch the bundle again"
            ) from error

    def dataclass(self, kind: type[T], value: object, path: str = "") -> T:
        """A JSON object -> an instance of the dataclass `kind`. `path` is the field path of `value` ("" for the file's
        root)."""
        if not isinstance(value, dict):
            raise self.fail(path, value, "expected an object")
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for key in value:
            if key not in fields:
                raise self.fail(_join(path, key), value[key], f"unknown field; known here: {', '.join(fields)}")
        out: dict[str, Any] = {}
        for name, field in fields.items():
            where = _join(path, name)
            if name in value:
                out[name] = self._value(hints[name], value[name], where, field.metadata.get("rule", Rule()))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self.fail(where, None, f"required field is missing; add it ({_describe(hints[name])})")
        return kind(**out)

    def _value(self, hint: Any, value: Any, path: str, limits: Rule) -> Any:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            if value is None and type(None) in args:
                return None
            return self._value(next(a for a in args if a is not type(None)), value, path, limits)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(typing.cast(type, hint), value, path)
        if origin is tuple:
            if not isinstance(value, list):
                raise self.fail(path, value, f"expected a list of {_describe(args[0])}")
            self._length(value, path, limits, "entries")
            inner = dataclasses.replace(limits, low=-math.inf, high=math.inf)
            return tuple(self._value(args[0], item, f"{path}[{i}]", inner) for i, item in enumerate(value))
        if origin is dict:
            if not isinstance(value, dict):
                raise self.fail(path, value, f"expected an object of name: {_describe(args[1])}")
            self._length(value, path, limits, "entries")
            inner = dataclasses.replace(limits, low=-math.inf, high=math.inf)
            return {key: self._value(args[1], item, _join(path, key), inner) for key, item in value.items()}
        return self._scalar(hint, value, path, limits)

    def _scalar(self, hint: type, value: Any, path: str, limits: Rule) -> Any:
        if hint is bool:
            if not isinstance(value, bool):
                raise self.fail(path, value, "expected true or false")
            return value
        if hint is str:
            if not isinstance(value, str):
                raise self.fail(path, value, "expected a string")
            if not _is_text(value):
                raise self.fail(path, value, "expected text; half a character (a lone surrogate) is none")
            self._length(value, path, limits, "characters")
            if limits.choices and value not in limits.choices:
                raise self.fail(path, value, f"expected one of: {', '.join(limits.choices)}")
            if limits.pattern and not re.fullmatch(limits.pattern, value):
                raise self.fail(path, value, f"expected {limits.hint or 'text matching ' + limits.pattern}")
            return value
        wanted = int if hint is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or not abs(value) < 1e300:
            raise self.fail(path, value, f"expected {_describe(hint)}")
        if not limits.low <= value <= limits.high:
            raise self.fail(path, value, f"expected {_describe(hint)} in [{limits.low:g}, {limits.high:g}]")
        return hint(value)

    def _length(self, value: Any, path: str, limits: Rule, unit: str) -> None:
        if not limits.low <= len(value) <= limits.high:
            raise self.fail(path, value, f"expected {limits.low:g} to {limits.high:g} {unit}, found {len(value)}")


def encode(value: object) -> Any:
    """A dataclass (or list, dict, scalar of them) -> JSON values; the inverse of `Decoder.dataclass`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", str: "a string", bool: "true or false"}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"a list of {_describe(args[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "an object"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is type(None) else _describe(a) for a in args)
    return names.get(hint, str(hint))
