"""The one strict decoder, from values of JSON or YAML to frozen dataclasses, whose errors say where, what was found and what
would be right. What is read with it says which error that is: configuration, manifest, recipe, cache entry, request,
result of a bench.

Fields carry their constraints in dataclass metadata, written with `rule(...)`. Every key of a dataclass must be present
unless the field has a default; no other key may be. Supported types: bool, int, float, str, `X | None`, `float | str`, `tuple[X,
...]`, `tuple[X, Y]`, `list[X]`, `dict[str, X]`, dataclasses of these, and Any, which takes whatever is there.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from edge.errors import HygromaError
from edge.redaction import is_text, redact

T = TypeVar("T")
MAX_DIGITS = 19  # of a whole number: 64 bits
_hints_of = functools.cache(typing.get_type_hints)  # a result of `hygroma bench` has thousands of records


@dataclasses.dataclass(frozen=True)
class Rule:
    """Limits of one field. `low`/`high` bound numbers (inclusive), or the length of a list, dict or string. `pattern`
    must match a whole string; `choices` lists the strings allowed; `allows` says of a string whether it is; `hint` is the words
    that tell a reader what would be right, of a pattern, `expected` of everything. `finite`: no infinity."""

    low: float = -math.inf
    high: float = math.inf
    pattern: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""
    allows: Callable[[str], bool] = lambda text: True
    expected: str = ""
    finite: bool = True


def rule(**limits: Any) -> dict[str, Rule]:
    """Metadata for `dataclasses.field(metadata=rule(low=0, high=1))`; the arguments are Rule's."""
    return {"rule": Rule(**limits)}


class Decoder:
    """Decodes the values of one file. A kind of file may have words of its own: `whole` for all of it, `mapping` for keys and
    values, and the methods that make errors. Its `rules`, by type, are for fields that have none."""

    whole = "the whole file"
    mapping = "an object"
    rules: Mapping[Any, Rule] = {}

    def __init__(self, file: str, error: type[HygromaError]):
        """file: begins every message. error: the class of every error that is raised here."""
        self.file, self.error = file, error

    def fail(self, path: str, found: object, fix: str) -> HygromaError:
        """The error to raise: file, field path, value found (shortened to 80 characters), fix."""
        return self.error(f"{self.file}: {path or self.whole}: found {shown(found)}; {fix}")

    def wrong(self, path: str, found: object, what: str, limits: Rule) -> HygromaError:
        """It is not `what`."""
        return self.fail(path, found, f"expected {limits.expected or what}")

    def unknown(self, path: str, found: object, known: Iterable[str]) -> HygromaError:
        return self.fail(path, found, f"unknown field; known here: {', '.join(known)}")

    def missing(self, path: str, hint: Any) -> HygromaError:
        return self.fail(path, None, f"required field is missing; add it ({_describe(hint)})")

    def parse(self, data: bytes, fix: str) -> Any:
        """JSON text -> value. An error for bad UTF-8, bad JSON, a key given twice, NaN or Infinity, absurd nesting. fix: what to
        do about what is no JSON."""

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
            raise self.error(f"{self.file}: not valid JSON ({error}); {fix}") from error

    def dataclass(self, kind: type[T], value: object, path: str = "") -> T:
        """A JSON object -> an instance of the dataclass `kind`. `path` is the field path of `value` ("" for the file's
        root)."""
        if not isinstance(value, dict):
            raise self.wrong(path, value, self.mapping, Rule())
        hints = _hints_of(typing.cast(Any, kind))
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for key in value:
            if key not in fields:
                raise self.unknown(_join(path, key), value[key], fields)
        out: dict[str, Any] = {}
        for name, field in fields.items():
            where, hint = _join(path, name), hints[name]
            if name in value:
                limits = field.metadata.get("rule") or self.rules.get(typing.get_origin(hint) or hint, Rule())
                out[name] = self._value(hint, value[name], where, limits)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self.missing(where, hint)
        return kind(**out)

    def _value(self, hint: Any, value: Any, path: str, limits: Rule) -> Any:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            if value is None and type(None) in args:
                return None
            arms = [a for a in args if a is not type(None)]
            return self._value(str if str in arms and isinstance(value, str) else arms[0], value, path, limits)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(typing.cast(type, hint), value, path)
        if hint is Any:
            return value
        if origin not in (tuple, list, dict):
            return self._scalar(hint, value, path, limits)
        if not isinstance(value, dict if origin is dict else list):
            what = f"an object of name: {_describe(args[1])}" if origin is dict else _describe(hint)
            raise self.wrong(path, value, what, limits)
        self._length(value, path, limits, "entries")
        inner = dataclasses.replace(limits, low=-math.inf, high=math.inf)
        if isinstance(value, dict):
            return {key: self._value(args[1], item, _join(path, key), inner) for key, item in value.items()}
        hints = args if origin is tuple and args[-1] is not Ellipsis else args[:1] * len(value)
        if len(hints) != len(value):
            raise self.wrong(path, value, f"{len(hints)} entries, found {len(value)}", limits)
        return origin(self._value(hints[i], item, f"{path}[{i}]", inner) for i, item in enumerate(value))

    def _scalar(self, hint: type, value: Any, path: str, limits: Rule) -> Any:
        if hint is bool:
            if not isinstance(value, bool):
                raise self.wrong(path, value, "true or false", limits)
            return value
        if hint is str:
            if not isinstance(value, str):
                raise self.wrong(path, value, "a string", limits)
            if not is_text(value):
                raise self.wrong(path, value, "text; half a character (a lone surrogate) is none", limits)
            self._length(value, path, limits, "characters")
            if limits.choices and value not in limits.choices:
                raise self.wrong(path, value, f"one of: {', '.join(limits.choices)}", limits)
            if not limits.allows(value) or (limits.pattern and not re.fullmatch(limits.pattern, value)):
                raise self.wrong(path, value, limits.hint or f"text matching {limits.pattern}", limits)
            return value
        wanted = int if hint is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or (limits.finite and not abs(value) < 1e300):
            raise self.wrong(path, value, _describe(hint), limits)
        if not limits.low <= value <= limits.high:
            raise self.wrong(path, value, f"{_describe(hint)} in [{limits.low:g}, {limits.high:g}]", limits)
        return hint(value)

    def _length(self, value: Any, path: str, limits: Rule, unit: str) -> None:
        if not limits.low <= len(value) <= limits.high:
            span = f"{limits.low:g} to {limits.high:g}" if limits.high < math.inf else f"at least {limits.low:g}"
            raise self.wrong(path, value, f"{span} {unit}, found {len(value)}", limits)


def encode(value: object) -> Any:
    """A dataclass (or list, dict, scalar of them) -> JSON values; the inverse of `Decoder.dataclass`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def shown(value: object) -> str:
    """A value as a message quotes it: 80 characters at most, without the credentials of an address."""
    text = redact(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """Of a key that is not known, the known one that is closest, "" when none is close."""
    return next(iter(difflib.get_close_matches(str(found), known, 1)), "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", str: "a string", bool: "true or false"}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, list):
        return f"a list of {_describe(args[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "an object"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is type(None) else _describe(a) for a in args)
    return names.get(hint, str(hint))
