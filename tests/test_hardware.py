"""A Jetson's own words, from files laid out as on one; any other machine has none of them."""

from __future__ import annotations

from pathlib import Path

from edge.hardware import PowerMode, is_jetson, power_mode, temperatures


def test_a_jetsons_files_are_read(jetson: Path) -> None:
    assert is_jetson(jetson)
    assert temperatures(jetson) == {"tj-thermal": 61.5, 'odd"zone"': 40.0}  # the zone that is off is not there
    assert power_mode(jetson) == PowerMode(2, "25W", {"15W": 0, "MAXN_SUPER": 1})


def test_another_machine_says_nothing(tmp_path: Path) -> None:
    assert not is_jetson(tmp_path) and temperatures(tmp_path) == {} and power_mode(tmp_path) is None


def test_a_mode_without_its_table_keeps_its_number(jetson: Path) -> None:
    (jetson / "etc/nvpmodel.conf").unlink()
    assert power_mode(jetson) == PowerMode(2, "", {})
