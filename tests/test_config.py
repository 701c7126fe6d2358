"""Every way in which a configuration can be wrong names the file, the key, the value and what would be right."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from edge.config import EXAMPLE, Config, DecisionConfig, load_config, parse_config
from edge.decision import DecisionParams
from edge.errors import ConfigError


def test_example_loads_and_is_the_default() -> None:
    assert load_config(EXAMPLE) == Config()


def test_example_lists_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for section in dataclasses.fields(Config):
        block = re.split(r"^\w+:$", text.split(f"\n{section.name}:\n")[1], flags=re.MULTILINE)[0]
        listed = set(re.findall(r"^  (?:# )?(\w+):", block, flags=re.MULTILINE))
        known = {item.name for item in dataclasses.fields(type(getattr(Config(), section.name)))}
        assert known <= listed, f"{section.name}: {known - listed} not in the example"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("events: {retention_day: 3}", ["events.retention_day", "did you mean retention_days"]),
        ("event: {retention_days: 3}", ["event", "did you mean events"]),
        ("events: {retention_days: 0}", ["events.retention_days", "found 0 (int)", "from 1 to 3650", "days"]),
        ("events: {retention_days: 1.5}", ["events.retention_days", "1.5 (float)", "whole number"]),
        ("events: {retention_days: true}", ["events.retention_days", "True (bool)"]),
        ("capture: {stall_s: .nan}", ["capture.stall_s", "nan"]),
        ("capture: {stall_s: '1'}", ["capture.stall_s", "'1' (str)", "a number"]),
        ("capture: {pixel_format: RGB}", ["capture.pixel_format", "RGB", "YUYV"]),
        ("status: {enabled: 1}", ["status.enabled", "true or false"]),
        ("status: {port: 65536}", ["status.port", "65535"]),
        ("source: {uri: 7}", ["source.uri", "7 (int)"]),
        ("source: file:clip.mp4", ["source", "keys and values"]),
        ("- a", ["the file", "list"]),
        ("decision: {flag_threshold: -1}", ["decision.flag_threshold", "leave the key out"]),
        ("a: [", ["not valid YAML", "line 1"]),
        ("source: {uri: 2001-99-99}", ["not valid YAML"]),
        ("!!python/object/apply:os.system [echo]", ["not valid YAML"]),
        ("[" * 5000, ["not valid YAML"]),
    ],
)
def test_each_mistake_is_explained(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "room1.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_missing_file_points_to_the_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read.*config\.example\.yaml"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [None, {}, {"events": None}])
def test_empty_is_the_default(content: object) -> None:
    assert parse_config(content, "test") == Config()


def test_decision_override_changes_only_what_it_names() -> None:
    params = DecisionParams(gap_s=7, flag_threshold=9)
    assert DecisionConfig().apply(params) == params
    assert DecisionConfig(flag_threshold=4.0).apply(params) == dataclasses.replace(params, flag_threshold=4.0)
