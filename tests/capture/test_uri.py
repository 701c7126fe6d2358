"""URIs are understood, or refused with what would be right; credentials are never shown."""

from __future__ import annotations

import pytest

from edge.capture import open_source, parse_uri
from edge.config import CaptureConfig
from edge.errors import ConfigError
from edge.redaction import redact


@pytest.mark.parametrize(
    ("uri", "scheme", "target"),
    [
        ("file:clip.mp4", "file", "clip.mp4"),
        ("file:///data/a%20b.mp4", "file", "/data/a b.mp4"),
        ("v4l2:/dev/v4l/by-id/usb-x", "v4l2", "/dev/v4l/by-id/usb-x"),
        ("RTSP://host/path", "rtsp", "RTSP://host/path"),
        ("phantom:", "phantom", ""),
    ],
)
def test_understood(uri: str, scheme: str, target: str) -> None:
    parsed = parse_uri(uri)
    assert (parsed.scheme, parsed.target) == (scheme, target)


@pytest.mark.parametrize(
    "uri", ["", "clip.mp4", "file:", "v4l2:", "rtsp:/host", "http://u:hunter2@host/x", "phantom:hygroma"]
)
def test_refused_with_what_would_be_right(uri: str) -> None:
    with pytest.raises(ConfigError, match="source.uri") as caught:
        parse_uri(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://nurse:hunter2@10.0.0.9:554/s", "rtsp://***@10.0.0.9:554/s"),
        ("rtsp://nurse:hunt@er2@host/s", "rtsp://***@host/s"),
        ("lost rtsp://hunter2@host/s and http://a:hunter2@b", "lost rtsp://***@host/s and http://***@b"),
        ("rtsp://host/s?user=n&password=hunter2&ch=1", "rtsp://host/s?user=***&password=***&ch=1"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_no_name_or_repr_shows_a_secret() -> None:
    uri = "rtsp://nurse:hunter2@127.0.0.1:9/s"
    for text in (parse_uri(uri).name, repr(parse_uri(uri)), open_source(uri, CaptureConfig()).name):
        assert "hunter2" not in text


def test_live_sources_cannot_be_played_fast_and_phantom_is_not_built_here() -> None:
    with pytest.raises(ConfigError, match="as fast as possible"):
        open_source("v4l2:/dev/video0", CaptureConfig(), fast=True)
    with pytest.raises(ConfigError, match="phantom"):
        open_source("phantom:", CaptureConfig())
