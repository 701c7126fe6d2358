"""The doctor: a check that breaks, a configuration that is wrong and a port that is taken are findings like any other."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import doctor
from edge.cli import main
from edge.config import Config, EventsConfig, StatusConfig
from edge.doctor import Finding, examine
from edge.errors import ConfigError
from edge.status import Board, StatusServer


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow check; tests/cli/test_cli.py runs it."""

    def _bundle(config: Config) -> Finding:
        return Finding("bundle", "ok", "not looked at")

    monkeypatch.setattr(doctor, "_bundle", _bundle)


def findings(load: Callable[[], Config]) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(load)}


def status(**settings: object) -> Finding:
    config = dataclasses.replace(Config(), status=StatusConfig(**settings))  # type: ignore[arg-type]
    return findings(lambda: config)["status"]


@pytest.mark.parametrize("name", ["_thermal", "_cores"])
def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def broken(*config: Config) -> Finding:
        raise ZeroDivisionError("odd machine")

    broken.__name__ = name
    monkeypatch.setattr(doctor, name, broken)
    found = findings(Config)
    assert found[name.strip("_")].level == "fail" and "odd machine" in found[name.strip("_")].found
    assert {"python", "packages", "clock", "config", "bundle", "source", "events", "status"} <= set(found)


def test_a_wrong_configuration_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("event: {}")
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["config"]["level"] == "fail" and "did you mean events" in found["config"]["found"]
    assert found["python"]["level"] == "ok" and "events" not in found
    assert main(["doctor", "--config", str(config)]) == 1
    assert "did you mean events" in capsys.readouterr().out


def test_nothing_is_made_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    config = dataclasses.replace(Config(), events=EventsConfig(dir=str(folder), min_free_mb=0))
    found = findings(lambda: config)["events"]
    assert found.level == "ok" and "will be made" in found.found
    assert not any(tmp_path.iterdir())
    folder.mkdir(parents=True)
    assert "writable" in findings(lambda: config)["events"].found
    assert not any(folder.iterdir())


def test_a_store_under_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = dataclasses.replace(Config(), events=EventsConfig(dir=str(tmp_path / "file" / "e")))
    assert findings(lambda: config)["events"].level == "fail"


def test_a_port_that_another_program_has_is_found() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        other.settimeout(0)
        port = other.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge.status.server.CLIENT_TIMEOUT_S", 0.2)
            found = status(port=port)
    assert found.level == "fail" and str(port) in found.found and "status.port" in found.fix
    assert status(port=0).level == "ok" and status(enabled=False).level == "ok"


@pytest.mark.parametrize("token", ["", "a-token-of-some-length"])
def test_a_port_that_a_hygroma_has_is_all_right(token: str) -> None:
    with StatusServer(Board(), "127.0.0.1", 0, token) as server:
        found = status(port=server.port)
    assert found.level == "ok" and "running hygroma" in found.found


def test_a_page_for_other_machines_wants_a_token(tmp_path: Path) -> None:
    found = status(host="0.0.0.0", port=0)
    assert found.level == "fail" and "token" in found.found
    assert status(host="0.0.0.0", port=0, token_file=str(tmp_path / "none")).level == "fail"
    (tmp_path / "token").write_text("a-token-of-some-length")
    assert status(host="0.0.0.0", port=0, token_file=str(tmp_path / "token")).level == "ok"
    assert status(host="not an address").level == "fail"


def test_a_configuration_error_names_itself() -> None:
    def load() -> Config:
        raise ConfigError("c.yaml: event: unknown section")

    assert findings(load)["config"] == Finding("config", "fail", "c.yaml: event: unknown section", "see the message")
