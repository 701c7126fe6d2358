"""Sessions as files: H.264 video beside a `session.json` that says what is in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from calibration.phantom.exam import render_session
from calibration.phantom.records import SCREEN_H, SCREEN_W, ExamSpec, PhantomExam
from edge.errors import InputError

CRF = 22  # x264's constant quality: speckle still looks like speckle, and a minute fits the repository
MAX_GOP = 1000  # frames: a key frame changes every pixel a little, and a frozen screen must stay frozen
SCHEMA = 1  # of session.json


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, *, crf: int = CRF, preset: str = "medium") -> int:
    """Encode uint8 BGR [720,1280,3] frames with libx264, yuv420p; returns how many. Needs `ffmpeg` on the PATH."""
    command = [
        "ffmpeg",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        "-s",
        f"{SCREEN_W}x{SCREEN_H}",
        "-r",
        str(fps),
        "-i",
        "-",
        "-an",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-crf",
        str(crf),
        "-preset",
        preset,
        "-g",
        str(MAX_GOP),
        "-threads",
        "1",
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-movflags",
        "+faststart",
        str(path),
    ]
    if shutil.which(command[0]) is None:
        raise InputError(f"{path}: cannot be written without ffmpeg, which is not on the PATH: `apt install ffmpeg`")
    count = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None and encoder.stderr is not None
        try:
            for frame in frames:
                encoder.stdin.write(np.ascontiguousarray(frame).data)
                count += 1
            encoder.stdin.close()
        except BrokenPipeError:
            pass  # the encoder's own words follow
        message = encoder.stderr.read().decode(errors="replace").strip()
    if encoder.returncode:
        raise InputError(f"{path}: ffmpeg failed with exit code {encoder.returncode}: {message}")
    return count


def write_session(folder: Path, specs: list[ExamSpec], *, crf: int = CRF, preset: str = "medium") -> list[PhantomExam]:
    """Write `clinic.mp4` and `session.json` for a session; returns what the JSON says."""
    folder.mkdir(parents=True, exist_ok=True)
    spans: dict[int, list[int]] = {}

    def images() -> Iterator[np.ndarray]:
        for number, frame in render_session(specs):
            if number is not None:
                spans.setdefault(number, [frame.index, frame.index])[1] = frame.index
            yield frame.image

    total = write_video(folder / "clinic.mp4", images(), specs[0].fps, crf=crf, preset=preset)
    exams = [
        PhantomExam(s.name, s.truth, s.seed, s.fps, None if s.nt_mm is None else round(s.nt_mm, 2), s.fan, *spans[i])
        for i, s in enumerate(specs)
    ]
    session = {
        "schema": SCHEMA,
        "kind": "phantom",
        "fps": specs[0].fps,
        "frames": total,
        "width": SCREEN_W,
        "height": SCREEN_H,
        "exams": [asdict(exam) for exam in exams],
    }
    (folder / "session.json").write_text(json.dumps(session, indent=1) + "\n", encoding="utf-8")
    return exams
