"""Files to score: what is found in folders, what goes wrong with one of them, and how DICOM becomes a picture."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes.runner_fake import FakeRunner
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from edge import stills
from edge.bundle import write_bundle
from edge.bundle.manifest import Manifest
from edge.capture.dicom import read_dicom
from edge.decision import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import ConfigError, EngineError
from edge.stills import Overlays, Scored, Unscored, list_files, score_paths

RAMP = np.tile(np.arange(40, 104, dtype=np.uint8), (64, 1))  # levels 40 to 103: a stretch would show


@pytest.fixture
def scorer(
    tmp_path_factory: pytest.TempPathFactory, fake_bundle_parts: tuple[Manifest, dict[str, bytes]]
) -> Iterator[Scorer]:
    manifest, files = fake_bundle_parts
    manifest = replace(manifest, decision=DecisionParams().to_manifest())
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "b", manifest, files)
    with Scorer(bundle, FakeRunner()) as opened:
        yield opened


def write_dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", bits: int = 8, **tags: Any) -> Path:
    """A minimal uncompressed DICOM file of one picture, unsigned, with other tags as given."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, kind, 0
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), RAMP)
    return path


def test_a_folder_gives_pictures_by_ending_and_dicom_by_content(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "sub" / "a.png")
    dicoms = [write_dicom(tmp_path / name, RAMP) for name in ("1.2.840.113619.2", "IM000001")]
    (tmp_path / "notes.txt").write_text("no picture")
    write_dicom(tmp_path / "DICOMDIR", RAMP)
    assert list_files(tmp_path) == ([*dicoms, picture], [])
    assert list_files(picture) == ([picture], [])


def test_a_folder_with_nothing_to_score_is_told(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (told,) = score_paths([tmp_path], scorer)
    assert isinstance(told, Unscored) and "nothing in this folder" in told.error and str(tmp_path) in told.error


def test_a_closed_folder_is_told_and_the_rest_is_scored(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, closed = write_picture(tmp_path / "a.png"), tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(place: Any) -> Any:
        if Path(place) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    told, scored = score_paths([tmp_path], scorer)
    assert isinstance(told, Unscored) and told.path == closed and "Permission denied" in told.error
    assert isinstance(scored, Scored) and scored.path == picture


def test_a_name_too_long_is_told_and_the_rest_is_scored(scorer: Scorer, tmp_path: Path) -> None:
    told, scored = score_paths([tmp_path / ("x" * 300), write_picture(tmp_path / "a.png")], scorer)
    assert isinstance(told, Unscored) and "name too long" in told.error
    assert isinstance(scored, Scored)


@pytest.mark.parametrize(
    "error", [EngineError("a.png: no"), ValueError("no"), MemoryError(), OSError(5, "no"), cv2.error("no")]
)
def test_whatever_one_file_does_the_others_are_scored(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bad, good = write_picture(tmp_path / "a.png"), write_picture(tmp_path / "b.png")
    score_file = stills.score_file

    def one_breaks(path: Path, *more: Any) -> Iterator[Scored]:
        if path == bad:
            raise error
        return score_file(path, *more)

    monkeypatch.setattr(stills, "score_file", one_breaks)
    told, scored = score_paths([tmp_path], scorer)
    assert isinstance(told, Unscored) and told.path == bad and "a.png" in told.error
    assert isinstance(scored, Scored) and scored.path == good


def test_overlays_of_equal_names_do_not_replace_each_other(scorer: Scorer, tmp_path: Path) -> None:
    inputs = [write_picture(tmp_path / name) for name in ("1/x.png", "2/x.png", "3/x-2.png", "3/x.bmp")]
    inputs += [write_dicom(tmp_path / name, RAMP) for name in ("1.2.4", "1.2.5")]
    results = list(score_paths([*inputs, inputs[0]], scorer, overlays=Overlays(tmp_path / "o" / "p")))
    assert all(isinstance(result, Scored) for result in results)
    written = sorted(path.name for path in (tmp_path / "o" / "p").iterdir())
    assert written == [f"{name}_000000.png" for name in ("1.2.4", "1.2.5", "x-2-2", "x-2", "x-3", "x")]


def test_an_overlay_that_cannot_be_written_is_that_files_error(scorer: Scorer, tmp_path: Path) -> None:
    overlays = Overlays(tmp_path / "o")
    (tmp_path / "o" / "a_000000.png").mkdir()
    inputs = [write_picture(tmp_path / "i" / name) for name in ("a.png", "b.png")]
    scored, told, other = score_paths(inputs, scorer, overlays=overlays)
    assert isinstance(scored, Scored) and isinstance(other, Scored)
    assert isinstance(told, Unscored) and told.path == inputs[0]


def test_a_folder_for_overlays_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--overlay: .*Not a directory"):
        Overlays(tmp_path / "file" / "o")


@pytest.mark.parametrize(
    ("tags", "fps"),
    [
        ({}, 25),
        ({"CineRate": "30"}, 30),
        ({"CineRate": "0", "RecommendedDisplayFrameRate": "12"}, 12),
        ({"CineRate": "-30", "FrameTime": "50"}, 20),
        ({"CineRate": "100000"}, 25),
        ({"CineRate": ["30", "40"]}, 25),
        ({"CineRate": "fast"}, 25),
        ({"FrameTime": "0"}, 25),
        ({"FrameTime": "-33"}, 25),
        ({"FrameTime": "nan"}, 25),
        ({"FrameTime": ["33", "34"]}, 25),
        ({"FrameTime": "0", "FrameTimeVector": ["0", "40", "60"]}, 20),
        ({"FrameTimeVector": "0"}, 25),
        ({"FrameTimeVector": ["0", "0"]}, 25),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_frame_rate_is_believed_from_1_to_240(tmp_path: Path, tags: dict[str, Any], fps: float) -> None:
    path = write_dicom(tmp_path / "x.dcm", RAMP)
    append_raw(path, tags)
    assert read_dicom(path)[1] == fps


def append_raw(path: Path, tags: dict[str, Any]) -> None:
    """Text as a scanner might write it: pydicom's own setters would refuse some of it."""
    data = dcmread(path)
    for name, value in tags.items():
        text = "\\".join(value) if isinstance(value, list) else value
        encoded = text.encode() + b" " * (len(text) % 2)
        tag = Tag(tag_for_keyword(name))
        data._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(encoded), encoded, 0, False, True)
    data.save_as(path)


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_a_dicom_file_says_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_dicom(tmp_path / "x.dcm", RAMP)
    append_raw(path, {"SpecificCharacterSet": "ISO_IR", "PatientName": "Doe^Jane", "PatientBirthDate": "no date"})
    caplog.clear()  # what pydicom said while this test wrote the file
    assert len(read_dicom(path)[0]) == 1
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_eight_bits_are_taken_as_they_are(tmp_path: Path, dtype: type) -> None:
    path = write_dicom(
        tmp_path / "x.dcm", RAMP.astype(dtype), RescaleSlope="2", RescaleIntercept="-1024", RescaleType="US"
    )
    (image,), _ = read_dicom(path)
    assert np.array_equal(image, RAMP)


def test_more_bits_are_stretched(tmp_path: Path) -> None:
    (image,), _ = read_dicom(write_dicom(tmp_path / "x.dcm", RAMP.astype(np.uint16) * 16, bits=12))
    assert (image.min(), image.max()) == (0, 255)


@pytest.mark.parametrize(("bits", "scale"), [(16, 256), (16, 1), (8, 1)])
def test_a_palette_is_applied_and_not_stretched(tmp_path: Path, bits: int, scale: int) -> None:
    """16-bit entries of the full range, 16-bit entries whose maker used the low byte, 8-bit entries."""
    levels = np.arange(256) // 2  # the brightest is 127
    entries = {
        c: (levels * k * scale).astype(np.uint16 if bits == 16 else np.uint8) for c, k in (("Red", 1), ("Blue", 0))
    }
    entries["Green"] = entries["Red"]
    tags: dict[str, Any] = {}
    for colour, table in entries.items():
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    (image,), _ = read_dicom(write_dicom(tmp_path / "x.dcm", RAMP, "PALETTE COLOR", **tags))
    expected = (RAMP // 2).astype(np.uint8)
    assert np.array_equal(image, np.dstack([np.zeros_like(expected), expected, expected]))
