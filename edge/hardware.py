"""What a machine says of itself: how warm it is, its cores, and on a Jetson which power mode it runs in."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
THROTTLE_C = 85.0  # degrees Celsius: Jetson modules begin to throttle in the nineties
VNNI = {"avx512_vnni", "avx_vnni"}  # as Linux names them in /proc/cpuinfo
_MODE = re.compile(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)")


@dataclass(frozen=True)
class PowerMode:
    """A Jetson's power mode. name: as in nvpmodel.conf ("MAXN", "15W"), "" when that file does not tell; others: the modes that
    this module has besides, name -> number."""

    number: int
    name: str
    others: dict[str, int]


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Thermal zone -> degrees Celsius; empty where no zone can be read. Zones of one name are told apart by their number."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = read_text(zone / "temp")
        if text.lstrip("-").isdigit():  # a zone that is switched off cannot be read
            name = read_text(zone / "type") or zone.name
            found[name if name not in found else f"{name} {zone.name}"] = int(text) / 1000
    return found


def is_jetson(root: Path = ROOT) -> bool:
    return (root / "etc/nv_tegra_release").exists()


def power_mode(root: Path = ROOT) -> PowerMode | None:
    """None where there is no nvpmodel, or nothing says which mode is on."""
    status = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if status is None:
        return None
    modes = {int(number): name for number, name in _MODE.findall(read_text(root / "etc/nvpmodel.conf"))}
    number = int(status.group(1))
    return PowerMode(number, modes.get(number, ""), {name: key for key, name in modes.items() if key != number})


def cpu_flags(cpuinfo: Path = ROOT / "proc/cpuinfo") -> set[str]:
    """What every listed core can do, in Linux's words; empty where that cannot be read."""
    lines = (line.partition(":") for line in read_text(cpuinfo).splitlines())
    flags = [set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")]  # x86, ARM
    return set.intersection(*flags) if flags else set()


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_text(path: Path) -> str:
    """A small file of /proc or /sys; "" when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
