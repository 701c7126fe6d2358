"""Installation on a device: the wheels exist for it, and the script leaves what the units expect."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "systemd/install.sh"
PLATFORMS = ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
JETPACKS = {"JetPack 6": "310", "JetPack 7": "312"}


def device_packages():
    spec = importlib.util.spec_from_file_location("device_packages", ROOT / "systemd/device_packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pyproject() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("reads pyproject.toml with tomllib, which Python 3.10 has not")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[str]:
    return pyproject()["project"]["dependencies"]


def pip(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *args], capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def index() -> None:
    """A package index to ask."""
    if pip("download", "-q", "--no-deps", "-d", os.devnull, "--help").returncode:
        pytest.skip("no pip here")
    if pip("install", "--dry-run", "-q", "--no-deps", "--ignore-installed", "--retries", "0", "pyyaml").returncode:
        pytest.skip("no package index can be reached")


@pytest.fixture(scope="module", params=JETPACKS)
def asked(request: pytest.FixtureRequest, index: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """(Python's version on a JetPack, what pip would fetch for it by the documented line, an item a wheel)."""
    version, folder = JETPACKS[request.param], tmp_path_factory.mktemp("pip")
    (line,) = re.findall(r"^ +pip download (.*)$", (ROOT / "docs/install.md").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(line)
    del words[words.index("-d") : words.index("-d") + 2]
    words[words.index("--python-version") + 1] = version
    words.remove(".")  # this folder, which pip would build
    done = pip(
        "install", "--dry-run", "-q", "--ignore-installed", "--target", str(folder / "t"), "--report", str(folder / "r"),
        *words, *requirements(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    platforms = {words[i + 1] for i, word in enumerate(words) if word == "--platform"}
    assert platforms <= {f"{name}_aarch64" for name in PLATFORMS} and "--only-binary=:all:" in words
    return version, json.loads((folder / "r").read_text())["install"]


def test_the_documented_wheels_are_all_that_a_box_without_a_network_asks_for(asked: tuple[str, list[Any]]) -> None:
    there = {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in asked[1]}
    built_with = [Requirement(text) for text in pyproject()["build-system"]["requires"]]
    (onnx,) = (text for text in pyproject()["project"]["optional-dependencies"]["tensorrt"] if "onnx" in text)
    jetson = device_packages().wanted([*requirements(), f'{onnx}; extra == "tensorrt"'], True, True, True)
    assert any(Requirement(text).name == "onnx" for text in jetson)
    for wanted in (*built_with, *map(Requirement, jetson)):
        assert there[canonicalize_name(wanted.name)] in wanted.specifier, wanted


def test_every_dependency_has_a_wheel_for_the_device(asked: tuple[str, list[Any]]) -> None:
    version, items = asked
    assert {canonicalize_name(Requirement(text).name) for text in requirements()} <= {
        canonicalize_name(item["metadata"]["name"]) for item in items
    }
    wheels = [item["download_info"]["url"].rsplit("/", 1)[-1] for item in items]
    assert all(name.endswith((f"cp{version}-{name.split('-')[-1]}", "aarch64.whl", "-any.whl")) for name in wheels)
    compiled = [name for name in wheels if "aarch64" in name]
    assert {name.split("-")[0].lower() for name in compiled} >= {"numpy", "onnxruntime", "pyyaml", "cryptography"}


REQUIRES = [
    "numpy<3,>=1.23",
    "opencv-python-headless<6,>=4.7",
    "pyyaml<7,>=6",
    'torch>=2.4; extra == "toolchain"',
    'onnx<2,>=1.16; extra == "toolchain"',
    'onnx<2,>=1.16; extra == "tensorrt"',
    'tensorrt<12,>=10.3; platform_machine == "x86_64" and extra == "tensorrt"',
]


@pytest.mark.parametrize(
    ("opencv", "numpy_1", "tensorrt", "names"),
    [
        (False, False, False, ["numpy<3,>=1.23", "opencv-python-headless<6,>=4.7", "pyyaml<7,>=6"]),
        (True, True, True, ["numpy>=1.23,<2", "pyyaml<7,>=6", "onnx<2,>=1.16"]),  # JetPack 6
        (True, False, True, ["numpy<3,>=1.23", "pyyaml<7,>=6", "onnx<2,>=1.16"]),
    ],
)
def test_a_jetson_keeps_its_own_opencv_and_tensorrt(
    opencv: bool, numpy_1: bool, tensorrt: bool, names: list[str]
) -> None:
    assert device_packages().wanted(REQUIRES, opencv, numpy_1, tensorrt) == names


def run(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(INSTALL)],
        env={**os.environ, "DESTDIR": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


FAKE_PYTHON = """#!/bin/sh
# A Python whose venvs hold this script; every call is written down.
echo "$@" >>"$CALLS"
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$0" "$4/bin/hygroma"; cp "$0" "$4/bin/register-python-argcomplete"
echo "#!$4/bin/python" >>"$4/bin/hygroma"
exit 0
"""


def test_the_script_leaves_what_the_units_expect(tmp_path: Path) -> None:
    fake, calls, root = tmp_path / "python3", tmp_path / "calls", tmp_path / "root"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    for _ in range(2):  # again, to update: a configuration that is there stays
        done = run(root, PYTHON=str(fake), CALLS=str(calls))
        assert done.returncode == 0, done.stderr
        assert "hygroma doctor" in done.stdout
        assert (root / "etc/hygroma/room1.yaml").read_text().startswith("# hygroma-edge") or "mine" in (
            root / "etc/hygroma/room1.yaml"
        ).read_text()
        (root / "etc/hygroma/room1.yaml").write_text("# mine\n")
    assert (root / "etc/hygroma/room1.yaml").read_text() == "# mine\n"
    units = {p.name for p in (root / "etc/systemd/system").iterdir()}
    assert units == {p.name for p in (ROOT / "systemd").glob("hygroma*@.*")}
    assert (root / "etc/tmpfiles.d/hygroma.conf").is_file() and (root / "etc/udev/rules.d/60-hygroma.rules").is_file()
    assert os.readlink(root / "usr/local/bin/hygroma") == "/opt/hygroma/bin/hygroma"  # docs/install.md calls it by its name
    assert (root / "usr/local/share/man/man1/hygroma.1").read_text() == (ROOT / "systemd/hygroma.1").read_text()
    assert (root / "usr/share/bash-completion/completions/hygroma").is_file()
    in_image = (root / "opt/hygroma/bin/hygroma").read_text()
    assert "#!/opt/hygroma/bin/python" in in_image and str(root) not in in_image
    made = [line for line in calls.read_text().splitlines() if "-m venv" in line]
    assert made == [f"-m venv --system-site-packages {root}/opt/hygroma"]  # once, and it sees the system's packages
    assert f"{root}/opt/hygroma/requirements.txt" in calls.read_text()


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(tmp_path / "root", PYTHON=str(old))
    assert done.returncode == 1 and f"{old}: Python 3.10 or newer is needed" in done.stderr
    assert not (tmp_path / "root").exists()
