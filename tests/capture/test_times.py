"""Each picture's own time, and what a container says of its wholeness."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clips import clip, ffmpeg, greys, needs_ffmpeg
from dicoms import cine_of
from hypothesis import given
from hypothesis import strategies as st

from edge.capture import FileSource, open_source
from edge.capture.container import broken_inside, cut_off, is_trimmed
from edge.capture.pacer import PAUSE_MAX_S, ClipTimes
from edge.config import CaptureConfig
from edge.decision import DecisionParams
from edge.decision.exam import Exam
from edge.records import Fan, Reading, Scores, Signal

COUNT = 42
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"]
CODECS = {
    ".mp4": H264, ".mov": H264, ".mkv": H264, ".ts": H264, ".flv": H264, ".webm": ["-c:v", "libvpx", "-deadline", "realtime"],
    ".avi": ["-c:v", "mpeg4", "-q:v", "3"], ".wmv": ["-c:v", "wmv2", "-q:v", "3"],
}  # fmt: skip
PAUSES = {"short": {10: 0.2, 25: 0.12}, "long": {17: 6.0, 29: 9.0}, "last": {40: 2.0}, "many": {n: 0.4 for n in range(3, 40, 4)}}


def with_pauses(path: Path, pauses: dict[int, float], *options: str) -> Path:
    """COUNT pictures at 25 a second; after picture n, nothing new for so many seconds: no picture is written, as screen
    recorders do."""
    late = "+".join(f"{seconds}*gt(N\\,{n})" for n, seconds in pauses.items())
    return clip(path, greys(COUNT), "-vf", f"setpts=round((N/25+{late})/TB)", "-vsync", "vfr", *options)


def wanted_ms(pauses: dict[int, float]) -> list[int]:
    return [40 + round(1000 * pauses.get(n, 0)) for n in range(COUNT - 1)]


def played(uri: str) -> tuple[list[int], int, str]:
    """(milliseconds between pictures, decode errors, what the source says of itself)"""
    with open_source(uri, CaptureConfig(), fast=True) as source:
        stamps = [frame.t_mono_ns for frame in iter(source.read, None) if frame]
        return [round((b - a) / 1e6) for a, b in pairwise(stamps)], source.decode_errors, source.format


@needs_ffmpeg
@pytest.mark.requirement("C-02", "C-03")
@pytest.mark.parametrize("pauses", PAUSES.values(), ids=PAUSES)
@pytest.mark.parametrize("ending", CODECS)
def test_pauses_are_as_long_as_they_were_and_no_damage(
    tmp_path: Path, ending: str, pauses: dict[int, float], caplog: pytest.LogCaptureFixture
) -> None:
    path = with_pauses(tmp_path / f"x{ending}", pauses, *CODECS[ending])
    steps, errors, said = played(f"file:{path}")
    assert len(steps) == COUNT - 1 and np.abs(np.array(steps) - wanted_ms(pauses)).max() <= 1
    assert errors == 0 and "guessed" not in said and caplog.text == ""


def evidence(stamps_ns: list[int]) -> list[float]:
    """Of sure pictures at these times."""
    exam, scores = Exam(DecisionParams()), Scores(1.0, 0.9, 0.0, np.zeros((2, 2), np.float32))
    fan = Fan("full", (0, 0, 4, 4))
    return [exam.step(Reading(n, t, Signal.OK, fan), scores).evidence for n, t in enumerate(stamps_ns)]


@needs_ffmpeg
@pytest.mark.requirement("C-02")
@pytest.mark.parametrize("ending", [".mp4", ".webm", ".avi"])
def test_evidence_is_what_the_times_entail(tmp_path: Path, ending: str) -> None:
    pauses = PAUSES["long"]
    path = with_pauses(tmp_path / f"x{ending}", pauses, *CODECS[ending])
    with FileSource(path, fast=True) as source:
        stamps = [frame.t_mono_ns for frame in iter(source.read, None) if frame]
    ideal = np.cumsum([0, *wanted_ms(pauses)]) * 1_000_000
    assert evidence(stamps) == pytest.approx(evidence(ideal.tolist()))
    assert evidence(stamps)[-1] < 0.8 * evidence([400_000_000 * n for n in range(COUNT)])[-1]  # index / average rate


@needs_ffmpeg
@pytest.mark.requirement("C-02")
def test_at_its_own_pace_a_pause_is_waited_for(tmp_path: Path) -> None:
    path = with_pauses(tmp_path / "x.mp4", {5: 0.5}, *H264)
    with FileSource(path) as source:
        stamps = [frame.t_mono_ns for frame in (source.read() for _ in range(8)) if frame]
    assert (stamps[6] - stamps[5]) / 1e6 >= 530 and (stamps[5] - stamps[4]) / 1e6 < 300


@needs_ffmpeg
@pytest.mark.requirement("C-02")
@pytest.mark.parametrize(("name", "options"), [("x.264", ["-f", "h264"]), ("x.ts", [])])
def test_missing_times_and_two_recordings_in_one_file_follow_by_the_rate_and_are_said(
    tmp_path: Path, name: str, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    part = clip(tmp_path / name, greys(20), *H264, *options)
    part.write_bytes(part.read_bytes() * 2)
    steps, errors, said = played(f"file:{part}")
    assert steps == [40] * 39 and errors == 0
    assert ("times by the frame rate" if name == "x.264" else "1 times guessed") in said
    assert caplog.text.count("no time of its own") == 1


@needs_ffmpeg
@pytest.mark.requirement("C-03")
@pytest.mark.parametrize("ending", [".mkv", ".mp4", ".avi", ".ts", ".mov", ".wmv"])
def test_a_longer_sound_track_is_no_damage(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    sound = ["-f", "lavfi", "-i", "sine=d=4", "-map", "0:v", "-map", "1:a"]
    path = clip(tmp_path / f"x{ending}", greys(30), *sound, *CODECS[ending])
    steps, errors, _ = played(f"file:{path}")
    assert steps[1:] == [40] * 28 and errors == 0 and caplog.text == ""  # AVI: sound may shift the first picture


@needs_ffmpeg
@pytest.mark.requirement("C-03")
@pytest.mark.parametrize("frames", ["3", "0"])
@pytest.mark.parametrize("start", ["0.2", "0.52", "0.9"])
def test_a_trim_is_no_damage(tmp_path: Path, start: str, frames: str, caplog: pytest.LogCaptureFixture) -> None:
    options = ["-c:v", "libx264", "-bf", frames, "-g", "12", "-pix_fmt", "yuv420p"]
    whole = with_pauses(tmp_path / "whole.mp4", PAUSES["short"], *options)
    assert not is_trimmed(whole)
    path = tmp_path / "x.mp4"
    ffmpeg([np.zeros((2, 2, 3), np.uint8)], "-ss", start, "-i", str(whole), "-map", "1:v", "-c", "copy", str(path))
    steps, errors, _ = played(f"file:{path}")
    assert 10 < len(steps) < COUNT and errors == 0 and caplog.text == ""


@needs_ffmpeg
@pytest.mark.requirement("C-03")
@pytest.mark.parametrize("part", [0.85, 0.6])
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_a_clip_that_is_cut_off_is_told_with_and_without_pauses(tmp_path: Path, ending: str, part: float) -> None:
    front = ["-movflags", "+faststart"] if ending in (".mp4", ".mov") else []
    for pauses in ({0: 0.0}, PAUSES["long"]):
        path = with_pauses(tmp_path / f"x{ending}", pauses, *CODECS[ending], *front)
        assert cut_off(path) == "" and not broken_inside(path)
        path.write_bytes(path.read_bytes()[: round(part * path.stat().st_size)])
        steps, errors, _ = played(f"file:{path}")
        assert len(steps) < COUNT and errors >= 1 and "are there" in cut_off(path)


# Of each ending, an encoder that is quick and what else its container wants.
PIECES = {
    ".flv": ["-c:v", "flv1"], ".wmv": ["-c:v", "wmv2"], ".ogv": ["-c:v", "libtheora"], ".ts": ["-c:v", "mpeg2video"],
    ".vob": ["-c:v", "mpeg2video"], ".mpg": ["-c:v", "mpeg1video"], ".mts": ["-c:v", "mpeg2video", "-mpegts_m2ts_mode", "1"],
}  # fmt: skip


@needs_ffmpeg
@pytest.mark.requirement("C-03")
@pytest.mark.parametrize("ending", PIECES)
def test_a_cut_within_a_piece_of_a_stream_is_told(tmp_path: Path, ending: str) -> None:
    path = clip(tmp_path / f"x{ending}", greys(COUNT, 320, 240), "-pix_fmt", "yuv420p", "-q:v", "2", *PIECES[ending])
    whole = path.read_bytes()
    assert cut_off(path) == "" and not broken_inside(path)
    for part in (0.35, 0.6, 0.95):
        told = []
        for at in range(round(part * len(whole)), round(part * len(whole)) + 3):
            path.write_bytes(whole[:at])
            told.append("are there" in cut_off(path))
        assert sum(told) >= 2, f"{part}: one of the three may lie between two pieces"


@needs_ffmpeg
@pytest.mark.requirement("C-03")
def test_two_transport_streams_joined_are_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Recorders begin a new file every few minutes, and people join them."""
    first = with_pauses(tmp_path / "a.ts", PAUSES["long"], *CODECS[".ts"])
    later = with_pauses(tmp_path / "b.ts", {0: 0.0}, *CODECS[".ts"], "-output_ts_offset", "30")
    for name, parts in (("ab.ts", (first, later)), ("ba.ts", (later, first)), ("aa.ts", (first, first))):
        path = tmp_path / name
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        steps, errors, _ = played(f"file:{path}")
        assert len(steps) == 2 * COUNT - 1 and errors == 0 and not broken_inside(path), name
    assert "could not be decoded" not in caplog.text


@needs_ffmpeg
@pytest.mark.parametrize("ending", [".mkv", ".ts"])
def test_a_container_that_is_broken_inside_is_told(tmp_path: Path, ending: str) -> None:
    path = clip(tmp_path / f"x{ending}", greys(COUNT), *H264)
    data = path.read_bytes()
    assert not broken_inside(path)
    if ending == ".ts":  # ten packets of the middle are not there
        middle = len(data) // 2 // 188 * 188
        path.write_bytes(data[:middle] + data[middle + 10 * 188 :])
    else:
        block = data.index(b"\xa3", len(data) // 2)
        path.write_bytes(data[:block] + b"\x00" * 40 + data[block + 40 :])
    assert broken_inside(path)


def test_a_container_that_never_says_its_length_is_not_cut_off(tmp_path: Path) -> None:
    """Recorders that were never closed, and rubbish: nothing is claimed, and nothing raised."""
    live = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" + b"\x00" * 50
    avi = b"RIFF\0\0\0\0AVI " + b"\0" * 50
    endless = struct.pack(">I4s", 16, b"ftyp") + b"\0" * 8 + struct.pack(">I4s", 0, b"mdat") + b"\0" * 99
    for content in (live, avi, endless, b"", b"\x1a\x45\xdf\xa3", b"\0\0\0\x01ftyp", b"RIFF", b"\x47" * 940):
        path = tmp_path / "x"
        path.write_bytes(content)
        assert cut_off(path) == "" and not is_trimmed(path)
        broken_inside(path)


@given(
    st.binary(max_size=300),
    st.sampled_from([
        b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftyp", b"RIFF\xff\0\0\0AVI ", b"\x47", b"\0\0\0\x08moov", b"FLV\x01", b"OggS",
        b"\0\0\1\xba", b"\x30\x26\xb2\x75",
    ]),  # fmt: skip
)
def test_no_bytes_make_it_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(head + content)
    cut_off(path), broken_inside(path), is_trimmed(path)


STEP = st.sampled_from([0.01, 0.04, 0.04, 0.04, 0.5, 9.0])


@given(steps=st.lists(STEP, min_size=1, max_size=40), start=st.floats(-1e6, 1e6))
def test_times_that_are_there_are_taken_as_they_are(steps: list[float], start: float) -> None:
    times, stamps = ClipTimes("x", 25), np.cumsum([0.0, *steps])
    found = [times.at(1000 * (start + stamp)) for stamp in stamps]
    assert found == pytest.approx(stamps.tolist(), abs=1e-6 + 1e-9 * abs(start) * len(steps)) and times.guessed == 0


@given(st.lists(st.one_of(st.floats(), st.sampled_from([0.0, 40.0, 80.0, -1e15, 1e15, float("nan")])), min_size=2, max_size=60))
def test_whatever_the_stamps_time_goes_on_and_no_gap_is_absurd(stamps: list[float]) -> None:
    times = ClipTimes("x", 25)
    found = [times.at(stamp) for stamp in stamps]
    assert all(0 < b - a <= PAUSE_MAX_S + 1e-3 for a, b in pairwise(found))


def test_one_wrong_time_does_not_shift_the_rest() -> None:
    right = [40.0 * n for n in range(50)]
    for wrong in (right[19], right[18]):  # repeated, and out of order
        times = ClipTimes("x", 25)
        found = [times.at(wrong if n == 20 else stamp) for n, stamp in enumerate(right)]
        assert found[21:] == pytest.approx([stamp / 1000 for stamp in right[21:]]) and times.guessed == 1


@pytest.mark.requirement("C-02")
def test_frames_of_a_cine_have_their_own_times(tmp_path: Path) -> None:
    path = tmp_path / "cine.dcm"
    images = [np.full((48, 64, 3), 20 * n, np.uint8) for n in range(4)]
    cine_of("grey", path, images, FrameTimeVector=[0, 40, 2000, 60])
    assert played(f"dicom:{path}")[0] == [40, 2000, 60]
    for broken in ([0, 40, 2000], [0, 40, -5, 60], [0, 40, 1e9, 60]):
        cine_of("grey", path, images, FrameTimeVector=broken, CineRate=20)
        assert played(f"dicom:{path}")[0] == [50, 50, 50]
