"""A source's URI, and how it may be shown. Which there are: edge/capture/build.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# FFmpeg takes everything up to the last @ before the first slash as user and password: so does this.
_USERINFO = re.compile(r"(\w+://)[^/\s]*@")
_SECRET_QUERY = re.compile(r"([?&;]\w*(?:pass|pwd|token|key|secret|auth|user|login)\w*=)[^&;\s]*", re.IGNORECASE)
# Properties of GStreamer's network elements, bare or quoted.
_SECRET_PROPERTY = re.compile(
    r"""(\s(?:(?:user|proxy)-(?:id|pw)|[\w-]*(?:password|passphrase|token|secret)[\w-]*)=)("[^"]*"|'[^']*'|[^\s!]+)""",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Any text with the credentials of every URI in it replaced by ***. For each name, log line, message and record."""
    return _SECRET_PROPERTY.sub(r"\1***", _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text)))


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
