"""docs/requirements.md: no promise without a test that carries its id, and no test that carries an unknown one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "requirements.md"


def carried() -> dict[str, list[str]]:
    """Ids on test functions -> the functions."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.requirement":
                    for word in mark.args:
                        found.setdefault(ast.literal_eval(word), []).append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def test_every_promise_has_a_test_and_every_id_is_a_promise() -> None:
    promises = re.findall(r"^\| ([A-Z]-\d\d) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(promises) == len(set(promises)) > 20
    assert set(carried()) == set(promises)
