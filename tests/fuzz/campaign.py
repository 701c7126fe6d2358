"""`make fuzz`: each target in turn under atheris (libFuzzer: coverage decides what is kept), a process each, then the page
against its own description under schemathesis.

    python campaign.py OUT [SECONDS a target] [TARGET ...]

New inputs that reach new code are kept in tests/fuzz/corpus; a crash or an input that takes over a second ends with exit code 1
and is kept in tests/fuzz/findings. Inputs over 64 kB are not tried. What was done goes into OUT when every target had its turn.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "faults")]

SECONDS = 60  # a target
CPU_MAX_S = 1.0  # for one input
PAGE = "page_api"  # the target that is no parser


def hunt(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["edge", "pydicom", "yaml"]):
        import targets

    found, corpus = HERE / "findings", targets.CORPUS / name
    for place in (found, corpus):
        place.mkdir(parents=True, exist_ok=True)
    start = targets.folder() / "seeds"
    start.mkdir()
    for i, seed in enumerate(targets.seeds(name)):
        (start / str(i)).write_bytes(seed)

    def attempt(data: bytes) -> None:
        begun = time.process_time()  # of this process: another that keeps the machine busy is no hang
        targets.run(name, data)
        if time.process_time() - begun > CPU_MAX_S:
            raise TimeoutError(f"{name}: more than {CPU_MAX_S:.0f} s of CPU")

    flags = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-max_len=65536",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), str(start), f"-artifact_prefix={found}/{name}-", *flags],
                  attempt)  # fmt: skip
    atheris.Fuzz()


def hunt_page(seconds: int) -> int:
    """schemathesis' own exit code: 1 when an answer was none of those described, or took over a second."""
    from page_api import TOKEN, serving

    with serving() as page:
        return subprocess.run([
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "run", page.url + "openapi.json", "-H", f"Authorization: Bearer {TOKEN}", "--no-color",
            "--max-time", str(seconds), "--max-examples", "100000", "--max-response-time", "1",
        ]).returncode  # fmt: skip


def turn(name: str, seconds: int) -> tuple[bool, int]:
    """Whether nothing was found, and how many inputs were tried."""
    print(f"== {name}, {seconds} s", flush=True)
    tried = 0
    with subprocess.Popen(
        [sys.executable, __file__, "--hunt", name, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.search(r"number_of_executed_units: *(\d+)|(\d+) generated", line):
                tried = int(found[1] or found[2])
    return process.returncode == 0, tried


def main(out: Path, seconds: int, names: list[str]) -> int:
    try:
        import atheris  # noqa: F401
        import schemathesis  # noqa: F401
    except ImportError as error:
        print(f"make fuzz: {error}; atheris has wheels for CPython 3.11 to 3.13 on Linux x86-64", file=sys.stderr)
        return 1
    import targets
    from sections import load, write_section
    from torture import FUZZED, ORDER

    before = load()
    turns = {name: turn(name, seconds) for name in names or [*targets.TARGETS, PAGE]}
    if not names:
        rows = [
            (f"`{name}`: inputs tried in {seconds} s", f"{tried:,}", "0 crashes, 0 over 1 s" if good else "FAILED: see findings")
            for name, (good, tried) in turns.items()
        ]
        write_section(out, FUZZED, rows, before, ORDER)
    failed = [name for name, (good, _) in turns.items() if not good]
    print(f"{len(failed)} targets with findings: {', '.join(failed) or 'none'}; see {HERE / 'findings'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "--hunt":
        if sys.argv[2] == PAGE:
            sys.exit(hunt_page(int(sys.argv[3])))
        hunt(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else SECONDS, sys.argv[3:]))
