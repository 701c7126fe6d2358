"""On what a figure was taken: machine, clocks, temperatures, versions, bundle, source. "absent": it does not say."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from edge.bundle import Bundle
from edge.hardware import ROOT, power_mode, read_text, temperatures, usable_cores

ABSENT = "absent"
CHECKOUT = Path(__file__).resolve().parents[1]
RUNTIMES = (
    "hygroma-edge", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch", "openvino",
    "nncf", "pillow",
)  # fmt: skip
TOLD_S = 5.0  # seconds for a tool such as nvidia-smi to answer


def fingerprint(bundle: Bundle | None, threads: int, root: Path = ROOT) -> dict[str, Any]:
    """Everything that stays the same during a run. `root` stands for / in tests."""
    return {
        "cpu": cpu(root),
        "board": board(root),
        "nvpmodel": _power_mode(root),
        "gpu": _say(["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]),
        "memory_mb": memory_mb(root),
        "kernel": platform.release(),
        "versions": versions(),
        "threads": threads,
        "bundle": {"label": bundle.label, "sha256": bundle.sha256} if bundle else ABSENT,
        "git": git_state(),
    }


def conditions(root: Path = ROOT) -> dict[str, Any]:
    """What changes while one measures: taken before and after. Temperatures in degrees Celsius, clocks in MHz."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "temperatures_c": temperatures(root) or ABSENT,
        "clocks_mhz": clocks(root) or ABSENT,
        "load_average": [round(x, 2) for x in load] if load else ABSENT,
    }


def cpu(root: Path = ROOT) -> dict[str, Any]:
    """Model, logical cores, those this process may use, vector and other flags, governor of each policy."""
    fields: dict[str, str] = {}
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    arm = " ".join(f"{k} {fields[k]}" for k in ("CPU implementer", "CPU part") if k in fields)
    governors = {read_text(p) for p in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return {
        "model": fields.get("model name") or arm or platform.processor() or ABSENT,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "flags": sorted((fields.get("flags") or fields.get("Features") or "").split()) or ABSENT,
        "governor": ", ".join(sorted(governors)) or ABSENT,
        "virtual": "hypervisor" in (fields.get("flags") or "").split(),
    }


def board(root: Path = ROOT) -> str:
    tree = read_text(root / "proc/device-tree/model").rstrip("\0")
    product = " ".join(
        filter(None, (read_text(root / f"sys/class/dmi/id/{n}") for n in ("sys_vendor", "product_name")))
    )
    tegra = read_text(root / "etc/nv_tegra_release").split("\n")[0]
    return "; ".join(filter(None, (tree, tegra))) or product or ABSENT


def memory_mb(root: Path = ROOT) -> int | str:
    for line in read_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return ABSENT


def clocks(root: Path = ROOT) -> dict[str, float]:
    """Of each core now; on boards without cpufreq what /proc/cpuinfo says."""
    found = {}
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        text = read_text(path)
        if text.isdigit():
            found[path.parts[-3]] = int(text) / 1000
    if not found:
        lines = [
            line.split(":")[1] for line in read_text(root / "proc/cpuinfo").splitlines() if line.startswith("cpu MHz")
        ]
        found = {f"cpu{i}": float(text) for i, text in enumerate(lines)}
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _power_mode(root: Path) -> str:
    mode = power_mode(root)
    return f"{mode.number} {mode.name}".rstrip() if mode else ABSENT


def git_state() -> str:
    """Commit, "+ changes" when the tree differs from it; absent for an installed package."""
    if not (CHECKOUT / ".git").exists():
        return ABSENT
    commit = _say(["git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD"])
    changes = _say(["git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no"])
    return commit if commit == ABSENT or changes in ("", ABSENT) else f"{commit} + changes"


def _say(command: list[str]) -> str:
    """What a tool prints; ABSENT when it is not here or fails."""
    if shutil.which(command[0]) is None:
        return ABSENT
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOLD_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ABSENT
    return " ".join(done.stdout.split())
