"""`make fuzz`: each target in turn under atheris (libFuzzer: coverage decides what is kept), a process each.

    python campaign.py [SECONDS a target] [TARGET ...]

New inputs that reach new code are kept in tests/fuzz/corpus; a crash or an input that takes over a second ends with exit code 1
and is kept in tests/fuzz/findings. Inputs over 64 kB are not tried.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 60  # a target
CPU_MAX_S = 1.0  # for one input


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


def main(seconds: int, names: list[str]) -> int:
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(
            "make fuzz: atheris is not installed; it has wheels for CPython 3.11 to 3.13 on Linux x86-64",
            file=sys.stderr,
        )
        return 1
    sys.path.insert(0, str(HERE))
    import targets

    failed = []
    for name in names or list(targets.TARGETS):
        print(f"== {name}, {seconds} s", flush=True)
        if subprocess.run([sys.executable, __file__, "--hunt", name, str(seconds)]).returncode:
            failed.append(name)
    print(f"{len(failed)} targets with findings: {', '.join(failed) or 'none'}; see {HERE / 'findings'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hunt"]:
        hunt(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS, sys.argv[2:]))
