"""Watts, where the board measures them: the INA3221 and INA219 of Jetson boards, through sysfs."""

from __future__ import annotations

import threading
from pathlib import Path

from edge.hardware import read_text

HWMON = Path("/sys/class/hwmon")
PERIOD_S = 0.1  # seconds between readings: the sensor averages over about as long
NAMES = ("ina3221", "ina219", "ina226", "ina238")  # hwmon's names of current and voltage monitors
CHANNELS = 8  # of one monitor at most


def rails(root: Path = HWMON) -> dict[str, tuple[Path, Path]]:
    """Rail -> (millivolt file, milliampere file). Empty where no board monitor is."""
    found = {}
    for folder in sorted(root.glob("hwmon*")):
        if read_text(folder / "name") not in NAMES:
            continue
        for channel in range(1, CHANNELS + 1):
            volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
            if volts.is_file() and amperes.is_file():
                label = read_text(folder / f"in{channel}_label") or f"{folder.name} channel {channel}"
                found[label] = (volts, amperes)
    return found


def read_watts(found: dict[str, tuple[Path, Path]]) -> dict[str, float]:
    """Rail -> Watts now; a rail that cannot be read just now is left out."""
    watts = {}
    for rail, (volts, amperes) in found.items():
        try:
            watts[rail] = int(volts.read_text()) * int(amperes.read_text()) / 1e6
        except (OSError, ValueError):
            continue
    return watts


class PowerMeter:
    """Averages every rail while entered. `watts` afterwards; `absent` says why there are none."""

    def __init__(self, root: Path = HWMON) -> None:
        self._rails = rails(root)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.absent = "" if self._rails else f"no board power monitor under {root} ({', '.join(NAMES)})"

    def __enter__(self) -> PowerMeter:
        if self._rails:
            self._thread = threading.Thread(target=self._watch, name="power", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def watts(self) -> dict[str, float]:
        return {rail: total / self._counts[rail] for rail, total in self._sums.items()}

    def _watch(self) -> None:
        while True:
            for rail, watt in read_watts(self._rails).items():
                self._sums[rail] = self._sums.get(rail, 0.0) + watt
                self._counts[rail] = self._counts.get(rail, 0) + 1
            if self._stop.wait(PERIOD_S):
                return
