"""What OpenCV must be told once, before it opens anything.

Import `cv2` from here in this package. OpenCV reads most of these variables when it is loaded or first opens a source,
and a value that the administrator has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET: FFmpeg would print URIs with their passwords
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # OpenCV's own warnings name the URI too

import cv2  # noqa: E402  (after the environment, on purpose)

# Also when cv2 was loaded before the lines above. OpenCV 4.6 has the one name, 5.0 the other, those between both.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
_set_log_level(0)  # LOG_LEVEL_SILENT

__all__ = ["cv2", "ffmpeg_options"]

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


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
