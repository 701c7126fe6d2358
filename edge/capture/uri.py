"""Source URIs: what they mean, and how they may be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from edge.capture.gst import parse_pipeline
from edge.capture.pacer import FPS_RANGE
from edge.errors import ConfigError
from edge.redaction import redact

KNOWN = (
    "v4l2:/dev/v4l/by-id/NAME, rtsp://HOST/PATH, gst:PIPELINE, file:clip.mp4, images:FOLDER, dicom:FILE or phantom:"
    " (docs/sources.md)"
)
PATHS = ("file", "v4l2", "images", "dicom")  # schemes whose target is a path

_FPS = re.compile(r"(.*)\?fps=(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class SourceUri:
    """scheme: one of PATHS, rtsp, gst or phantom. target: a path, a pipeline, or for rtsp the whole URI with its secrets;
    because of these it has no repr. fps: the rate given for a folder of images, frames per second."""

    scheme: str
    target: str = field(repr=False)
    fps: float | None = None

    @property
    def name(self) -> str:
        """The URI as it may be shown: without credentials."""
        return redact(self.target if self.scheme == "rtsp" else f"{self.scheme}:{self.target}")


def parse_uri(uri: str) -> SourceUri:
    """ConfigError for anything that is not one of KNOWN. Whether the thing exists is found out on opening it."""
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.lower()
    if not colon:
        hint = f"; for a clip write file:{uri}" if os.path.exists(uri) else ""
        raise ConfigError(f"source.uri: found {redact(uri)!r}, must be like {KNOWN}{hint}")
    if scheme in ("rtsp", "rtsps"):
        if not re.match(r"//[^/\s]+", rest):
            raise ConfigError(f"source.uri: found {redact(uri)!r}, an RTSP source is written rtsp://HOST[:PORT]/PATH")
        return SourceUri("rtsp", uri)
    if scheme == "phantom":
        if rest:
            raise ConfigError(f"source.uri: found {redact(uri)!r}, the phantom takes nothing after the colon: phantom:")
        return SourceUri("phantom", rest)
    if scheme == "gst":
        parse_pipeline(rest)
        return SourceUri("gst", rest)
    if scheme not in PATHS:
        raise ConfigError(f"source.uri: found {redact(uri)!r}, scheme {scheme!r} is not known; use {KNOWN}")
    fps = None
    if scheme == "images" and (found := _FPS.fullmatch(rest)):
        rest, fps = found[1], float(found[2])
        if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
            raise ConfigError(f"source.uri: found fps={fps:g}, must be from {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")
    path = unquote(rest[2:]) if rest.startswith("///") else rest
    if not path:
        raise ConfigError(f"source.uri: found {uri!r}, the path is missing; use {KNOWN}")
    return SourceUri(scheme, path, fps)
