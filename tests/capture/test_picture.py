"""Still picture files as they come: cut off, deep, of several pages, huge, or what a system left in the folder."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.images import find_images, read_grey, read_image
from edge.capture.images import ImagesSource
from edge.capture.picture import read_picture
from edge.errors import InputError
from edge.kinds import is_litter
from edge.stills import list_files

WIDE, HIGH = 97, 61  # odd, so that lines are padded


def scene(colour: bool = False) -> np.ndarray:
    """Grey uint8 [H,W] or RGB, dark below on the right as an ultrasound picture is."""
    y, x = np.mgrid[:HIGH, :WIDE]
    grey = (120 + 90 * np.sin(x / 9) * np.cos(y / 7)) * (y < HIGH - 9)
    return (np.stack([grey, grey * 0.8, grey * 0.5], -1) if colour else grey).astype(np.uint8)


def saved(format: str, pictures: list[np.ndarray], **options: Any) -> bytes:
    out = io.BytesIO()
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.save(out, format, **more, **options)
    return out.getvalue()


# What is written, and how far off a picture may be after it.
FORMS: dict[str, tuple[Callable[[], bytes], float]] = {
    "png": (lambda: saved("PNG", [scene()]), 0),
    "colour png": (lambda: saved("PNG", [scene(True)]), 0),
    "jpg": (lambda: saved("JPEG", [scene()], quality=95), 3),
    "colour jpg": (lambda: saved("JPEG", [scene(True)], quality=95), 4),
    "progressive jpg": (lambda: saved("JPEG", [scene()], quality=95, progressive=True), 3),
    "jpg with restarts": (lambda: saved("JPEG", [scene()], quality=95, restart_marker_rows=1), 3),
    "bmp": (lambda: saved("BMP", [scene()]), 0),
    "colour bmp": (lambda: saved("BMP", [scene(True)]), 0),
    "tif": (lambda: saved("TIFF", [scene()]), 0),
    "packed tif": (lambda: saved("TIFF", [scene(True)], compression="tiff_lzw"), 0),
    "webp": (lambda: saved("WEBP", [scene(True)], quality=95), 6),
    "lossless webp": (lambda: saved("WEBP", [scene(True)], lossless=True), 0),
    "pgm": (lambda: saved("PPM", [scene()]), 0),
    "gif": (lambda: saved("GIF", [scene()]), 0),
}
READERS = [read_picture, read_image, read_grey]


def written(tmp_path: Path, data: bytes, name: str = "x.png") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.requirement("P-01")
@pytest.mark.parametrize("form", FORMS)
def test_a_whole_picture_is_read_by_its_content(tmp_path: Path, form: str) -> None:
    make, off = FORMS[form]
    path = written(tmp_path, make())
    wanted = scene("colour" in form or "packed" in form or "webp" in form)
    image = read_picture(path)
    assert image.dtype == np.uint8
    wanted = wanted if wanted.ndim == 2 else wanted[..., ::-1]
    if image.ndim > wanted.ndim:  # a palette
        image = image[..., 0]
    assert image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() <= off
    assert read_grey(path).shape == (HIGH, WIDE)


@pytest.mark.requirement("P-01")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.995))
def test_no_part_of_a_picture_passes_for_it(tmp_path_factory: pytest.TempPathFactory, form: str, share: float) -> None:
    """By every reader, and whatever OpenCV makes of it."""
    data = FORMS[form][0]()
    path = written(tmp_path_factory.mktemp("cut"), data[: int(len(data) * share)])
    for read in READERS:
        with pytest.raises(InputError, match="x.png: .*(cut off|empty|not a picture)"):
            read(path)


@pytest.mark.requirement("P-01")
@pytest.mark.parametrize("form", ["png", "bmp", "tif", "packed tif", "webp", "gif", "pgm", "jpg", "progressive jpg"])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.05, 0.95))
def test_zeros_where_a_copy_ended_are_no_picture(tmp_path_factory: pytest.TempPathFactory, form: str, share: float) -> None:
    """Where the structure tells; in plain bytes zeros are black."""
    data = FORMS[form][0]()
    begun = int(len(data) * share)
    path = written(tmp_path_factory.mktemp("cut"), data[:begun] + bytes(len(data) - begun))
    if form in ("bmp", "tif", "pgm", "webp", "gif", "packed tif"):
        try:
            read_picture(path)
        except InputError as error:
            assert "x.png" in str(error)
        return
    with pytest.raises(InputError, match="cut off or damaged"):
        read_picture(path)


@pytest.mark.requirement("P-01")
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_half_a_jpeg_with_an_end_marker_is_no_picture(tmp_path: Path, share: float) -> None:
    bright = np.random.default_rng(0).integers(0, 255, (HIGH, WIDE), np.uint8)
    data = saved("JPEG", [bright])
    path = written(tmp_path, data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_picture(path)


@pytest.mark.requirement("P-01")
def test_a_picture_with_a_thumbnail_in_its_header_is_cut_where_it_is_cut(tmp_path: Path) -> None:
    thumb, data = saved("JPEG", [scene()]), saved("JPEG", [scene()])
    body = b"Exif\0\0" + thumb
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert read_picture(written(tmp_path, data)).shape == (HIGH, WIDE)
    with pytest.raises(InputError, match="a JPEG that is cut off"):
        read_picture(written(tmp_path, data[:-100]))


# -- bit depth


@pytest.mark.requirement("P-02")
@pytest.mark.parametrize("format", ["PNG", "TIFF", "PGM"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_more_bits_show_the_same_picture(tmp_path: Path, format: str, bits: int) -> None:
    eight = scene()
    eight[0, 0] = 255
    deep = eight.astype(np.uint16) << (bits - 8)
    _, data = cv2.imencode(f".{format.lower()}", deep)
    path = written(tmp_path, data.tobytes())
    for read in READERS:
        assert np.array_equal(read(path), eight)


@pytest.mark.requirement("P-02")
def test_deep_colour_shows_the_same_picture(tmp_path: Path) -> None:
    eight = scene(True)
    eight[0, 0] = 255
    _, data = cv2.imencode(".png", eight.astype(np.uint16) << 4)
    assert np.array_equal(read_picture(written(tmp_path, data.tobytes())), eight)


@pytest.mark.requirement("P-02")
def test_floating_point_is_refused(tmp_path: Path) -> None:
    _, data = cv2.imencode(".tiff", scene().astype(np.float32) / 255)
    for read in READERS:
        with pytest.raises(InputError, match="a TIFF of float32 values; save it with 8 or 16 bits"):
            read(written(tmp_path, data.tobytes()))


# -- several pictures in a file


@pytest.mark.requirement("P-03")
@pytest.mark.parametrize("format", ["TIFF", "GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_several_pictures_in_a_file_are_never_its_first_one_alone(tmp_path: Path, format: str, count: int) -> None:
    pages = [np.roll(scene(True), 5 * n, axis=1) for n in range(count)]
    path = written(tmp_path, saved(format, pages), f"x.{format.lower()}")
    for read in READERS:
        with pytest.raises(InputError, match=f"of {count} pictures, where one is read; save each as a file of its own"):
            read(path)


@pytest.mark.requirement("P-03")
def test_jpegs_one_after_the_other_are_several(tmp_path: Path) -> None:
    one = saved("JPEG", [scene()])
    with pytest.raises(InputError, match="a JPEG of 3 pictures"):
        read_picture(written(tmp_path, one * 3))
    assert read_picture(written(tmp_path, one + b"notes of a scanner")).shape == (HIGH, WIDE)


@pytest.mark.requirement("P-03")
def test_a_smaller_copy_beside_a_page_is_no_page(tmp_path: Path) -> None:
    pages = [Image.fromarray(scene()), Image.fromarray(scene()[::4, ::4])]
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_picture(written(tmp_path, out.getvalue())), scene())


# -- size, and what is no regular file


def png_of(width: int, height: int) -> bytes:
    """Black, of any size, in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = zlib.compress(bytes(4096))  # too few: nothing may ask for them
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)) + chunk(
        b"IDAT", lines
    ) + chunk(b"IEND", b"")


@pytest.mark.requirement("P-04")
@pytest.mark.parametrize("size", [(30000, 30000), (2**31 - 1, 1), (1, 2**31 - 1), (16384, 16384)])
def test_the_size_is_read_before_the_picture(tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *rest: pytest.fail("decoded"))
    path = written(tmp_path, png_of(*size))
    for read in READERS:
        with pytest.raises(InputError, match=f"{size[0]} x {size[1]} pixels; a picture has up to 64 million: scale it down"):
            read(path)


@pytest.mark.requirement("P-04")
def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    """It would be waited for without end."""
    os.mkfifo(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "b.png"), scene())
    with pytest.raises(InputError, match="not a regular file"):
        read_picture(tmp_path / "a.png")
    with ImagesSource(tmp_path, fast=True) as source:
        assert len(list(iter(source.read, None))) == 1
    assert list_files(tmp_path)[0] == [tmp_path / "b.png"] == find_images(tmp_path)[0]


# -- what is nobody's data

LITTER = [
    "._x.png", ".hidden.png", ".ipynb_checkpoints/x-checkpoint.png", ".Trash-1000/files/x.png", "__MACOSX/._x.png",
    "__MACOSX/x.png", "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg", "Thumbs.db", "THUMBS.DB", "desktop.ini", ".DS_Store",
    "$RECYCLE.BIN/x.png", "#recycle/x.png", "System Volume Information/x.png", "lost+found/x.png", "sub/._y.jpg",
    "sub/.AppleDouble/y.jpg", "~$notes.png", ".@__thumb/x.png", ".nfs00000001", ".stversions/x.png",
]  # fmt: skip


@pytest.mark.requirement("P-05")
@pytest.mark.parametrize("name", LITTER)
def test_what_systems_leave_is_nobodys_data_in_any_reader(tmp_path: Path, name: str) -> None:
    left, own = tmp_path / name, tmp_path / "own.png"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(saved("PNG", [scene()]))
    own.write_bytes(saved("PNG", [scene()]))
    assert find_images(tmp_path) == ([own], [])
    assert list_files(tmp_path) == ([own], [])
    with ImagesSource(tmp_path, fast=True) as source:
        assert len(list(iter(source.read, None))) == 1 and source.decode_errors == 0
    assert is_litter(left, tmp_path)


@pytest.mark.requirement("P-05")
@pytest.mark.parametrize("above", [".cache", "__MACOSX", ".Trash-1000"])
def test_a_folder_that_was_named_is_read_wherever_it_lies(tmp_path: Path, above: str) -> None:
    folder = tmp_path / above / "data"
    folder.mkdir(parents=True)
    (folder / "own.png").write_bytes(saved("PNG", [scene()]))
    assert find_images(folder)[0] == list_files(folder)[0] == [folder / "own.png"]


@pytest.mark.requirement("P-05")
@pytest.mark.parametrize("name", ["thumbs.png", "recycle.png", "x~.png", "macosx/x.png", "Icon.png", "a.b.png"])
def test_a_name_that_is_only_like_those_is_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(saved("PNG", [scene()]))
    assert find_images(tmp_path)[0] == list_files(tmp_path)[0] == [tmp_path / name]
