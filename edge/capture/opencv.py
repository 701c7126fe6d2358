"""What OpenCV must be told once, before it opens anything.

Import `cv2` from here in this package. OpenCV reads most of these variables when it is loaded or first opens a source,
and a value that the administrator has set stays as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET: FFmpeg would print URIs with their passwords
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # OpenCV's own warnings name the URI too

import cv2  # noqa: E402  (after the environment, on purpose)

from edge.redaction import is_text  # noqa: E402

# Also when cv2 was loaded before the lines above. OpenCV 4.6 has the one name, 5.0 the other, those between both.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
_set_log_level(0)  # LOG_LEVEL_SILENT

__all__ = ["cv2", "ffmpeg_options", "open_file"]

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


def open_file(path: Path) -> cv2.VideoCapture:
    """A clip, opened by FFmpeg. OpenCV 5 crashes on a name that is no UTF-8, so such a clip is opened by another name."""
    path = path.resolve()  # absolute: FFmpeg cannot take a name such as "concat:a|b" for one of its protocols
    if is_text(str(path)):
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    with tempfile.TemporaryDirectory(prefix="hygroma-clip-") as folder:
        link = Path(folder) / f"clip{path.suffix if is_text(path.suffix) else ''}"  # FFmpeg tells some kinds by their ending
        link.symlink_to(path)
        return cv2.VideoCapture(str(link), cv2.CAP_FFMPEG)


@contextmanager
def ffmpeg_options(options: str) -> Iterator[None]:
    """FFmpeg's options for what is opened inside. OpenCV takes them from the environment only, at every opening."""
    given = os.environ.get(OPTIONS)
    if given is not None:
        yield
        return
    os.environ[OPTIONS] = options
    try:
        yield
    finally:
        del os.environ[OPTIONS]
