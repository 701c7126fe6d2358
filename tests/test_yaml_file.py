"""YAML of people: what stands twice is refused, what is wrong is placed, and nothing of the file is quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import load_config
from edge.errors import ConfigError
from edge.yaml_file import parse_yaml


@pytest.mark.requirement("S-12")
@pytest.mark.parametrize(
    ("text", "first", "again"),
    [
        ("events: {dir: /a}\nstatus: {}\nevents: {max_mb: 9}\n", 1, 3),
        ("events:\n  dir: /a\n  dir: /b\n", 2, 3),
        ("a: &x {b: 1}\n\"a\": 2\n", 1, 2),
        ("- {a: 1,\n   a: 1}\n", 1, 2),
        ("{? a : 1, ? a : 2}", 1, 1),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, first: int, again: int) -> None:
    with pytest.raises(ValueError, match=rf"line {again}: the key '\w+' stands twice, first in line {first}; merge the two"):
        parse_yaml(text.encode())


def test_the_same_key_in_two_places_is_no_fault() -> None:
    assert parse_yaml(b"a: {x: 1}\nb: {x: 1}\nc: [{x: 1}, {x: 2}]\nd: &d {y: 1}\ne: {<<: *d, y: 2}") == {
        "a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 2}], "d": {"y": 1}, "e": {"y": 2},
    }  # fmt: skip


@pytest.mark.requirement("S-10")
@pytest.mark.parametrize(
    "text",
    ['source: {uri: "rtsp://u:hunter2@h/s', "source:\n  uri: rtsp://u:hunter2@h: x", "\tsource: hunter2", "a: hunter2\n b: 1"],
)
def test_an_error_says_where_and_quotes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML: line \d+, column \d+: ") as wrong:
        load_config(tmp_path / "c.yaml")
    assert "hunter2" not in str(wrong.value)
