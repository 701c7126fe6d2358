"""The table of commands: what is in it can be asked for, what help lists is made of tables, and one command loads no other's."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.capture.build import ALIASES, KNOWN, SCHEMES, parse_uri
from edge.cli import main
from edge.cli.main import COMMANDS, DEVICE, EXIT_CODES, WORKSTATION, Command
from edge.engines.graph_forms import PRECISIONS
from edge.engines.runtimes import RUNTIMES

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "cv2", "onnxruntime", "yaml", "cryptography", "pydicom", "sqlite3")


def help_of(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return " ".join(out.getvalue().split())


def loaded_by(*words: str) -> list[str]:
    """The modules that a process has loaded when it ends after `hygroma WORDS`."""
    script = (
        "import sys, json, contextlib, io\nfrom edge.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({list(words)!r})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    names: list[str] = json.loads(done.stdout)
    return names


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_has_its_help(command: Command) -> None:
    assert "usage: hygroma " in help_of(command.name)


def test_help_lists_the_table() -> None:
    text = help_of()
    for group in (DEVICE, WORKSTATION):
        assert f"{group.capitalize()}: {', '.join(c.name for c in COMMANDS if c.group == group)}." in text
    for command in COMMANDS:
        assert command.help.split(":")[0][:20] in text
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


def test_run_names_every_scheme() -> None:
    text = help_of("run")
    assert KNOWN in text
    assert set(SCHEMES) == {"v4l2", "rtsp", "gst", "file", "images", "dicom", "phantom"}
    for name, scheme in SCHEMES.items():
        assert scheme.example in text and f"| `{name}:" in (ROOT / "docs" / "sources.md").read_text()
        if name != "gst":  # a pipeline has more to it
            assert parse_uri(scheme.example).scheme == name
    assert set(ALIASES.values()) <= set(SCHEMES)


def test_runtimes_and_precisions_are_those_of_the_tables() -> None:
    text = help_of("validate")
    assert f"{{{','.join(RUNTIMES)}}}" in text and f"{{{','.join(PRECISIONS)}}}" in text
    assert ", ".join(PRECISIONS) in help_of("engine", "build")


def test_help_loads_no_command_and_nothing_heavy() -> None:
    for words in (("--help",), ("--version",)):
        names = loaded_by(*words)
        assert [name for name in names if name.startswith("edge")] == [
            "edge", "edge.cli", "edge.cli.common", "edge.cli.main", "edge.errors", "edge.redaction",
        ]  # fmt: skip
        assert not set(HEAVY) & set(names)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_loads_its_own_module(command: Command) -> None:
    names = {name for name in loaded_by(command.name, "--help") if name.startswith("edge.cli.")}
    shared = {"edge.cli.common", "edge.cli.main"}
    own = f"edge.cli.{command.module}"
    of_bundles = {"edge.cli.stages", "edge.cli.engines"} if own in ("edge.cli.bundles", "edge.cli.stages") else set()
    assert {own} <= names <= shared | {own} | of_bundles


@pytest.mark.parametrize("module", ["edge", "edge.cli"])
def test_python_runs_the_package(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("hygroma-edge ")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("hygroma ru", "run"),
        ("hygroma events e", "export"),
        ("hygroma run --so", "--source"),
        ("hygroma events review 1 dis", "dismissed"),
    ],
)
def test_the_shell_completes(line: str, wanted: str, tmp_path: Path) -> None:
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = str(tmp_path / "said")
    subprocess.run([sys.executable, "-m", "edge"], cwd=ROOT, env={**os.environ, **asked}, check=True, timeout=60)
    assert (tmp_path / "said").read_text().strip() == wanted


def test_a_suite_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "modles"])
    assert "found 'modles'; expected any of layers, models" in capsys.readouterr().err


def test_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(help_of().split())
    for code, meaning in EXIT_CODES:
        assert f"{code} {meaning}" in text


@pytest.mark.requirement("Y-02")
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_another_system_is_refused_in_one_sentence_at_the_first_command(
    platform: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    assert main(["doctor"]) == 78
    said = capsys.readouterr().err
    assert said == f"hygroma: runs on Linux alone, found {platform}; use a Linux machine, WSL 2 or a container\n"
