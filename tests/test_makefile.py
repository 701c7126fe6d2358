"""`make demo` and `make test` on a machine whose Python is too old, and beside what an earlier build left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_an_old_python_is_refused_before_anything_is_made(target: str, tmp_path: Path) -> None:
    old = tmp_path / "python"
    pretend = "import sys; sys.version_info, sys.version = (3, 9, 7), '3.9.7 (old)'; exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    venv = tmp_path / "venv"
    done = make(target, f"PYTHON={old}", f"DEMO_VENV={venv}", f"TEST_VENV={venv}")
    assert done.returncode != 0 and not venv.exists()
    assert f"is Python 3.9.7; 3.10 or newer is needed: make {target} PYTHON=python3.12" in done.stderr


def test_a_wheel_is_never_built_beside_an_old_build_folder(tmp_path: Path) -> None:
    commands = make("-n", "demo", f"DEMO_VENV={tmp_path / 'venv'}").stdout.splitlines()
    removed = next(n for n, line in enumerate(commands) if line.startswith("rm -rf build"))
    installed = next(n for n, line in enumerate(commands) if "pip install" in line)
    assert removed < installed
