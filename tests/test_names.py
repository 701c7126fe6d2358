"""Files whose names are no UTF-8, as old Windows archives leave them: they are scored, watched, and cost no flag."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import FileSource, ImagesSource
from edge.events import EventStore, NewEvent

ROOT = Path(__file__).parents[1]
NAMES = [b"Unters\xfcchung", b"\xff\xfe", "Ωλ-日本".encode(), b"caf\xe9 \xf0\x9f"]


def named(folder: Path, name: bytes, suffix: bytes) -> Path:
    """A path of that name; skips where the file system takes none."""
    path = os.path.join(os.fsencode(folder), name + suffix)
    try:
        with open(path, "wb"):
            pass
    except OSError as error:
        pytest.skip(f"this file system takes no such name ({error.strerror})")
    return Path(os.fsdecode(path))


def clip(folder: Path, name: bytes) -> Path:
    plain = folder / "plain.avi"
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for level in (10, 90, 170):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    path = named(folder, name, b".avi")
    plain.replace(path)
    return path


@pytest.mark.requirement("S-11")
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_played(tmp_path: Path, name: bytes) -> None:
    with FileSource(clip(tmp_path, name), fast=True) as source:
        levels = [round(float(frame.image.mean())) for frame in iter(source.read, None)]
    assert [round(level, -1) for level in levels] == [10, 90, 170]


@pytest.mark.requirement("S-11")
@pytest.mark.parametrize("name", NAMES[:2])
def test_score_prints_such_a_name_on_any_terminal(tmp_path: Path, name: bytes) -> None:
    path = clip(tmp_path, name)
    command = [sys.executable, "-m", "edge", "score", str(path), str(path) + ".none"]
    strict = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, cwd=ROOT, env=strict, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr  # 1: the second is not there
    assert done.stdout.count("frame") == 3 and "no such file" in done.stderr


@pytest.mark.requirement("S-11")
@pytest.mark.parametrize("name", NAMES)
def test_a_flag_from_a_folder_of_such_a_name_is_written(tmp_path: Path, name: bytes) -> None:
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this file system takes no such name ({error.strerror})")
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((48, 64), np.uint8))
    (tmp_path / "x.png").replace(Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".png")))
    with ImagesSource(folder, 5.0, fast=True) as source:
        assert source.read() is not None
    with EventStore(tmp_path / "store") as store:
        flag = NewEvent(1, source.name, 7, time.monotonic_ns(), "2026-11-23T10:00:00+00:00", 0.9, 6.5, "b", b"picture")
        event = store.commit(flag)
        assert store.show(event.id).source.startswith("images:")
