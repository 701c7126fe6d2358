"""Every parser of bytes from outside, as a function of bytes: it returns, or raises one of our errors, and does nothing else.

`SEEDS` holds what each takes, small and made here; `tests/fuzz/corpus/NAME/` what campaigns have found worth keeping.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import cv2
import numpy as np
from fakes.bundle_parts import fake_files, fake_manifest
from PIL import Image

from calibration.table import read_table
from edge.bundle import Trust, load_bundle, tar
from edge.bundle import manifest as mf
from edge.bundle.arrays import GoldenVectors, OodStats, pack_golden, pack_ood, unpack_golden, unpack_ood
from edge.bundle.keys import find_public_key, new_key, read_signing_key
from edge.bundle.trust import SHIPPED_BUNDLE, make_signature
from edge.capture.build import parse_uri
from edge.capture.dicom import read_dicom
from edge.capture.picture import read_picture
from edge.capture.recorded import FileSource
from edge.config import EXAMPLE, load_config
from edge.errors import HygromaError
from edge.onnx_bytes import has_external_data
from edge.records import RawOutputs
from edge.redaction import redact
from edge.status.board import Board
from edge.status.pool import is_whole
from edge.status.server import SECURITY_HEADERS, StatusServer
from edge.update.slots import Slots
from edge.update.trial import load_state

CORPUS = Path(__file__).with_name("corpus")
VIDEO_FRAMES = 8  # decoded of each clip


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where parsers of files read theirs: in memory where there is such a place."""
    shm = Path("/dev/shm")
    made = tempfile.TemporaryDirectory(prefix="hygroma-fuzz-", dir=shm if os.access(shm, os.W_OK) else None)
    folder_for_good.append(made)  # goes with the process
    return Path(made.name)


folder_for_good: list[Any] = []


def file_of(data: bytes, name: str) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


@lru_cache(maxsize=1)
def key() -> Any:
    return read_signing_key(new_key(folder() / "keys")[0])


def archive(data: bytes) -> None:
    with contextlib.suppress(tar.TarFault):
        for name, content in tar.read_members(io.BytesIO(data), lambda name, size: None).items():
            assert isinstance(name, str) and isinstance(content, bytes)


def bundle(data: bytes) -> None:
    """Nothing that the key did not sign is ever loaded."""
    loaded = load_bundle(file_of(data, "b.tar"), Trust((key().public,)))
    assert loaded.signed_by == key().public.id and loaded.contents == tar.read_members(
        io.BytesIO(data), lambda n, s: None
    )


def signature(data: bytes) -> None:
    assert Trust((key().public,)).signer(b"manifest", data, "x") == key().public.id


def manifest(data: bytes) -> None:
    mf.parse_manifest(mf.dump_manifest(mf.parse_manifest(data)))


def arrays(data: bytes) -> None:
    assert np.isfinite(unpack_ood(data, "ood.npz", 4).mean).all()


def golden(data: bytes) -> None:
    assert unpack_golden(data, "golden.npz", 1, 8, 4, 2).inputs.shape == (1, 1, 8, 8)


def configuration(data: bytes) -> None:
    load_config(file_of(data, "c.yaml"))


def keys(data: bytes) -> None:
    path = file_of(data, "k")
    path.chmod(0o600)
    with contextlib.suppress(HygromaError):
        find_public_key(str(path))
    read_signing_key(path)


def uri(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    redact(text)
    assert "hunter2" not in parse_uri(text).name or "hunter2@" not in text


def state(data: bytes) -> None:
    file_of(data, "state.json")
    load_state(Slots(folder()))


def image(data: bytes) -> None:
    found = read_picture(file_of(data, "i.png"))
    assert found.dtype == np.uint8 and found.ndim in (2, 3)


def dicom(data: bytes) -> None:
    frames, fps = read_dicom(file_of(data, "d.dcm"))
    assert 1 <= fps <= 240 and all(frame.dtype == np.uint8 for frame in frames)


def table(data: bytes) -> None:
    found = read_table(file_of(data, "t.csv"))
    assert all(set(row.cells) == set(found.columns) for row in found.rows)


def video(data: bytes) -> None:
    with FileSource(file_of(data, "v.avi"), fast=True) as source:
        for _ in range(VIDEO_FRAMES):
            if source.read() is None:
                break


class Connection:
    """A client that has sent all that it will ever send."""

    def __init__(self, data: bytes) -> None:
        self.sent, self.got = io.BytesIO(data), b""

    def makefile(self, *_: Any) -> io.BytesIO:
        return self.sent

    def settimeout(self, _: float) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        self.got += bytes(data)

    def shutdown(self, _: int) -> None:
        pass

    def recv(self, most: int, flags: int = 0) -> bytes:
        return self.sent.read(most) if flags else b""  # with them the request, else what comes after it


@lru_cache(maxsize=1)
def handler() -> Any:
    server = StatusServer(Board(), port=0, token="x" * 20)
    server._server.server_close()
    return server._server.RequestHandlerClass


def http(data: bytes) -> None:
    """Without the token nothing is served, and every answer, refusals of what is no HTTP at all included, carries the headers."""
    connection = Connection(data)
    handler()(connection, ("127.0.0.1", 1), None)
    head, _, _ = connection.got.partition(b"\r\n\r\n")
    if not head:  # nobody asked
        return
    assert head.startswith(b"HTTP/1.0 ") and all(name.encode() in head for name in SECURITY_HEADERS), head
    assert b"x" * 20 in data or head[9:10] in (b"4", b"5"), head


def weights(data: bytes) -> None:
    """Whether a model's weights lie elsewhere is answered of whatever claims to be a model."""
    with contextlib.suppress(ValueError):
        assert has_external_data(data) in (True, False)


def request(data: bytes) -> None:
    """A request that is whole stays whole, whatever comes behind it."""
    assert not is_whole(data) or is_whole(data + b"more")


def address(data: bytes) -> None:
    """What was typed as user and password is not shown, whatever stands around it."""
    text = "".join(c for c in data.decode("utf-8", "replace") if c.isprintable() and c != "@")[:60]
    shown = redact(f"rtsp://nurse:{text}Qz7hunter@10.0.0.9/{text}")
    assert "Qz7hunter@" not in shown and shown.encode("utf-8")


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (archive, bundle, signature, manifest, arrays, golden, configuration, keys, uri, state, image, dicom,
                     table, video, http, weights, request, address)
}  # fmt: skip


def run(name: str, data: bytes) -> None:
    """One input into one target: whatever is raised but HygromaError is a finding."""
    with contextlib.suppress(HygromaError):
        TARGETS[name](data)


def _gif(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "GIF")
    return out.getvalue()


def _bundle() -> dict[str, bytes]:
    """A signed bundle's files, the golden images left out: half a kilobyte fuzzes better than half a megabyte."""
    import dataclasses
    import hashlib

    files = fake_files() | {mf.GOLDEN_FILE: b"none"}
    infos = {n: mf.FileInfo(hashlib.sha256(d).hexdigest(), len(d)) for n, d in sorted(files.items())}
    raw = mf.dump_manifest(dataclasses.replace(fake_manifest(), files=infos))
    return {"manifest.json": raw, "manifest.sig": make_signature(raw, key()), **files}


def _golden() -> bytes:
    outputs = RawOutputs(*(np.zeros(shape, np.float32) for shape in ((1,), (1,), (1, 4), (1, 2, 2))))
    return pack_golden(GoldenVectors(np.zeros((1, 1, 8, 8), np.uint8), outputs, outputs))


def _dicom(packed: str = "") -> bytes:
    """`packed`: "jpeg" or "rle"."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, UltrasoundImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UltrasoundImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["seed"])
    data = pydicom.Dataset()
    data.file_meta, data.PatientName, data.FrameTime, data.NumberOfFrames = meta, "Canary^Patient", "40", 2
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = bytes(range(128))
    if packed == "jpeg":
        picture = cv2.imencode(".jpg", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()
        data.PixelData, meta.TransferSyntaxUID = encapsulate([picture, picture]), JPEGBaseline8Bit
        data["PixelData"].VR = "OB"
    elif packed == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _video() -> bytes:
    path = folder() / "seed.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for level in range(4):
        writer.write(np.full((32, 32, 3), level * 60, np.uint8))
    writer.release()
    return path.read_bytes()


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """What the target takes, and what campaigns kept."""
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made: dict[str, Callable[[], Iterator[bytes]]] = {
        "archive": lambda: iter((tar.pack({"a": b"x", "b": b"y" * 600}),)),
        "bundle": lambda: iter((tar.pack(_bundle()),)),
        "signature": lambda: iter((make_signature(b"manifest", key()),)),
        "manifest": lambda: iter((_bundle()["manifest.json"],)),
        "arrays": lambda: iter((pack_ood(OodStats(np.zeros(4, np.float32), np.eye(4, dtype=np.float32))),)),
        "golden": lambda: iter((_golden(),)),
        "configuration": lambda: iter((EXAMPLE.read_bytes(), b"source: {uri: 'file:a.mp4'}\n")),
        "keys": lambda: iter((key().public.text.encode(), (folder() / "keys" / "hygroma.key").read_bytes())),
        "uri": lambda: iter((b"rtsp://u:hunter2@h/p", b"images:f?fps=10", b"gst:v4l2src ! video/x-raw,format=BGR ! appsink")),
        "state": lambda: iter((json.dumps({"proven": ["1.0.0-0123456789ab"], "rollbacks": 1}).encode(),)),
        "weights": lambda: iter((load_bundle(SHIPPED_BUNDLE).model[:4096], b"")),
        "request": lambda: iter((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")),
        "address": lambda: iter((b"pass word/with:all", b"user=u_password=x&y")),
        "image": lambda: iter([
            *(cv2.imencode(e, picture)[1].tobytes() for e in (".png", ".jpg", ".bmp", ".pgm", ".tiff", ".webp")),
            cv2.imencode(".png", picture.astype(np.uint16) << 4)[1].tobytes(), _gif(picture),
        ]),
        "table": lambda: iter((
            b"path,label,patient\na.png,normal,P1\n,,\n", "sep=;\r\npath;mm\r\na.png;\"3,5\"\r\n".encode("utf-16"),
        )),
        "dicom": lambda: iter((_dicom(), _dicom("jpeg"), _dicom("rle"))),
        "video": lambda: iter((_video(),)),
        "http": lambda: iter((
            b"GET /snapshot.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + b"x" * 20 + b"\r\n\r\n",
            b"POST /ack/1 HTTP/1.1\r\nHost: localhost\r\nCookie: hygroma_token=x\r\nContent-Length: 2\r\n\r\n{}",
            b"GET /?token=y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"HEAD /live.jpg HTTP/1.1\r\nHost: [::1]:1\r\nAuthorization: Bearer " + b"x" * 20 + b"\r\n\r\n",
            b"PUT /ack/1 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )),
    }  # fmt: skip
    kept = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    return (*made[name](), *(path.read_bytes() for path in kept))
