"""The server's OpenAPI description, made of its routes and of the records that its answers are made of."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import Enum
from typing import Any

from edge import __version__
from edge.capture.feed import FeedStats
from edge.metrics import LatencySummary
from edge.records import Event, Verdict
from edge.schema import Rule
from edge.status.board import BundleState, ExamRow
from edge.status.render import STATES
from edge.status.routes import HTML, JSON, NUMBER, NUMBER_DIGITS, ROUTES, Answer, Route

_SCALARS: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}

# What any request may be answered, whatever it asks for.
_ANYTIME = (
    Answer(400, JSON, "the request cannot be understood; the error says what of it", "Error"),
    Answer(403, JSON, "it comes from another page, or asks for this one under another name than loopback's", "Error"),
    Answer(429, JSON, "too many requests, or wrong tokens; wait as long as Retry-After says", "Error"),
    Answer(500, JSON, "a fault of ours, which the daemon's log tells", "Error"),
)
_NO_TOKEN = Answer(401, JSON, "the token is missing or wrong", "Error")
_NO_TOKEN_PAGE = Answer(401, HTML, "the token is missing or wrong: a page that says how to give it")
_BODY = (
    Answer(411, JSON, "the body's length is not told", "Error"),
    Answer(413, JSON, "the body is too long", "Error"),
    Answer(415, JSON, "the body is of another kind than JSON", "Error"),
)


def describe(token: bool, cookie: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server that wants a token or does not. cookie: where a browser keeps it."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, token)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "hygroma-edge",
            "version": __version__,
            "description": "The status page of one hygroma daemon. HEAD is answered wherever GET is. A browser may open any"
            " path once with ?token=TOKEN and is given the cookie.",
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    }
    if token:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
        }
        document["security"] = [{"bearer": []}, {"cookie": []}]
    return document


def _operation(route: Route, token: bool) -> dict[str, Any]:
    no_token = _NO_TOKEN_PAGE if route.for_people else _NO_TOKEN
    any_time = (*_ANYTIME, *((no_token,) if token else ()), *(_BODY if route.body else ()))
    out: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.text,
        "responses": {str(answer.code): _response(answer) for answer in (*route.answers, *any_time)},
    }
    if NUMBER in route.path:
        number = {"type": "integer", "minimum": 0, "maximum": 10**NUMBER_DIGITS - 1}
        out["parameters"] = [{"name": NUMBER.strip("{}"), "in": "path", "required": True, "schema": number}]
    if route.body:
        out["requestBody"] = {"required": False, "content": {JSON: {"schema": _schema(route.body, sent=True)}}}
    return out


def _response(answer: Answer) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.schema}"} if answer.schema else {}
    return {"description": answer.text, "content": {answer.kind: {"schema": schema} if schema else {}}}


def schemas() -> dict[str, Any]:
    """What JSON answers hold, by the names that Answer.schema uses."""
    health = _object({
        "live": _schema(bool), "ready": _schema(bool), "degraded": _schema(bool), "problems": _schema(tuple[str, ...]),
        "frame_age_s": _schema(float | None),
    })  # fmt: skip
    top = {"state": {"enum": list(STATES)}, "words": _schema(str), "health": health}
    verdict = _schema(Verdict)
    del verdict["properties"]["t_mono_ns"]
    verdict["required"].remove("t_mono_ns")
    snapshot = _object(top | {
        "source": _schema(str), "bundle": _schema(str), "engine": _schema(str),
        "bundle_state": _schema(BundleState | None),
        "verdict": {"anyOf": [verdict, {"type": "null"}]},
        "frames_by_signal": _schema(dict[str, int]), "duplicates": _schema(int), "errors": _schema(dict[str, int]),
        "feed": _schema(FeedStats), "latency_ms": _schema(dict[str, LatencySummary]),
        "exams": _schema(tuple[ExamRow, ...]), "events": _schema(tuple[Event, ...]),
        "history": _schema(tuple[tuple[float, float, float | None], ...]),
        "noise": _schema(float),
        "outline": _schema(tuple[tuple[float, float], ...] | None),
    })  # fmt: skip
    snapshot["required"] = list(top)  # before the first snapshot there is no more
    return {
        "Error": _object({"error": _schema(str)}),
        "Accepted": _object({"accepted": {"const": True}}),
        "Health": health,
        "Snapshot": snapshot,
        "OpenAPI": {"type": "object", "required": ["openapi", "info", "paths"]},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _schema(hint: Any, limits: Rule | None = None, sent: bool = False) -> dict[str, Any]:
    """The JSON Schema of what a type becomes in JSON. `sent`: to us, so that fields with defaults may be left out."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [{"type": "null"} if arg is type(None) else _schema(arg, limits) for arg in args]}
    if origin is tuple and args[-1] is ...:
        return {"type": "array", "items": _schema(args[0])}
    if origin is tuple:  # not `prefixItems`, which schemathesis 4 rewrites to what 3.1 refuses
        items = [schema for i, schema in enumerate(map(_schema, args)) if schema not in [_schema(a) for a in args[:i]]]
        return {"type": "array", "items": {"anyOf": items}, "minItems": len(args), "maxItems": len(args)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if dataclasses.is_dataclass(hint):
        hints, fields = typing.get_type_hints(hint), dataclasses.fields(hint)
        out = _object({f.name: _schema(hints[f.name], f.metadata.get("rule")) for f in fields})
        if sent:
            out["required"] = [f.name for f in fields if f.default is dataclasses.MISSING]
        return out
    if issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    return {"type": _SCALARS[hint], **_limits(hint, limits or Rule())}


def _limits(hint: type, limits: Rule) -> dict[str, Any]:
    low, high = ("minLength", "maxLength") if hint is str else ("minimum", "maximum")
    found = {
        low: limits.low if math.isfinite(limits.low) else None,
        high: limits.high if math.isfinite(limits.high) else None,
        "enum": list(limits.choices) or None,
        "pattern": f"^{limits.pattern}$" if limits.pattern else None,
    }
    return {name: value for name, value in found.items() if value is not None}
