"""The fingerprint and the power meter over a made-up /sys and /proc."""

from __future__ import annotations

from pathlib import Path

from benchmarks.environment import ABSENT, board, clocks, conditions, cpu, fingerprint, memory_mb
from benchmarks.power import PowerMeter, rails, read_watts


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


JETSON = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/meminfo": "MemTotal:        7802532 kB\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=2 NAME=MAXN >\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\nmore",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "48593\n",
    "sys/class/thermal/thermal_zone1/type": "broken",
    "sys/class/thermal/thermal_zone1/temp": "",
}


def test_a_jetson_is_recognised(tmp_path: Path) -> None:
    put(tmp_path, JETSON)
    found = cpu(tmp_path)
    assert found["model"] == "CPU implementer 0x41 CPU part 0xd42" and found["flags"] == ["asimd", "asimddp", "fp"]
    assert found["governor"] == "performance, schedutil" and not found["virtual"]
    assert board(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit; # R36 (release), REVISION: 4.0"
    assert conditions(tmp_path)["temperatures_c"] == {"cpu-thermal": 48.593}
    assert fingerprint(None, 1, tmp_path)["nvpmodel"] == "2 MAXN"
    assert clocks(tmp_path) == {"cpu0": 1510.4} and memory_mb(tmp_path) == 7619


def test_what_a_machine_does_not_say_is_absent(tmp_path: Path) -> None:
    assert conditions(tmp_path)["temperatures_c"] == ABSENT and conditions(tmp_path)["clocks_mhz"] == ABSENT
    assert board(tmp_path) == ABSENT and memory_mb(tmp_path) == ABSENT and cpu(tmp_path)["governor"] == ABSENT


def test_the_fingerprint_names_bundle_versions_and_source() -> None:
    found = fingerprint(None, 2)
    assert found["bundle"] == ABSENT and found["threads"] == 2
    assert {"python", "sqlite", "numpy", "onnxruntime"} <= set(found["versions"])


INA = {
    "hwmon0/name": "tmp451\n",
    "hwmon0/in1_input": "1\n",
    "hwmon1/name": "ina3221\n",
    "hwmon1/in1_label": "VDD_IN\n",
    "hwmon1/in1_input": "5000\n",
    "hwmon1/curr1_input": "1200\n",
    "hwmon1/in2_label": "VDD_SOC\n",
    "hwmon1/in2_input": "5000\n",
    "hwmon1/curr2_input": "garbage\n",
    "hwmon1/in3_input": "5000\n",  # a channel without a current
}


def test_watts_come_from_the_boards_monitor(tmp_path: Path) -> None:
    put(tmp_path, INA)
    assert set(rails(tmp_path)) == {"VDD_IN", "VDD_SOC"} and read_watts(rails(tmp_path)) == {"VDD_IN": 6.0}
    with PowerMeter(tmp_path) as meter:
        pass
    assert meter.watts == {"VDD_IN": 6.0} and meter.absent == ""


def test_without_a_monitor_watts_are_absent_and_said_to_be(tmp_path: Path) -> None:
    with PowerMeter(tmp_path) as meter:
        pass
    assert meter.watts == {} and "no board power monitor" in meter.absent
