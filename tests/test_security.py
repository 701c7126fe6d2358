"""Promises that hold for the whole of `edge`: nothing that runs what it reads, and no patient text anywhere but on the screen."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture.images import DicomSource
from edge.config import CaptureConfig, Config, EventsConfig, StatusConfig
from edge.errors import InputError
from edge.status.render import to_json, to_prometheus
from edge.watching import open_watching

ROOT = Path(__file__).parents[1]
CANARY = "CANARY^MARIA"
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "subprocess", "pty", "telnetlib"}
CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


@pytest.mark.requirement("S-02")
def test_edge_runs_nothing_that_it_reads() -> None:
    for path in sorted((ROOT / "edge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN, f"{path}: {names}"
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, f"{path}:{node.lineno}"
                for word in node.keywords:
                    value = ast.unparse(word.value)
                    assert (word.arg, value) not in {("shell", "True"), ("allow_pickle", "True")}, (
                        f"{path}:{node.lineno}"
                    )


def cine(path: Path, pictures: int = 110) -> Path:
    """A DICOM cine with the patient's name in its header and burnt into the picture outside the fan."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    from edge.capture.recorded import FileSource
    from edge.demo import CLIP

    with FileSource(CLIP, fast=True) as source:
        frames = [frame.image for frame in (source.read() for _ in range(2 * pictures)) if frame is not None]
    frames = [cv2.cvtColor(f, cv2.COLOR_BGR2GRAY) if f.ndim == 3 else f.copy() for f in frames[::2]]
    for frame in frames:
        cv2.putText(frame, CANARY, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UltrasoundMultiFrameImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["canary"])
    data = pydicom.Dataset()
    data.file_meta, data.PatientName, data.PatientID, data.FrameTime = meta, CANARY, CANARY, "80"
    data.Rows, data.Columns = frames[0].shape
    data.NumberOfFrames, data.SamplesPerPixel, data.PhotometricInterpretation = len(frames), 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.stack(frames).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.requirement("S-03")
def test_a_patients_name_reaches_no_log_metric_page_or_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    config = Config(
        events=EventsConfig(dir=str(tmp_path / "events"), min_free_mb=0), status=StatusConfig(enabled=False),
        capture=CaptureConfig(),
    )  # fmt: skip
    with open_watching(config, DicomSource(cine(tmp_path / "scan.dcm"), fast=True)) as watching:
        summary = watching.watch.run()
        snapshot = watching.watch._board.latest()
        shown = json.dumps(to_json(snapshot, 0)) + to_prometheus(snapshot, 0)
    assert summary.frames > 100
    told = caplog.text + "".join(capfd.readouterr()) + shown
    for canary in (CANARY, "MARIA"):
        assert canary not in told
        for path in (tmp_path / "events").rglob("*"):
            assert not path.is_file() or canary.encode() not in path.read_bytes(), path


@pytest.mark.requirement("S-03")
def test_a_damaged_file_is_told_without_its_words(tmp_path: Path) -> None:
    """The decoder's own message may quote what it found odd."""
    data = cine(tmp_path / "scan.dcm", pictures=3).read_bytes()
    for spoiled in (data[:900], data.replace(b"MONOCHROME2", CANARY.encode()[:11]), data.replace(b"80  ", b"MARI")):
        (tmp_path / "bad.dcm").write_bytes(spoiled)
        try:
            DicomSource(tmp_path / "bad.dcm").open()
        except InputError as error:
            assert "MARIA" not in str(error) and "CANARY" not in str(error)
