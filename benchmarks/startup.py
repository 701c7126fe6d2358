"""From the start of a process to READY, as systemd is told; its parts; memory there; an engine's build, where there is a GPU."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.case import Bench, Case, Record, Unavailable, record
from benchmarks.daemon import memory_mb
from benchmarks.environment import CHECKOUT
from edge.demo import CLIP
from edge.engines.choice import has_tensorrt
from edge.errors import EngineError

SUITE = "startup"
STARTS = 20  # of a process; each takes a second or so
READY_S = 60.0  # seconds after which a start has failed: as long as an update's trial waits
STOP_S = 10.0  # seconds for the daemon to end after SIGTERM
# Each step in a fresh interpreter, timed from its first line: what `hygroma run` does before READY.
PARTS = """
import json, sys, time
times, start = {}, time.perf_counter()
def step(name):
    global start
    times[name] = (time.perf_counter() - start) * 1000
    start = time.perf_counter()
from edge.watching import choose, load_bundle, Scorer
from edge.bundle import ANYONE
step("import the packages")
bundle = load_bundle(sys.argv[1], ANYONE)
step("load and verify the bundle")
scorer = Scorer(bundle, choose(bundle, "auto", int(sys.argv[2])).runner)
step("parse its vectors")
scorer._runner.__enter__()
step("create the engine's session")
scorer._runner.__exit__(None, None, None)
start = time.perf_counter()
with scorer:
    step("session and golden self-test")
print(json.dumps(times))
"""


def to_ready(bench: Bench) -> list[Record]:
    name = "process start to READY"
    times, memory = [], []
    for i in range(_starts(bench)):
        ms, at_ready = start_daemon(bench.bundle.path, bench.folder / str(i))
        times.append(ms)
        memory.append(at_ready)
        bench.note(f"{SUITE}: {name}", i + 1, _starts(bench))
    values = {key: float(np.median([m[key] for m in memory])) for key in memory[0]}
    values["rss_ratio"] = values["rss_mb"] / bare_interpreter_mb()
    notes = (
        "`hygroma run` on the shipped clip, no page; rss_ratio: to an interpreter that only imported numpy, cv2 and onnxruntime",
    )
    return [record(SUITE, name, np.array(times), values, {"rss_mb": "lower"}, notes)]


def _starts(bench: Bench) -> int:
    return max(3, min(STARTS, bench.calls))


def start_daemon(bundle: Path, folder: Path) -> tuple[float, dict[str, float]]:
    """Milliseconds from the start of `hygroma run` to READY=1 on its NOTIFY_SOCKET, and its memory then. EngineError without."""
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        # An abstract address (Linux): a path would be too long for a socket in some temporary folders.
        notify.bind(f"\0hygroma-bench-{os.getpid()}-{time.monotonic_ns()}")
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + notify.getsockname()[1:].decode()}
        command = [sys.executable, "-m", "edge.cli", "run", "--source", f"file:{CLIP}", "--no-status", "--allow-unsigned"]
        command += ["--bundle", str(bundle), "--events", str(folder / "events")]
        start = time.monotonic()
        with open(folder / "stderr", "w+") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, cwd=CHECKOUT)
            try:
                while time.monotonic() - start < READY_S:
                    readable, _, _ = select.select([notify], [], [], 0.05)
                    if readable and b"READY=1" in notify.recv(4096):
                        return (time.monotonic() - start) * 1000, memory_mb(process.pid)
                    if process.poll() is not None:
                        break
                errors.seek(0)
                raise EngineError(f"hygroma run was not ready after {READY_S:g} s: {errors.read()[-500:].strip()}")
            finally:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def parts(bench: Bench) -> list[Record]:
    """Each part of a start, in fresh interpreters."""
    found: dict[str, list[float]] = {}
    for i in range(_starts(bench)):
        command = [sys.executable, "-c", PARTS, str(bench.bundle.path), str(bench.threads)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S, cwd=CHECKOUT, check=False)
        if done.returncode:
            raise EngineError(f"a start failed: {done.stderr.strip()[-500:]}")
        for name, ms in json.loads(done.stdout).items():
            found.setdefault(name, []).append(ms)
        bench.note(f"{SUITE}: parts", i + 1, _starts(bench))
    whole = np.sum(list(found.values()), axis=0)
    return [record(SUITE, name, np.array(times)) for name, times in {"all parts": whole, **found}.items()]


def bare_interpreter_mb() -> float:
    """Resident memory of Python with the libraries that the daemon cannot do without."""
    script = "import numpy, cv2, onnxruntime; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=READY_S)
    return next(int(line.split()[1]) / 1024 for line in done.stdout.splitlines() if line.startswith("VmRSS"))


def engine_build(bench: Bench) -> list[Record]:
    """A TensorRT engine from the bundle's graph, as `hygroma engine build` makes it."""
    if not has_tensorrt():
        raise Unavailable("TensorRT is not installed here")
    from edge.engines.tensorrt.build import BuildOptions
    from edge.engines.tensorrt.cache import EngineCache
    from edge.engines.tensorrt.host import cached_engine, this_host

    try:
        host = this_host()
        start = time.perf_counter()
        cached_engine(host, EngineCache(bench.folder / "engines"), bench.bundle, BuildOptions("int8"))
    except EngineError as error:
        raise Unavailable(str(error)) from None
    return [record(SUITE, "build the INT8 engine", np.array([(time.perf_counter() - start) * 1000]))]


RUN: dict[str, Callable[[Bench], list[Record]]] = {
    "process start to READY": to_ready,
    "parts": parts,
    "build the INT8 engine": engine_build,
}
CASES = [Case(SUITE, name, run) for name, run in RUN.items()]
