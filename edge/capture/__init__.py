"""Sources of frames and the two ways in which frames reach the loop."""

from edge.capture.build import feed_for, open_source
from edge.capture.feed import EveryFrame, Feed, FeedStats, LatestFrame
from edge.capture.live import RtspSource, V4l2Source
from edge.capture.recorded import FileSource, FramesSource
from edge.capture.source import Source
from edge.capture.uri import SourceUri, parse_uri, redact

__all__ = [
    "EveryFrame", "Feed", "FeedStats", "FileSource", "FramesSource", "LatestFrame", "RtspSource", "Source", "SourceUri",
    "V4l2Source", "feed_for", "open_source", "parse_uri", "redact",
]  # fmt: skip
