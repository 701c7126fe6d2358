"""`make audit` never calls well what nobody looked at."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD: dict[str, Any] = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "10.0", "vulns": [{"id": "CVE-1", "fix_versions": ["10.1", "10.2"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_vulnerability_fails_and_says_what_mends_it(audit: Any) -> None:
    code, lines = audit.judge([GOOD, BAD])
    assert code == 1 and lines[0] == "pillow 10.0: CVE-1; fixed in 10.1, 10.2"
    assert lines[-1] == "audited 2 of 2 packages: 1 with known vulnerabilities"


def test_what_was_not_audited_is_told(audit: Any) -> None:
    code, lines = audit.judge([GOOD, UNKNOWN])
    assert code == 0 and lines[0] == "audited 1 of 2 packages: none with known vulnerabilities"
    assert "NOT AUDITED" in lines[1] and "torch" in lines[1]
    assert [line[:18] for line in audit.judge([UNKNOWN])[1]] == ["*** NOT AUDITED: 1"]
    assert audit.judge([GOOD])[1] == ["audited 1 of 1 packages: none with known vulnerabilities"]
