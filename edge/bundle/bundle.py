"""Reading and writing a bundle: the unit that travels from the workstation to the device.

A bundle is a directory, or a .tar of one, that holds `manifest.json`, exactly the files it lists, and a signature over
it. `load_bundle` reads each file once, checks the signature, then the manifest, then size and SHA-256 of every file, and
keeps the bytes: what is parsed later is what was checked, whatever happens on disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.bundle import tar
from edge.bundle.arrays import GoldenVectors, OodStats, unpack_golden, unpack_ood
from edge.bundle.keys import SigningKey
from edge.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    OOD_FILE,
    FileInfo,
    Manifest,
    dump_manifest,
    is_plain_name,
    parse_manifest,
)
from edge.bundle.trust import ANYONE, SIGNATURE_FILE, Trust, make_signature
from edge.errors import BundleError
from edge.onnx_bytes import has_external_data

MAX_MANIFEST_BYTES = 2**20  # 1 MiB: 64 evidence tables fit, a runaway does not
MAX_BUNDLE_BYTES = (
    512 * 2**20
)  # a ViT-B/16 teacher in float is 346 MB; more would not fit beside the rest on an 8 GB device
MAX_FILES = 34  # the manifest, its signature and the 32 files it may list


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `files` maps names to bytes whose SHA-256 the manifest vouches for; `sha256` is the manifest's
    own (hex); `signed_by` is as `Trust.signer` gives it; `contents` is every byte of the bundle, manifest and signature
    included."""

    path: Path
    manifest: Manifest
    sha256: str
    signed_by: str
    files: Mapping[str, bytes] = field(repr=False)
    contents: Mapping[str, bytes] = field(repr=False)

    @property
    def label(self) -> str:
        """Model id, version and the first 12 digits of the manifest's hash: what events and the status page show."""
        return f"{self.manifest.model.id} {self.manifest.model.version} ({self.sha256[:12]})"

    @property
    def model(self) -> bytes:
        """The canonical INT8 graph, ONNX."""
        return self.files[MODEL_FILE]

    def ood(self) -> OodStats:
        """Embedding statistics. BundleError if the file does not hold what the manifest says."""
        return unpack_ood(self.files[OOD_FILE], f"{self.path}/{OOD_FILE}", self.manifest.heads.embedding)

    def golden(self) -> GoldenVectors:
        """Self-test vectors. BundleError if the file does not hold what the manifest says."""
        m = self.manifest
        return unpack_golden(self.files[GOLDEN_FILE], f"{self.path}/{GOLDEN_FILE}", m.golden.count, m.input.size,
                             m.heads.embedding, m.heads.map_grid, m.heads.others)  # fmt: skip


def _refuse_external_data(path: Path, files: Mapping[str, bytes]) -> None:
    """A model whose weights lie in another file would take whatever lies there in the working directory: no hash covers it."""
    for name, data in files.items():
        try:
            external = name.endswith(".onnx") and has_external_data(data)
        except ValueError:  # no ONNX file: the engine says so
            continue
        if external:
            raise BundleError(f"{path}/{name}: its weights lie in another file; save the model whole and build the bundle again")


def load_bundle(path: str | Path, trust: Trust | None = None) -> Bundle:
    """A directory or .tar file -> Bundle, with its signature and every file verified. `trust` left out: the bundle that
    came with this package, and no other.

    BundleError (naming file, field, value found and fix) for anything untrusted, missing, extra, damaged, too large,
    linked, or of another schema. Nothing is written to disk. Before the signature has been verified no byte is parsed but the
    archive's headers, and before its hash has been no file.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise BundleError(f"{path}: no such bundle; give the path of a bundle directory or .tar")
        contents = _read_directory(path) if path.is_dir() else _read_tar(path)
    except OSError as error:  # a stick that was pulled out, or a folder of somebody else's
        raise BundleError(f"{path}: cannot be read ({error.strerror or error}); check the disk and its permissions") from error
    raw = contents.get(MANIFEST_FILE)
    if raw is None:
        raise BundleError(f"{path}: {MANIFEST_FILE} is missing; this is not a bundle, or only part of one")
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}/{MANIFEST_FILE}: found {len(raw)} bytes; at most {MAX_MANIFEST_BYTES} allowed")
    signed_by = (trust or Trust()).signer(raw, contents.get(SIGNATURE_FILE), str(path))
    manifest = parse_manifest(raw, f"{path}/{MANIFEST_FILE}")
    files = {name: data for name, data in contents.items() if name not in (MANIFEST_FILE, SIGNATURE_FILE)}
    for name in files:
        if name not in manifest.files:
            raise BundleError(f"{path}/{name}: found a file that the manifest does not list; remove it")
    for name, info in manifest.files.items():
        if name not in files:
            raise BundleError(f"{path}/{name}: missing, but listed in the manifest; fetch the bundle again")
        data = files[name]
        if len(data) != info.bytes:
            raise BundleError(
                f"{path}/{name}: found {len(data)} bytes; the manifest says {info.bytes}; fetch the bundle again"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != info.sha256:
            raise BundleError(
                f"{path}/{name}: found SHA-256 {digest}; the manifest says {info.sha256}; fetch the bundle again"
            )
    _refuse_external_data(path, files)
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest(), signed_by, files, contents)


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write `files` and the manifest (its `files` section filled in here) to the new directory `path`, or to `path` as
    a .tar when it ends so, and load it back. It is not signed: see `sign_bundle`.

    The whole appears at once, by rename. BundleError when `path` exists or the result would not load.
    """
    path = Path(path)
    if path.exists():
        raise BundleError(
            f"{path}: already exists; bundles are never changed in place, choose another path or remove it"
        )
    infos = {name: FileInfo(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(files.items())}
    raw = dump_manifest(replace(manifest, files=infos))
    parse_manifest(raw, str(path / MANIFEST_FILE))  # before anything is written
    contents = {MANIFEST_FILE: raw, **{name: files[name] for name in infos}}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tar":
        partial.write_bytes(tar.pack(contents))
    else:
        partial.mkdir()
        for name, data in contents.items():
            (partial / name).write_bytes(data)
    partial.rename(path)
    return load_bundle(path, ANYONE)


def sign_bundle(path: str | Path, key: SigningKey, out: str | Path | None = None) -> Bundle:
    """Sign the bundle at `path`, in place, or into the new .tar `out`, and load it back, trusting that key only.

    Every hash is checked first. A signature that was there is replaced. BundleError as `load_bundle`, and when `out` exists.
    """
    path = Path(path)
    bundle = load_bundle(path, ANYONE)
    signature = make_signature(bundle.contents[MANIFEST_FILE], key)
    # The manifest and its signature come first, as a reader needs them first.
    head = {MANIFEST_FILE: bundle.contents[MANIFEST_FILE], SIGNATURE_FILE: signature}
    target = Path(out) if out else path
    if out and target.exists():
        raise BundleError(f"{target}: already exists; bundles are never changed in place, choose another path")
    try:
        if out or not path.is_dir():
            _replace(target, tar.pack({**head, **bundle.files}))
        else:
            _replace(path / SIGNATURE_FILE, signature)
    except OSError as error:
        raise BundleError(f"{error.filename or target}: cannot be written ({error.strerror})") from error
    return load_bundle(target, Trust((key.public,)))


def _read_directory(path: Path) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    total = 0
    names = sorted(os.listdir(path))
    if len(names) > MAX_FILES:
        raise BundleError(
            f"{path}: found {len(names)} entries; at most {MAX_FILES} allowed; is this the bundle's directory?"
        )
    for name in names:
        _check_name(path, name)
        try:
            # O_NONBLOCK: opening a FIFO must not hang before its type is seen
            fd = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(
                f"{path}/{name}: cannot be opened ({error.strerror}); links are refused, copy the file itself"
            ) from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise BundleError(f"{path}/{name}: not a regular file; a bundle holds files only, remove it")
            # A hard link is no way around: what is hashed and used is these bytes (and package managers make them).
            total += info.st_size
            _check_total(path, total)
            with os.fdopen(fd, "rb", closefd=False) as handle:
                out[name] = handle.read(info.st_size + 1)  # one more byte than promised shows a file that grows
        finally:
            os.close(fd)
    return out


def _read_tar(path: Path) -> dict[str, bytes]:
    total, count = 0, 0

    def admit(name: str, size: int) -> None:
        nonlocal total, count
        _check_name(path, name)
        total, count = total + size, count + 1
        _check_total(path, total)
        if count > MAX_FILES:
            raise BundleError(f"{path}: more than {MAX_FILES} files; is this a bundle?")

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BundleError(f"{path}: neither a folder nor a file; give the path of a bundle")
            return tar.read_members(file, admit)
    except tar.TarFault as error:
        raise BundleError(f"{path}: not a readable .tar ({error}); fetch the bundle again") from error


def _replace(path: Path, data: bytes) -> None:
    """The file appears whole, by rename."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.rename(path)


def _check_name(path: Path, name: str) -> None:
    if not is_plain_name(name):
        raise BundleError(
            f"{path}: found entry {name!r}; a bundle holds plain file names only, no folders or hidden files; remove it"
        )


def _check_total(path: Path, total: int) -> None:
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"{path}: holds more than {MAX_BUNDLE_BYTES} bytes; this is not a bundle")
