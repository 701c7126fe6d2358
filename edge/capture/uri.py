"""A source's URI, and how it may be shown. Which there are: edge/capture/build.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.redaction import redact


@dataclass(frozen=True)
class SourceUri:
    """scheme: a key of SCHEMES (edge/capture/build.py). target: a path, a pipeline, or for rtsp the whole URI with its secrets;
    because of these it has no repr. fps: the rate given for a folder of images, frames per second."""

    scheme: str
    target: str = field(repr=False)
    fps: float | None = None

    @property
    def name(self) -> str:
        """The URI as it may be shown: without credentials."""
        return redact(self.target if self.scheme == "rtsp" else f"{self.scheme}:{self.target}")
