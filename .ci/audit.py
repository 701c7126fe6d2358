"""Known vulnerabilities of what is installed, by pip-audit: `python audit.py REPORT.json`. Exit code 1 when there are any.

pip-audit also says "none found" of packages that it could not ask about; here they are told, and loudly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def judge(dependencies: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """(exit code, what to print) of pip-audit's report."""
    lines = [
        f"{found['name']} {found['version']}: {', '.join(v['id'] for v in found['vulns'])}; fixed in"
        f" {', '.join(sorted({version for v in found['vulns'] for version in v['fix_versions']})) or 'no version yet'}"
        for found in dependencies
        if found.get("vulns")
    ]
    code = 1 if lines else 0
    skipped = [found["name"] for found in dependencies if "skip_reason" in found]
    asked = len(dependencies) - len(skipped)
    if asked:
        lines.append(f"audited {asked} of {len(dependencies)} packages: {len(lines) or 'none'} with known vulnerabilities")
    if skipped:
        few = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        why = "the advisory database does not know them, or could not be asked"
        lines.append(f"*** NOT AUDITED: {len(skipped)} packages, as {why}: {few} ***")
    return code, lines


def main(report: Path) -> int:
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--timeout", "15",
         "-f", "json", "-o", str(report)], capture_output=True, text=True,
    )  # fmt: skip
    if not report.exists():  # its exit code is 1 for a vulnerability and when it cannot ask
        print(*done.stderr.splitlines()[-3:], sep="\n")
        print("*** NOT AUDITED: the advisory database could not be asked. Run `make audit` where there is a network. ***")
        return 0
    code, lines = judge(json.loads(report.read_text(encoding="utf-8"))["dependencies"])
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
