"""From a URI to a source, and from a source to the feed that suits it."""

from __future__ import annotations

from edge.capture.feed import EveryFrame, Feed, LatestFrame
from edge.capture.live import RtspSource, V4l2Source
from edge.capture.recorded import FileSource
from edge.capture.source import Source
from edge.capture.uri import parse_uri
from edge.config import CaptureConfig
from edge.errors import ConfigError


def open_source(uri: str, config: CaptureConfig, fast: bool = False) -> Source:
    """The source for a URI, not yet opened. `fast` plays a file as fast as it is read.

    ConfigError for an unknown URI, for `fast` with a live source, and for phantom:, which lives in `calibration` and is
    handed in as a FramesSource by the command line.
    """
    parsed = parse_uri(uri)
    if parsed.scheme == "phantom":
        raise ConfigError("source.uri: phantom: is rendered by the command line; use `hygroma run --source phantom:`")
    if parsed.scheme == "file":
        return FileSource(parsed.target, fast)
    if fast:
        raise ConfigError(f"{parsed.name}: a live source cannot be played as fast as possible; leave the flag out")
    return (V4l2Source if parsed.scheme == "v4l2" else RtspSource)(parsed.target, config)


def feed_for(source: Source, config: CaptureConfig) -> Feed:
    """Every frame of a recording played fast, the newest of all that runs in real time."""
    return EveryFrame(source) if source.media_time else LatestFrame(source, config.backoff_max_s)
