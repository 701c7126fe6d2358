"""An archive is read member by member, within bounds, and whatever is not a plain file in it ends the reading."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bundle import ANYONE, Bundle, load_bundle, tar
from edge.errors import BundleError


def pack(path: Path, members: dict[str, bytes], extra: Callable[[tarfile.TarFile], None] = lambda tar: None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        extra(archive)
    return path


def special(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)

    return add


@pytest.fixture
def contents(fake_bundle: Bundle) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in fake_bundle.path.iterdir()}


def test_what_is_packed_is_read(contents: dict[str, bytes]) -> None:
    assert tar.read_members(io.BytesIO(tar.pack(contents)), lambda name, size: None) == contents


def test_a_tar_made_by_hand_loads(contents: dict[str, bytes], tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {f"./{n}": d for n, d in contents.items()}, special("./", tarfile.DIRTYPE))
    assert load_bundle(path, ANYONE).model == b"not a model"


@pytest.mark.parametrize("form", ["gnu", "ustar"])
def test_a_tar_made_by_tar_loads(fake_bundle: Bundle, tmp_path: Path, form: str) -> None:
    subprocess.run(
        ["tar", "-cf", tmp_path / "a.tar", f"--format={form}", "-C", fake_bundle.path, "."], check=True, timeout=30
    )
    assert load_bundle(tmp_path / "a.tar", ANYONE).files == fake_bundle.files


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (special("../escape"), "plain file names only"),
        (special("/etc/passwd"), "plain file names only"),
        (special("a/b"), "plain file names only"),
        (special("..\\escape"), "plain file names only"),
        (special(".hidden"), "plain file names only"),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
        (special("manifest.json", tarfile.SYMTYPE, "ood.npz"), "a symbolic link"),
        (special("hard", tarfile.LNKTYPE, "manifest.json"), "a hard link"),
        (special("device", tarfile.CHRTYPE), "a character device"),
        (special("device", tarfile.BLKTYPE), "a block device"),
        (special("pipe", tarfile.FIFOTYPE), "a FIFO"),
        (special("folder", tarfile.DIRTYPE), "a folder"),
        (special("holes", tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (special("odd", b"7"), "an entry of type b'7'"),
        (special("n" * 150), "a long name|an extended header|a name of more than 100 bytes"),
        (special("naïve"), "an extended header|plain file names only"),
        (special("manifest.json"), "packed twice"),
        (special("./manifest.json"), "packed twice"),
        (special("extra"), "extra: found a file that the manifest does not list"),
    ],
)
def test_a_hostile_tar_is_refused_and_writes_nothing(
    contents: dict[str, bytes], tmp_path: Path, extra: Callable[[tarfile.TarFile], None], message: str
) -> None:
    path = pack(tmp_path / "bad.tar", contents, extra)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=message):
        load_bundle(path, ANYONE)
    assert sorted(tmp_path.rglob("*")) == before


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(("size", "message"), [(8 * 2**30 - 1, "holds more than"), (2**40, "no octal number")])
def test_a_tar_that_promises_too_much_is_refused_before_reading(tmp_path: Path, size: int, message: str) -> None:
    (tmp_path / "big.tar").write_bytes(header("golden.npz", size) + b"\0" * 1024)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "big.tar", ANYONE)


def test_members_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.bundle.bundle.MAX_BUNDLE_BYTES", 3000)
    with pytest.raises(BundleError, match="holds more than 3000 bytes"):
        load_bundle(pack(tmp_path / "big.tar", {f"f{i}": bytes(1001) for i in range(3)}), ANYONE)
    with pytest.raises(BundleError, match="more than 34 files"):
        load_bundle(pack(tmp_path / "many.tar", {f"f{i}": b"" for i in range(40)}), ANYONE)


def test_a_truncated_tar_is_refused_wherever_it_ends(contents: dict[str, bytes], tmp_path: Path) -> None:
    whole = tar.pack(contents)
    end = len(whole.rstrip(b"\0"))
    for length in [0, 1, 511, 512, 513, *range(1024, end, 1536), end - 1, end + 512]:
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(BundleError, match="not a readable .tar"):
            load_bundle(tmp_path / "cut.tar", ANYONE)


def test_nothing_hides_behind_the_end_or_in_the_padding(contents: dict[str, bytes], tmp_path: Path) -> None:
    whole = tar.pack(contents)
    (tmp_path / "x.tar").write_bytes(whole + b"#!/bin/sh")
    with pytest.raises(BundleError, match="something other than zeros follows"):
        load_bundle(tmp_path / "x.tar", ANYONE)
    hidden = bytearray(tar.pack({"a": b"x"}))
    hidden[512 + 100] = 1
    with pytest.raises(tar.TarFault, match="hidden in the padding"):
        tar.read_members(io.BytesIO(hidden), lambda name, size: None)


def test_a_header_that_was_changed_is_refused(contents: dict[str, bytes]) -> None:
    whole = tar.pack({"a": b"x"})
    for position in range(500):
        changed = bytearray(whole)
        changed[position] ^= 4
        with pytest.raises(tar.TarFault):
            tar.read_members(io.BytesIO(changed), lambda name, size: None)


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"\x1f\x8b" + b"\0" * 600])
def test_a_file_that_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(BundleError, match="not a readable .tar"):
        load_bundle(tmp_path / "x.tar", ANYONE)


def test_what_is_no_file_at_all_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(BundleError, match="neither a folder nor a file"):
        load_bundle(tmp_path / "x.tar", ANYONE)


def test_one_entry_for_the_folder_itself_and_no_more() -> None:
    folder = tarfile.TarInfo(".")
    folder.type = tarfile.DIRTYPE
    block = folder.tobuf(tarfile.USTAR_FORMAT)
    end = bytes(1024)
    assert tar.read_members(io.BytesIO(block + end), lambda name, size: None) == {}
    with pytest.raises(tar.TarFault, match="a folder"):
        tar.read_members(io.BytesIO(block * 2 + end), lambda name, size: None)
