"""The schemes of source URIs, one row each: from a URI to a source, and from a source to the feed that suits it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

from edge.capture import live
from edge.capture.camera import V4l2Source
from edge.capture.feed import EveryFrame, Feed, LatestFrame
from edge.capture.gst import behind_pipeline, parse_pipeline
from edge.capture.images import DicomSource, ImagesSource, open_by_content
from edge.capture.live import GstSource, RtspSource
from edge.capture.pacer import FPS_RANGE
from edge.capture.source import Source
from edge.capture.uri import SourceUri
from edge.config import CaptureConfig
from edge.errors import ConfigError
from edge.redaction import redact

_FPS = re.compile(r"(.*)\?fps=(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Scheme:
    """example: as help and errors show it. parse(uri, what follows the colon): ConfigError where it is written wrongly.
    open(parsed, config, fast): the source, not yet opened; None for one that the command line makes. live: a camera or a stream,
    which cannot be played fast. behind: the device file or the stream's URI that `hygroma doctor` asks for, "" where it cannot
    know one; a recording it opens. needs: raises what is missing where an optional part is."""

    example: str
    parse: Callable[[str, str], SourceUri]
    open: Callable[[SourceUri, CaptureConfig, bool], Source] | None
    live: bool = False
    behind: Callable[[SourceUri], str] = lambda parsed: ""
    needs: Callable[[], object] = lambda: None


def _target(parsed: SourceUri) -> str:
    return parsed.target


def _path(uri: str, rest: str) -> SourceUri:
    scheme = uri.partition(":")[0].lower()
    path = unquote(rest[2:]) if rest.startswith("///") else rest
    if not path:
        raise ConfigError(f"source.uri: found {uri!r}, the path is missing; use {KNOWN}")
    return SourceUri(scheme, path)


def _images(uri: str, rest: str) -> SourceUri:
    found = _FPS.fullmatch(rest)
    if found is None:
        return _path(uri, rest)
    fps = float(found[2])
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise ConfigError(f"source.uri: found fps={fps:g}, must be from {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")
    return SourceUri("images", _path(uri, found[1]).target, fps)


def _rtsp(uri: str, rest: str) -> SourceUri:
    if not re.match(r"//[^/\s]+", rest):
        raise ConfigError(f"source.uri: found {redact(uri)!r}, an RTSP source is written rtsp://HOST[:PORT]/PATH")
    return SourceUri("rtsp", uri)


def _gst(uri: str, rest: str) -> SourceUri:
    parse_pipeline(rest)
    return SourceUri("gst", rest)


def _phantom(uri: str, rest: str) -> SourceUri:
    if rest:
        raise ConfigError(f"source.uri: found {redact(uri)!r}, the phantom takes nothing after the colon: phantom:")
    return SourceUri("phantom", rest)


SCHEMES: Mapping[str, Scheme] = {
    "v4l2": Scheme(
        "v4l2:/dev/v4l/by-id/NAME", _path, lambda it, config, fast: V4l2Source(it.target, config), live=True, behind=_target
    ),
    "rtsp": Scheme("rtsp://HOST/PATH", _rtsp, lambda it, config, fast: RtspSource(it.target, config), live=True, behind=_target),
    "gst": Scheme(
        "gst:PIPELINE", _gst, lambda it, config, fast: GstSource(parse_pipeline(it.target), config), live=True,
        behind=lambda it: behind_pipeline(it.target), needs=lambda: live.require_gstreamer(),
    ),
    "file": Scheme("file:clip.mp4", _path, lambda it, config, fast: open_by_content(Path(it.target), fast, config.pixel_aspect)),
    "images": Scheme(
        "images:FOLDER", _images, lambda it, config, fast: ImagesSource(it.target, it.fps, fast, config.pixel_aspect)
    ),
    "dicom": Scheme("dicom:FILE", _path, lambda it, config, fast: DicomSource(it.target, fast, config.pixel_aspect)),
    "phantom": Scheme("phantom:", _phantom, None, needs=partial(import_module, "calibration.phantom")),
}  # fmt: skip
ALIASES = {"rtsps": "rtsp"}
*_FIRST, _LAST = (scheme.example for scheme in SCHEMES.values())
KNOWN = f"{', '.join(_FIRST)} or {_LAST} (docs/sources.md)"


def parse_uri(uri: str) -> SourceUri:
    """ConfigError for anything that is not one of KNOWN. Whether the thing exists is found out on opening it."""
    name, colon, rest = uri.partition(":")
    name = name.lower()
    if not colon:
        hint = f"; for a clip write file:{uri}" if os.path.exists(uri) else ""
        raise ConfigError(f"source.uri: found {redact(uri)!r}, must be like {KNOWN}{hint}")
    scheme = SCHEMES.get(ALIASES.get(name, name))
    if scheme is None:
        raise ConfigError(f"source.uri: found {redact(uri)!r}, scheme {name!r} is not known; use {KNOWN}")
    return scheme.parse(uri, rest)


def open_source(uri: str, config: CaptureConfig, fast: bool = False) -> Source:
    """The source for a URI, not yet opened. `fast` plays a file as fast as it is read.

    ConfigError for an unknown URI, for `fast` with a live source, for gst: without GStreamer, and for phantom:, which
    lives in `calibration` and is handed in as a FramesSource by the command line.
    """
    parsed = parse_uri(uri)
    scheme = SCHEMES[parsed.scheme]
    if scheme.open is None:
        raise ConfigError("source.uri: phantom: is rendered by the command line; use `hygroma run --source phantom:`")
    if fast and scheme.live:
        raise ConfigError(f"{parsed.name}: a live source cannot be played as fast as possible; leave the flag out")
    return scheme.open(parsed, config, fast)


def feed_for(source: Source, config: CaptureConfig) -> Feed:
    """Every frame of a recording played fast, the newest of all that runs in real time."""
    return EveryFrame(source) if source.media_time else LatestFrame(source, config.backoff_max_s, config.stall_s)
