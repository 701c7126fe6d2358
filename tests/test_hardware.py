"""A Jetson's own words, from files laid out as on one; any other machine has none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import doctor, hardware
from edge.hardware import PowerMode, is_jetson, power_mode, temperatures


def test_a_jetsons_files_are_read(jetson: Path) -> None:
    assert is_jetson(jetson)
    assert temperatures(jetson) == {"tj-thermal": 61.5, 'odd"zone"': 40.0}  # the zone that is off is not there
    assert power_mode(jetson) == PowerMode(2, "25W", ("15W", "MAXN_SUPER"))


def test_another_machine_says_nothing(tmp_path: Path) -> None:
    assert not is_jetson(tmp_path) and temperatures(tmp_path) == {} and power_mode(tmp_path) is None


def test_a_mode_without_its_table_keeps_its_number(jetson: Path) -> None:
    (jetson / "etc/nvpmodel.conf").unlink()
    assert power_mode(jetson) == PowerMode(2, "", ())


def test_the_doctor_says_hot_and_names_the_mode(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("temperatures", "power_mode", "is_jetson"):
        monkeypatch.setattr(doctor, name, lambda name=name: getattr(hardware, name)(jetson))
    assert doctor._thermal().found == "62 degrees C (tj-thermal)" and doctor._thermal().level == "ok"
    assert "mode 2, 25W" in doctor._power().found and "MAXN_SUPER" in doctor._power().found
    (jetson / "sys/class/thermal/thermal_zone0/temp").write_text("91000\n")
    assert doctor._thermal().level == "warn" and "vents" in doctor._thermal().fix
    (jetson / "var/lib/nvpmodel/status").unlink()
    assert doctor._power().level == "warn"
