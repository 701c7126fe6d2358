"""GStreamer pipelines: what `gst:PIPELINE` may say. One chain of elements, from a source to an appsink that keeps one frame.

A pipeline is configuration that runs code of every plugin installed, so it is held to what watching needs: nothing that
writes, sends, branches off or lets others connect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edge.errors import ConfigError

EXAMPLE = (
    "gst:v4l2src device=/dev/v4l/by-id/NAME ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
)
FORMATS = ("BGR", "GRAY8")  # the two that OpenCV hands on as they are; others it would give as something else

_CAPS = re.compile(r"[a-z]+/[\w.+-]+")
_NAME = re.compile(r"[A-Za-z][\w-]*")
_PROPERTY = re.compile(r"([A-Za-z][\w:-]*)=(.*)", re.DOTALL)
_PART = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[^!"'])+""")
_TOKEN = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'])+""")
_SOURCE = re.compile(r"src\d*$|^(uri)?decodebin3?$")
_SINK = re.compile(r"sink\d*$")
# Elements that write, send, branch or let others connect without being called a sink.
_REFUSED = frozenset(
    {"tee", "appsrc", "playbin", "playbin3", "camerabin", "encodebin", "encodebin2", "webrtcbin", "webrtcsrc"}
)
_DEVICE = re.compile(r"""\bdevice=["']?(/dev/[^\s"'!]+)""")
_STREAM = re.compile(r"""\blocation=["']?(rtsps?://[^\s"'!]+)""")
_LISTENS = re.compile(r"(server|listen)\w*src$")
# Properties that make harmless elements do so: pixels printed, an SRT source that waits for callers.
_REFUSED_PROPERTY = re.compile(r"""dump=(?!["']?(false|0|no)\b)|mode=["']?(listener|rendezvous|2|3)\b""", re.IGNORECASE)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline. `text` is what GStreamer gets, secrets included; `changed` says what was put right in it."""

    text: str = field(repr=False)
    elements: tuple[str, ...]
    changed: tuple[str, ...] = ()


def parse_pipeline(text: str) -> Pipeline:
    """ConfigError for what is not one chain that ends in an appsink with BGR or GRAY8 before it. Never shows secrets."""
    if not text.strip():
        raise _wrong("is empty")
    parts = [part.strip() for part in _PART.findall(text)]
    leftover = _PART.sub("", text).replace("!", "").strip()
    if leftover:
        raise _wrong(f"has a quote that is not closed, at {leftover[:20]!r}")
    if text.count("!") and (not all(parts) or re.search(r"!\s*!|^\s*!|!\s*$", text)):
        raise _wrong("has a ! with nothing on one of its sides")
    elements: list[str] = []
    caps = ""  # the filter just before the element at hand
    for index, part in enumerate(parts):
        if _CAPS.match(part.strip("\"'")):
            if "!" in part:  # between quotes, which mean nothing to GStreamer there
                raise _wrong("has a ! within a caps filter")
            caps = part
            continue
        name = _element(part)
        _check(name, first=not elements, last=index == len(parts) - 1)
        if name == "appsink":
            _check_caps(caps)
        elements.append(name)
        caps = ""
    if not elements or elements[-1] != "appsink" or caps:
        raise _wrong(f"ends in {elements[-1] if elements and not caps else 'a caps filter'!r}, must end in appsink")
    sink, changed = _newest_only(parts[-1])
    return Pipeline(" ! ".join([*parts[:-1], sink]), tuple(elements), changed)


def _element(part: str) -> str:
    """The name of the element that a part describes; refuses what is not NAME KEY=VALUE ..."""
    name, *properties = _TOKEN.findall(part) or [""]
    if not _NAME.fullmatch(name):
        raise _wrong(
            f"has {name[:40]!r} where an element's name belongs; it must be one chain, without branches or bins"
        )
    for item in properties:
        if not _PROPERTY.fullmatch(item):
            raise _wrong(f"has a word after {name} that is no key=value; is a ! missing?")
        if (name == "srtsrc" or item.startswith("dump")) and _REFUSED_PROPERTY.match(item):
            raise _wrong(f"has {name} with {item}, which is refused: it would print pictures or wait for callers")
    return name


def _check(name: str, first: bool, last: bool) -> None:
    if first and not _SOURCE.search(name):
        raise _wrong(f"begins with {name}, which is no source")
    if not first and name.endswith("src"):
        raise _wrong(f"has the source {name} after its beginning; it must be one chain from one source")
    if name in _REFUSED or _LISTENS.search(name) or (_SINK.search(name) and name != "appsink"):
        raise _wrong(f"has {name}: elements that write, send, branch or let others connect are refused")
    if name == "appsink" and not last:
        raise _wrong("has an appsink before its end")


def _check_caps(caps: str) -> None:
    found = re.search(r"format\s*=\s*(?:\(string\)\s*)?([\w-]+)", caps)
    if not caps.strip("\"'").startswith("video/x-raw") or "memory:" in caps or not found or found[1] not in FORMATS:
        raise _wrong(
            f"must have video/x-raw,format=BGR (or GRAY8) just before its appsink; found {caps[:60] or 'no caps filter'!r}."
            " Put `videoconvert ! video/x-raw,format=BGR` there"
        )


def _newest_only(sink: str) -> tuple[str, tuple[str, ...]]:
    """The appsink with drop=true and max-buffers=1: a queue only makes pictures older."""
    kept, changed = [], []
    for item in _TOKEN.findall(sink)[1:]:
        key, value = _PROPERTY.fullmatch(item).groups()  # type: ignore[union-attr]
        wanted = {"drop": "true", "max-buffers": "1"}.get(key)
        if wanted is None:
            kept.append(item)
        elif value.strip("\"'").lower() not in (wanted, "1"):
            changed.append(f"{key}={value} became {key}={wanted}")
    return " ".join(["appsink", *kept, "drop=true", "max-buffers=1"]), tuple(changed)


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"source.uri: the GStreamer pipeline {what}. It is written like {EXAMPLE}")


def behind_pipeline(pipeline: str) -> str:
    """The device file, or the stream's URI, that a pipeline reads from; "" where it names neither."""
    found = _DEVICE.search(pipeline) or _STREAM.search(pipeline)
    return found[1] if found else ""
