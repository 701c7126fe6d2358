"""The one table of what is a clip."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import edge
from edge import cli
from edge.capture import FileSource
from edge.kinds import CLIPS, DICOMS, HEAD, KNOWN, STILLS, clip_by_content, is_clip
from edge.stills import list_files
from tests.capture.clips import clip, greys, needs_ffmpeg

CLINIC = Path(edge.__file__).parent / "data" / "clinic.mp4"


@pytest.mark.requirement("C-08")
@pytest.mark.parametrize("ending", [*sorted(CLIPS), "", ".upper", ".0001"])
def test_what_run_plays_score_and_folders_take(tmp_path: Path, ending: str) -> None:
    """By the ending; without a known one by the content."""
    path = tmp_path / ("clip" + (ending if ending != ".upper" else ".MP4"))
    shutil.copy(CLINIC, path)
    assert is_clip(path) and list_files(tmp_path) == ([path], [])
    with FileSource(path, fast=True) as source:
        assert source.read() is not None


@pytest.mark.requirement("C-08")
@pytest.mark.parametrize("ending", [".jpg", ".png", ".dcm", ".TIFF", ".bmp", ".doc"])
def test_a_clip_under_a_wrong_ending_is_one_for_run_and_score(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip{ending}"
    shutil.copy(CLINIC, path)
    assert is_clip(path) and list_files(tmp_path) == ([path], [])


@needs_ffmpeg
@pytest.mark.requirement("C-08")
@pytest.mark.parametrize(
    "options",
    [
        ["-c:v", "libx264", "-f", "h264"], ["-c:v", "mpeg2video", "-f", "mpeg2video"], ["-c:v", "libx264", "-f", "mpegts"],
        ["-c:v", "libx264", "-f", "mpegts", "-mpegts_m2ts_mode", "1"], ["-c:v", "mpeg2video", "-f", "mxf"],
        ["-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"], ["-c:v", "libvpx", "-f", "ivf"], ["-c:v", "mpeg4", "-f", "nut"],
        ["-c:v", "mpeg1video", "-f", "vob"], ["-c:v", "wmv2", "-f", "asf"], ["-c:v", "flv1", "-f", "flv"],
        ["-c:v", "libtheora", "-f", "ogg"], ["-c:v", "libx265", "-x265-params", "log-level=none", "-f", "hevc"],
    ],
)  # fmt: skip
def test_what_run_plays_without_an_ending_score_takes(tmp_path: Path, options: list[str]) -> None:
    path = clip(tmp_path / "clip", greys(30), "-pix_fmt", "yuv420p", *options)
    with FileSource(path, fast=True) as source:
        assert source.read() is not None
    assert is_clip(path)


@pytest.mark.requirement("C-08")
@pytest.mark.parametrize("brand", [b"heic", b"avif", b"mif1"])
def test_a_picture_of_a_phone_is_no_clip(brand: bytes) -> None:
    assert clip_by_content(b"\0\0\0\x1cftyp" + brand + bytes(HEAD)) == ""


@pytest.mark.requirement("C-08")
def test_an_ending_is_of_one_kind_and_the_help_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert not CLIPS & STILLS and not CLIPS & DICOMS and not STILLS & DICOMS and {".vob", ".wmv", ".mp4"} <= CLIPS
    for command, endings in (("score", KNOWN), ("run", CLIPS | STILLS)):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        words = capsys.readouterr().out.replace(";", " ").replace(",", " ").split()
        assert endings <= {word.rstrip(".") for word in words}


@pytest.mark.parametrize("content", [b"", b"text " * 300, b"\x89PNG\r\n\x1a\n" + bytes(900), b"\xff\xd8\xff", b"\0" * HEAD])
def test_what_is_no_clip_is_none(tmp_path: Path, content: bytes) -> None:
    assert clip_by_content(content) == ""
    path = tmp_path / "notes"
    path.write_bytes(content)
    assert not is_clip(path) and list_files(tmp_path) == ([], [])
