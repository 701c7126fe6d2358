"""Lines of product code, a folder a row: without blank lines, comments and docstrings. `lines.py [REV]` counts what git has at
REV beside the working tree."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

PRODUCT = ("edge", "export", "calibration", "benchmarks")
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines on which a token of code stands; those of a docstring are none."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def count(revision: str = "") -> Counter[str]:
    """Folder -> lines; of the working tree without a revision. A wing of a folder counts by itself, and in its folder's row."""
    listed = ["ls-tree", "-r", "--name-only", revision] if revision else ["ls-files", "-co", "--exclude-standard"]
    out: Counter[str] = Counter()
    for name in _git(*listed, *PRODUCT).splitlines():
        if not name.endswith(".py") or not (revision or Path(name).is_file()):
            continue
        lines = code_lines(_git("show", f"{revision}:{name}") if revision else Path(name).read_text(encoding="utf-8"))
        for folder in [*map(str, Path(name).parents)][:-1]:
            out[folder] += lines
        out["all"] += lines
    return out


def main() -> None:
    now, before = count(), count(sys.argv[1]) if len(sys.argv) > 1 else None
    for folder in sorted(now | (before or {}), key=lambda name: (name == "all", name)):
        if before is None:
            print(f"{folder:28}{now[folder]:7}")
        else:
            print(f"{folder:28}{before[folder]:7}{now[folder]:7}{now[folder] - before[folder]:+7}")


if __name__ == "__main__":
    main()
