"""The one reader of a still picture file, for the daemon, `score` and every data set."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import numpy as np

from edge.capture.formats import Look, look
from edge.capture.opencv import cv2
from edge.capture.pixels import lacks_data
from edge.errors import InputError
from edge.kinds import PIXELS_MAX

BYTES_MAX = 2**28  # of a picture file: 8192 x 8192 in 16-bit colour is larger, and no screen is
DEPTHS = (8, 10, 12, 14, 16)  # bits that a sensor or a scanner gives
READ = "PNG, JPEG, BMP, TIFF, WebP, PGM and GIF"


def read_picture(path: Path, grey: bool = False) -> np.ndarray:
    """uint8: grey [H,W] of a grey file or when asked for, else BGR [H,W,3]; transparency is left out.

    What has 16 bits a value is taken for as many bits, of DEPTHS, as its brightest value needs, and the lower ones are left
    out: 12 bits in 16 look as they do in 12. InputError names the file, what is wrong and the fix: no regular file, of no
    format that is read, cut off, larger than PIXELS_MAX, several pictures in it, floating point, or damaged.
    """
    data = _bytes(path)
    found = look(data)
    if found is None:
        raise InputError(f"{path}: {_other(data)}; save it as PNG")
    if not found.whole:
        raise InputError(f"{path}: a {found.kind} that is cut off or damaged; copy or export it again")
    if found.width * found.height > PIXELS_MAX:
        raise InputError(
            f"{path}: {found.width} x {found.height} pixels; a picture has up to {PIXELS_MAX >> 20} million: scale it down"
        )
    if found.pictures > 1:
        raise InputError(
            f"{path}: a {found.kind} of {found.pictures} pictures, where one is read; save each as a file of its own, or all as "
            "a clip (MP4)"
        )
    image = _decoded(data, found, grey)
    if image is None:
        raise InputError(f"{path}: a {found.kind} that cannot be decoded; export it again, as PNG")
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: a {found.kind} of {image.dtype} values; save it with 8 or 16 bits")
    return _eight_bits(image)


def _bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: not a regular file; give a picture file")
        if found.st_size > BYTES_MAX:
            raise InputError(f"{path}: {found.st_size >> 20} MiB; a picture has up to {BYTES_MAX >> 20}: export it again, as PNG")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check its name and its rights") from None
    if not data:
        raise InputError(f"{path}: the file is empty; copy it again")
    return data


def _other(data: bytes) -> str:
    if not data.strip(b"\0"):
        return "holds nothing but zeros"
    return f"not a picture that is read ({READ})"


def _decoded(data: bytes, found: Look, grey: bool) -> np.ndarray | None:
    colour = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_ANYCOLOR
    try:
        if found.kind == "GIF":  # which OpenCV reads from 4.11 on
            return _with_pillow(data, grey)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), colour | cv2.IMREAD_ANYDEPTH)
    except (cv2.error, OSError, ValueError):
        return None
    if image is not None and found.kind == "JPEG" and lacks_data(data, image, grey):
        return None
    return image


def _with_pillow(data: bytes, grey: bool) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
        pixels = np.array(image.convert("L" if grey else "RGB"))
    return pixels if grey else np.ascontiguousarray(pixels[..., ::-1])


def _eight_bits(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    used = int(image.max()).bit_length()
    depth = next(depth for depth in DEPTHS if depth >= used)
    return (image >> (depth - 8)).astype(np.uint8)
