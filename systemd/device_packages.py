"""Which packages the device part needs from pip here: one a line, for `pip install -r`. Run by install.sh, in its venv.

Left out: OpenCV where the system has one with GStreamer. Added: NumPy below 2 where the system's OpenCV was built for NumPy 1 (it
does not load beside 2), and `onnx` where there is a TensorRT to derive FP16 graphs for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from pip._vendor.packaging.requirements import Requirement

OPENCV = "opencv-python-headless"
CV2_NUMPY_1 = "numpy>=1.23,<2"


def wanted(requires: Iterable[str], system_opencv: bool, numpy_1: bool, tensorrt: bool) -> list[str]:
    """requires: of the installed hygroma-edge, extras included. system_opencv: the system's cv2 has GStreamer; numpy_1: and
    was built for NumPy 1; tensorrt: the system has one."""
    out = []
    for text in requires:
        requirement = Requirement(text)
        of_device = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        derives = tensorrt and requirement.name == "onnx"
        if not of_device and not derives or system_opencv and requirement.name == OPENCV:
            continue
        line = f"{requirement.name}{requirement.specifier}"
        if requirement.name == "numpy" and numpy_1:
            line = CV2_NUMPY_1
        if line not in out:
            out.append(line)
    return out


def _system_opencv() -> tuple[bool, bool]:
    """Whether the system's OpenCV has GStreamer, and whether it was built for NumPy 1."""
    try:
        importlib.metadata.version(OPENCV)
        return False, False  # a wheel: an earlier run of install.sh put it there
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        import cv2
        import numpy
    except Exception:  # none, or one that does not load
        return False, False
    lines = [line for line in cv2.getBuildInformation().splitlines() if "GStreamer:" in line]
    return any("YES" in line for line in lines), numpy.__version__.startswith("1.")


def _has(name: str) -> bool:
    try:
        __import__(name)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    print("\n".join(wanted(importlib.metadata.requires("hygroma-edge") or [], *_system_opencv(), _has("tensorrt"))))
