"""What OpenCV must be told once, before it opens anything.

Import `cv2` from here in this package. OpenCV reads most of these variables when it is loaded or first opens a source,
and a value that the administrator has set stays as it is.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET: FFmpeg would print URIs with their passwords
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # OpenCV's own warnings name the URI too
os.environ.setdefault(
    "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1"
)  # seconds, 10 by default: an unplugged camera blocks so long
# TCP: a lost UDP packet smears a frame, and a smeared frame would still be scored.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")

import cv2  # noqa: E402  (after the environment, on purpose)

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # also when cv2 was loaded before the lines above

__all__ = ["cv2"]
