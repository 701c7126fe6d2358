"""Writes `tensorrt_names.tsv`: which public names the classes that we use have in each TensorRT version.

    python tests/fakes/record_tensorrt_names.py FOLDER_OF_WHEELS

FOLDER_OF_WHEELS holds `tensorrt*_bindings-*.whl` of this Python (`pip download --no-deps tensorrt-cu12-bindings==10.3.0`).
They import without TensorRT's libraries against stubs that gcc makes here; nothing of TensorRT is run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).with_name("tensorrt_names.tsv")
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILogger", "ILogger.Severity", "INetworkDefinition",
    "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache", "LayerInformationFormat",
    "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ProfilingVerbosity", "Runtime",
    "TacticSource", "TensorIOMode",
)  # fmt: skip
ASK = """
import json, sys, tensorrt_bindings as trt
found = {}
for name in json.loads(sys.argv[1]):
    value = trt
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is not None:
        found[name] = [n for n in dir(value) if not n.startswith("_")]
print(json.dumps([trt.__version__, found]))
"""


def names(wheel: Path) -> tuple[str, set[str]]:
    """A wheel -> (version, names such as "BuilderFlag.FP16" and "Builder")."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        library = next(Path(folder).glob("*/tensorrt.so"))
        wanted = _run("readelf", "-d", str(library)).splitlines()
        needed = [line.split("[")[1].split("]")[0] for line in wanted if "NEEDED" in line and "libnv" in line]
        symbols = [line.split()[-1] for line in _run("nm", "-D", "--undefined-only", str(library)).splitlines()]
        stubs = [s for s in symbols if "@" not in s and not s.startswith(("Py", "_Py", "_ITM", "__"))]
        source = Path(folder) / "stubs.c"
        source.write_text("".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in stubs))
        for soname in needed:
            _run("gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", f"{folder}/{soname}", str(source))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": folder}
        answer = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps(CLASSES)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    version, found = json.loads(answer.splitlines()[-1])
    return version, {*found, *(f"{kind}.{name}" for kind, members in found.items() for name in members)}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    recorded = dict(names(wheel) for wheel in sorted(Path(sys.argv[1]).glob("tensorrt*bindings-*.whl")))
    versions = sorted(recorded, key=lambda v: [int(part) for part in v.split(".")[:3]])
    lines = ["\t".join(("name", *versions))]
    for name in sorted(set().union(*recorded.values())):
        lines.append("\t".join((name, *("x" if name in recorded[v] else "" for v in versions))))
    OUT.write_text("\n".join(lines) + "\n")
    print(f"{OUT}: {len(lines) - 1} names of {', '.join(versions)}")


if __name__ == "__main__":
    main()
