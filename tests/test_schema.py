"""One decoder reads configuration, manifest, recipe, cache entry, record of updates and request: whose error it is, and what it
advises, are its caller's. (What each says of its own fields is tested where the fields are.)"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import errors
from edge.bundle.manifest import parse_manifest
from edge.config import Config, DecisionConfig, EngineConfig, parse_config
from edge.decision.params import BOUNDS
from edge.engines.runtimes import RUNTIMES
from edge.errors import ConfigError, EngineError, HygromaError
from edge.schema import Decoder, Rule, encode, rule

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HygromaError)]
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine with other work
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    share: float = dataclasses.field(default=0.5, metadata=rule(low=0, high=1))


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = dataclasses.field(metadata=rule(low=1, high=5, pattern="[a-z]+", hint="letters"))
    count: int = dataclasses.field(metadata=rule(low=0, high=9))
    inner: Inner
    parts: tuple[Inner, ...] = dataclasses.field(metadata=rule(low=1, high=2))
    numbers: list[int] = dataclasses.field(metadata=rule(low=1))
    pair: tuple[str, float] = ("", 0.0)
    word_or_number: float | str = ""
    anything: Any = None
    by_name: dict[str, float] = dataclasses.field(default_factory=dict)
    maybe: float | None = None


GOOD: dict[str, Any] = {"name": "abc", "count": 3, "inner": {"share": 1}, "parts": [{}], "numbers": [1, 2]}


def test_what_is_right_becomes_the_record() -> None:
    more = {"pair": ["a", 1], "word_or_number": "x", "anything": [None, {"a": 1}]}
    made = Decoder("f", ConfigError).dataclass(Outer, GOOD | more)
    assert made == Outer("abc", 3, Inner(1.0), (Inner(),), [1, 2], ("a", 1.0), "x", [None, {"a": 1}])
    assert Decoder("f", ConfigError).dataclass(Outer, json.loads(json.dumps(encode(made)))) == made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name: found ''; expected 1 to 5 characters, found 0"),
        ({"name": "ABC"}, "name: found 'ABC'; expected letters"),
        ({"count": True}, "count: found True; expected a whole number"),
        ({"count": 10}, "count: found 10; expected a whole number in [0, 9]"),
        ({"inner": None}, "inner: found None; expected an object"),
        ({"inner": {"share": math.inf}}, "inner.share: found inf; expected a finite number"),
        ({"inner": {"shares": 1}}, "inner.shares: found 1; unknown field; known here: share"),
        ({"parts": [{}, {}, {}]}, "parts: found [{}, {}, {}]; expected 1 to 2 entries, found 3"),
        ({"parts": [{"share": 2}]}, "parts[0].share: found 2"),
        ({"numbers": []}, "numbers: found []; expected at least 1 entries"),
        ({"numbers": 3}, "numbers: found 3; expected a list of a whole number"),
        ({"numbers": [1, "2"]}, "numbers[1]: found '2'; expected a whole number"),
        ({"pair": ["a"]}, "pair: found ['a']; expected 2 entries, found 1"),
        ({"pair": ["a", "b"]}, "pair[1]: found 'b'; expected a finite number"),
        ({"word_or_number": []}, "word_or_number: found []; expected a finite number"),
        ({"by_name": {"a": None}}, "by_name.a: found None; expected a finite number"),
        ({"by_name": []}, "by_name: found []; expected an object of name: a finite number"),
    ],
)
def test_what_is_wrong_is_the_callers_error(kind: type[HygromaError], change: dict[str, Any], words: str) -> None:
    with pytest.raises(kind) as caught:
        Decoder("f.json", kind).dataclass(Outer, GOOD | change)
    assert type(caught.value) is kind and str(caught.value).startswith(f"f.json: {words}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_answered_with_the_callers_advice(kind: type[HygromaError], data: bytes) -> None:
    with pytest.raises(kind, match=r"f: not valid JSON .*; do this") as caught:
        Decoder("f", kind).parse(data, "do this")
    assert "bundle" not in str(caught.value)


@BUSY
@given(json_values)
def test_nothing_but_its_own_error_leaves_it(value: Any) -> None:
    for target in (Inner, Outer, Config):
        try:
            Decoder("f", EngineError).dataclass(target, value)
        except EngineError as error:
            assert str(error).startswith("f: ")


@BUSY
@given(st.dictionaries(st.sampled_from(["engine", "events", "source", "bundle", "x"]), json_values, max_size=2))
def test_a_configuration_raises_nothing_but_its_error(value: dict[str, Any]) -> None:
    try:
        parse_config(value, "c.yaml")
    except ConfigError as error:
        assert str(error).startswith("c.yaml: ")


def test_the_manifest_alone_advises_to_fetch_the_bundle() -> None:
    with pytest.raises(errors.BundleError, match="fetch the bundle again"):
        parse_manifest(b"{")
    root = Path(__file__).parents[1] / "edge"
    said = [path.name for path in sorted(root.rglob("*.py")) if "fetch the bundle again" in path.read_text()]
    assert said and not {"schema.py", "server.py", "trial.py", "cache.py"} & set(said)


@pytest.mark.parametrize("key", [item.name for item in dataclasses.fields(DecisionConfig)])
def test_an_override_has_the_bounds_of_the_parameter(key: str) -> None:
    (limits,) = [item.metadata["rule"] for item in dataclasses.fields(DecisionConfig) if item.name == key]
    assert isinstance(limits, Rule) and (limits.low, limits.high) == BOUNDS[key]
    for value in BOUNDS[key]:
        assert getattr(parse_config({"decision": {key: value}}, "c").decision, key) == value
    with pytest.raises(ConfigError, match=f"decision.{key}: found .* must be a number from .*, or leave the key out"):
        parse_config({"decision": {key: BOUNDS[key][1] + 1}}, "c")


def test_the_configuration_takes_every_runtime_of_the_table_and_no_other() -> None:
    for runtime in ("auto", *RUNTIMES):
        assert parse_config({"engine": {"runtime": runtime}}, "c").engine == EngineConfig(runtime=runtime)
    with pytest.raises(ConfigError, match=", ".join(RUNTIMES)):
        parse_config({"engine": {"runtime": "cpu"}}, "c")
