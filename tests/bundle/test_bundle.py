"""A bundle loads whole and verified, from a directory or a .tar, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import ANYONE, Bundle, load_bundle, write_bundle
from edge.bundle.arrays import unpack_golden, unpack_ood
from edge.errors import BundleError


def test_what_is_written_is_what_is_loaded(fake_bundle: Bundle) -> None:
    again = load_bundle(fake_bundle.path, ANYONE)
    assert again == fake_bundle
    manifest = (fake_bundle.path / "manifest.json").read_bytes()
    assert again.sha256 == hashlib.sha256(manifest).hexdigest()
    assert again.label == f"fake-student 1.2.3 ({again.sha256[:12]})"
    assert again.model == b"not a model"
    assert again.golden().inputs.shape == (64, 1, 64, 64) and again.ood().mean.shape == (16,)


def test_directory_and_tar_hold_the_same(fake_bundle: Bundle, fake_bundle_parts: Any, tmp_path: Path) -> None:
    packed = write_bundle(tmp_path / "bundle.tar", *fake_bundle_parts)
    assert packed.files == fake_bundle.files and packed.sha256 == fake_bundle.sha256
    write_bundle(tmp_path / "again.tar", *fake_bundle_parts)
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "bundle.tar").read_bytes()


def test_a_bundle_is_never_overwritten(fake_bundle: Bundle, fake_bundle_parts: Any) -> None:
    with pytest.raises(BundleError, match="already exists"):
        write_bundle(fake_bundle.path, *fake_bundle_parts)


def test_nothing_is_written_when_the_manifest_is_wrong(fake_bundle_parts: Any, tmp_path: Path) -> None:
    manifest, files = fake_bundle_parts
    bad = dataclasses.replace(manifest, ood=dataclasses.replace(manifest.ood, threshold=-1.0))
    with pytest.raises(BundleError, match="ood.threshold"):
        write_bundle(tmp_path / "b", bad, files)
    assert list(tmp_path.iterdir()) == []


def test_what_was_checked_is_what_is_used(fake_bundle: Bundle) -> None:
    bundle = load_bundle(fake_bundle.path, ANYONE)
    (fake_bundle.path / "model.qdq.onnx").write_bytes(b"swapped later")
    assert bundle.model == b"not a model"


def spoil_missing(path: Path) -> None:
    (path / "golden.npz").unlink()


def spoil_byte(path: Path) -> None:
    data = bytearray((path / "golden.npz").read_bytes())
    data[100] ^= 1
    (path / "golden.npz").write_bytes(data)


def spoil_longer(path: Path) -> None:
    with (path / "golden.npz").open("ab") as handle:
        handle.write(b"x")


def spoil_link(path: Path) -> None:
    (path / "golden.npz").rename(path.parent / "elsewhere.npz")
    (path / "golden.npz").symlink_to(path.parent / "elsewhere.npz")


def spoil_fifo(path: Path) -> None:
    (path / "golden.npz").unlink()
    os.mkfifo(path / "golden.npz")


def spoil_manifest_size(path: Path) -> None:
    with (path / "manifest.json").open("ab") as handle:
        handle.write(b" " * 2**20)


SPOILS: list[tuple[Callable[[Path], Any], str]] = [
    (spoil_missing, "golden.npz: missing, but listed"),
    (spoil_byte, "golden.npz: found SHA-256"),
    (spoil_longer, r"golden.npz: found \d+ bytes; the manifest says"),
    (spoil_link, "golden.npz: cannot be opened .*links are refused"),
    (spoil_fifo, "golden.npz: not a regular file"),
    (spoil_manifest_size, "manifest.json: found .* at most"),
    (lambda p: (p / "extra.bin").write_bytes(b""), "extra.bin: found a file that the manifest does not list"),
    (lambda p: (p / ".hidden").write_bytes(b""), "found entry '.hidden'"),
    (lambda p: (p / "folder").mkdir(), "folder: not a regular file"),
    (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda p: [(p / f"f{i}").write_bytes(b"") for i in range(40)], "found 45 entries; at most 34"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS, ids=[m for _, m in SPOILS])
def test_a_spoiled_directory_is_refused(fake_bundle: Bundle, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(fake_bundle.path)
    with pytest.raises(BundleError, match=message):
        load_bundle(fake_bundle.path, ANYONE)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "nothing")


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


MEAN, WHITENING = np.zeros(4, np.float32), np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable .npz"),
        (npz(mean=MEAN), r"found arrays \['mean'\]; expected \['mean', 'whitening'\]"),
        (npz(mean=MEAN, whitening=WHITENING, more=MEAN), "found arrays"),
        (npz(mean=MEAN.astype(np.float64), whitening=WHITENING), r"mean: found float64 \[4\]; expected float32 \[4\]"),
        (npz(mean=MEAN[:3], whitening=WHITENING), r"mean: found float32 \[3\]"),
        (npz(mean=MEAN, whitening=WHITENING[:0]), "whitening: found float32"),
        (npz(mean=MEAN, whitening=WHITENING[0]), r"whitening: found float32 \[4\]; expected float32 \[any, 4\]"),
        (npz(mean=MEAN * np.nan, whitening=WHITENING), "mean: found values that are not finite"),
        (npz(mean=np.array([{}] * 4), whitening=WHITENING), "not a readable .npz.*allow_pickle"),
    ],
    ids=["empty", "missing", "extra", "dtype", "shape", "no rows", "dimensions", "NaN", "pickle"],
)
def test_arrays_that_are_not_what_they_should_be(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match="ood.npz: .*" + message):
        unpack_ood(data, "ood.npz", 4)


def test_golden_vectors_must_fit_the_manifest(fake_bundle: Bundle) -> None:
    data = fake_bundle.files["golden.npz"]
    for arguments in ((65, 64, 16, 4), (64, 48, 16, 4), (64, 64, 8, 4), (64, 64, 16, 8)):
        with pytest.raises(BundleError, match="golden.npz: .*expected"):
            unpack_golden(data, "golden.npz", *arguments)


def test_a_zip_bomb_is_refused_unread() -> None:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mean.npy", b"")
        archive.writestr("whitening.npy", b"")
        archive.infolist()[0].file_size = 2**40  # what the directory at the end will claim
        archive.infolist()[0].compress_size = 10
    with pytest.raises(BundleError, match="ood.npz"):
        unpack_ood(buffer.getvalue(), "ood.npz", 4)


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.requirement("B-03")
def test_a_stick_that_is_pulled_out_is_told(
    fake_bundle: Bundle, fake_bundle_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = fake_bundle.path if form == "folder" else write_bundle(tmp_path / "b.tar", *fake_bundle_parts).path
    real = os.fdopen

    def pulled(*args: Any, **named: Any) -> Any:
        file = real(*args, **named)
        os.close(file.fileno())  # every read from now on fails, as it does when the device is gone
        return file

    monkeypatch.setattr(os, "fdopen", pulled)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(path, ANYONE)


def test_a_path_that_no_disk_has_is_told() -> None:
    with pytest.raises(BundleError, match="cannot be read .*File name too long"):
        load_bundle("x" * 5000, ANYONE)
