"""Sources of frames and the two ways in which frames reach the loop."""

from edge.capture.build import feed_for, open_source, parse_uri
from edge.capture.camera import V4l2Source
from edge.capture.feed import EveryFrame, Feed, FeedStats, LatestFrame
from edge.capture.images import DicomSource, ImagesSource
from edge.capture.live import GstSource, RtspSource
from edge.capture.recorded import FileSource, FramesSource
from edge.capture.source import Source
from edge.capture.uri import SourceUri

__all__ = [
    "DicomSource", "EveryFrame", "Feed", "FeedStats", "FileSource", "FramesSource", "GstSource", "ImagesSource",
    "LatestFrame", "RtspSource", "Source", "SourceUri", "V4l2Source", "feed_for", "open_source", "parse_uri",
]  # fmt: skip
