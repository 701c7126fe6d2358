"""From a URI to a source, and from a source to the feed that suits it."""

from __future__ import annotations

from pathlib import Path

from edge.capture.camera import V4l2Source
from edge.capture.feed import EveryFrame, Feed, LatestFrame
from edge.capture.gst import parse_pipeline
from edge.capture.images import DicomSource, ImagesSource, open_by_content
from edge.capture.live import GstSource, RtspSource
from edge.capture.source import Source
from edge.capture.uri import parse_uri
from edge.config import CaptureConfig
from edge.errors import ConfigError


def open_source(uri: str, config: CaptureConfig, fast: bool = False) -> Source:
    """The source for a URI, not yet opened. `fast` plays a file as fast as it is read.

    ConfigError for an unknown URI, for `fast` with a live source, for gst: without GStreamer, and for phantom:, which
    lives in `calibration` and is handed in as a FramesSource by the command line.
    """
    parsed = parse_uri(uri)
    if parsed.scheme == "phantom":
        raise ConfigError("source.uri: phantom: is rendered by the command line; use `hygroma run --source phantom:`")
    if parsed.scheme == "file":
        return open_by_content(Path(parsed.target), fast, config.pixel_aspect)
    if parsed.scheme == "images":
        return ImagesSource(parsed.target, parsed.fps, fast, config.pixel_aspect)
    if parsed.scheme == "dicom":
        return DicomSource(parsed.target, fast, config.pixel_aspect)
    if fast:
        raise ConfigError(f"{parsed.name}: a live source cannot be played as fast as possible; leave the flag out")
    if parsed.scheme == "gst":
        return GstSource(parse_pipeline(parsed.target), config)
    return (V4l2Source if parsed.scheme == "v4l2" else RtspSource)(parsed.target, config)


def feed_for(source: Source, config: CaptureConfig) -> Feed:
    """Every frame of a recording played fast, the newest of all that runs in real time."""
    return EveryFrame(source) if source.media_time else LatestFrame(source, config.backoff_max_s, config.stall_s)
