"""GStreamer pipelines: what is taken and what refused; played by an OpenCV that has GStreamer, where there is one."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from edge.capture import GstSource, open_source
from edge.capture.gst import EXAMPLE, parse_pipeline
from edge.capture.opencv import cv2
from edge.config import CaptureConfig
from edge.errors import ConfigError

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "docs" / "sources.md"
END = "video/x-raw,format=BGR ! appsink"


def documented() -> list[str]:
    return re.findall(r"^ *uri: [\"']?gst:(.*?)[\"']?$", SOURCES.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_documented_pipelines_are_taken() -> None:
    found = documented()
    assert len(found) >= 4
    text = " ".join(found)
    for element in ("nvv4l2camerasrc", "nvv4l2decoder", "nvvidconv", "nvarguscamerasrc"):
        assert element in text
    for pipeline in (*found, EXAMPLE.removeprefix("gst:")):
        parsed = parse_pipeline(pipeline)
        assert parsed.elements[-1] == "appsink" and parsed.text.endswith("drop=true max-buffers=1")


def test_the_newest_picture_only_whatever_was_written() -> None:
    parsed = parse_pipeline(f"videotestsrc ! {END} drop=false max-buffers=30 sync=false")
    assert parsed.text.endswith("appsink sync=false drop=true max-buffers=1")
    assert parsed.changed == ("drop=false became drop=true", "max-buffers=30 became max-buffers=1")


def test_properties_of_other_elements_stay() -> None:
    text = f"srtsrc uri=srt://encoder:9 mode=caller ! identity dump=false ! deinterlace mode=2 ! {END}"
    assert parse_pipeline(text).elements == ("srtsrc", "identity", "deinterlace", "appsink")


def test_quotes_keep_their_exclamation_marks() -> None:
    parsed = parse_pipeline(f'rtspsrc location="rtsp://u:p!w@h/s" ! decodebin ! videoconvert ! {END}')
    assert parsed.elements == ("rtspsrc", "decodebin", "videoconvert", "appsink")
    assert "p!w" not in repr(parsed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        (f"videotestsrc ! identity dump=true ! {END}", "identity with dump=true"),
        (f"srtsrc uri=srt://:9 mode=listener ! decodebin ! {END}", "srtsrc with mode=listener"),
        (f"webrtcsrc ! {END}", "has webrtcsrc"),
        (f"v4l2src ! filesrc location=/x ! {END}", "the source filesrc after its beginning"),
        (f"videotestsrc ! v4l2src ! {END}", "the source v4l2src after its beginning"),
        (f"appsrc ! {END}", "has appsrc"),
        ("videotestsrc", "must end in appsink"),
        (f"videotestsrc ! tee name=t ! {END}", "has tee"),
        (
            f'videotestsrc ! video/x-raw,a="b ! filesink location=/x ! video/x-raw,c=d" ! {END}',
            "a ! within a caps filter",
        ),
        (f"videotestsrc ! filesink location=/x ! {END}", "has filesink"),
        (f"videotestsrc ! udpsink host=h ! {END}", "has udpsink"),
        (f"tcpserversrc ! {END}", "has tcpserversrc"),
        (f"srtserversrc ! {END}", "has srtserversrc"),
        (f"videoconvert ! {END}", "which is no source"),
        (f"videotestsrc ! ! {END}", "nothing on one of its sides"),
        (f"videotestsrc videoconvert ! {END}", "is a ! missing"),
        (f"( videotestsrc ) ! {END}", "one chain"),
        (f"videotestsrc ! t. ! {END}", "one chain"),
        ("videotestsrc ! appsink", "must have video/x-raw"),
        ("videotestsrc ! video/x-raw,format=RGBA ! appsink", "must have video/x-raw,format=BGR"),
        ("videotestsrc ! video/x-raw(memory:NVMM),format=BGR ! appsink", "must have video/x-raw"),
        ("videotestsrc ! video/x-raw,format=BGR ! videoconvert ! appsink", "must have video/x-raw"),
        (f"videotestsrc ! {END} ! appsink", "before its end"),
        (f'videotestsrc name="x ! {END}', "not closed"),
    ],
)
def test_refused_with_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_pipeline(text)


def test_an_opencv_without_gstreamer_says_where_to_get_one() -> None:
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(ConfigError, match="system-site-packages"):
        open_source(f"gst:videotestsrc ! {END}", CaptureConfig())


@lru_cache
def python_with_gstreamer() -> str:
    """A Python whose OpenCV has GStreamer, "" when there is none. Wheels never have; the system's usually has."""
    asking = "import cv2, yaml, cryptography; print(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([python, "-c", asking], capture_output=True, text=True)
        if done.stdout.strip() == "True":
            return python
    return ""


PROGRAM = """
import sys
from edge.capture import open_source
from edge.config import CaptureConfig
from edge.errors import SourceError
source = open_source("gst:" + sys.argv[1], CaptureConfig(read_timeout_s=1))
frames = []
with source:
    try:
        while len(frames) < 5:
            frames.append(source.read())
    except SourceError as error:
        print("lost:", error)
print(source.format, [f.id for f in frames], {f.image.shape for f in frames}, {f.image.dtype.name for f in frames})
"""


def play(pipeline: str) -> str:
    python = python_with_gstreamer()
    if not python:
        pytest.skip(
            "no Python here has an OpenCV with GStreamer (apt install python3-opencv python3-yaml python3-cryptography)"
        )
    done = subprocess.run([python, "-c", PROGRAM, pipeline], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("form", "shape"), [("BGR", "(48, 64, 3)"), ("GRAY8", "(48, 64)")])
def test_a_pipeline_plays(form: str, shape: str) -> None:
    shown = play(
        f"videotestsrc is-live=true ! video/x-raw,width=64,height=48 ! videoconvert ! video/x-raw,format={form} ! appsink"
    )
    assert "GStreamer 64x48" in shown and "[0, 1, 2, 3, 4]" in shown and shape in shown and "uint8" in shown


def test_a_pipeline_that_ends_or_cannot_start_is_lost_and_not_the_end(tmp_path: Path) -> None:
    assert "lost: gst:videotestsrc num-buffers=2" in play(f"videotestsrc num-buffers=2 ! videoconvert ! {END}")
    python = python_with_gstreamer()
    done = subprocess.run(
        [python, "-c", PROGRAM, f"v4l2src device=/dev/video-none ! videoconvert ! {END}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "SourceError" in done.stderr and "gst-launch-1.0" in done.stderr


def test_the_type_of_a_source() -> None:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has no GStreamer")
    assert isinstance(open_source(f"gst:videotestsrc ! {END}", CaptureConfig()), GstSource)
