"""DICOM as other people's machines write it: names that lie, wrong counts, pictures that are cut, files without any."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture.dicoms import FORMS, JPEG, cine_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    generate_uid,
)

from calibration.images import read_image
from edge.capture.build import open_source
from edge.capture.dicom import open_cine
from edge.capture.images import DicomSource, ImagesSource
from edge.capture.recorded import FileSource
from edge.config import CaptureConfig
from edge.errors import InputError
from edge.kinds import PIXELS_MAX, is_dicom
from edge.records import Signal
from edge.screen.preprocess import Preprocessing
from edge.screen.still import read_still

WIDE, HIGH = 64, 48


def greys(count: int, high: int = HIGH, wide: int = WIDE) -> list[np.ndarray]:
    """RGB pictures as ultrasound is: black around, grey within; each brighter than the one before."""
    y, x = np.mgrid[:high, :wide]
    fan = (np.hypot(x - wide / 2, y) < high) & (np.abs(x - wide / 2) < y)
    return [np.where(fan, 60 + 20 * n + (x * 3 + y * 5) % 40, 0)[..., None].repeat(3, -1).astype(np.uint8) for n in range(count)]


def images_of(path: Path) -> list[np.ndarray]:
    return [image for _, image in open_cine(path).pictures()]


def bgr(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else image[..., None].repeat(3, -1)


# -- names of colour spaces


NAMES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
COLOURED = [form for form, (_, kind) in FORMS.items() if kind == "rgb" and form != "YBR of half chroma"]


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", COLOURED)
def test_a_grey_picture_is_grey_whatever_its_colours_are_called(tmp_path: Path, form: str, name: str) -> None:
    """In the daemon's reader and in the data sets'."""
    path = tmp_path / "x.dcm"
    (wanted,) = cine_of(form, path, greys(1), PhotometricInterpretation=name)
    if name == "YBR_FULL_422" and not dcmread(path).file_meta.TransferSyntaxUID.is_compressed:
        return  # tells how the values are packed, too: not a name alone
    for image in (*images_of(path), read_image(path)):
        assert np.abs(bgr(image).astype(int) - wanted).mean() < 3
        assert np.abs(np.ptp(bgr(image).astype(int), axis=-1)).mean() < 3
        assert read_still(image, Preprocessing()).signal is not Signal.DOPPLER


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("name", NAMES)
def test_the_markers_of_a_jpeg_go_before_the_header(tmp_path: Path, name: str) -> None:
    """Of a picture whose colours could be either: JFIF says which."""
    noise = np.random.default_rng(3).integers(0, 255, (HIGH // 8, WIDE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    (wanted,) = cine_of("JPEG", tmp_path / "x.dcm", [noise], PhotometricInterpretation=name)
    (image,) = images_of(tmp_path / "x.dcm")
    assert np.abs(image.astype(int) - wanted).mean() < 12  # chroma at half the width


# -- counts, and pictures that are not whole


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("form", [*FORMS])
@pytest.mark.parametrize("said", [1, 3, 5, 9])
def test_pictures_are_counted_where_they_lie(tmp_path: Path, form: str, said: int) -> None:
    wanted = cine_of(form, tmp_path / "x.dcm", greys(4), NumberOfFrames=said)
    images = images_of(tmp_path / "x.dcm")
    assert len(images) == 4
    for image, whole in zip(images, wanted, strict=True):
        assert np.abs(image.astype(int) - whole).mean() < 3


@pytest.mark.requirement("C-09")
def test_a_picture_in_several_parts_is_one(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    wanted = cine_of("JPEG grey", path, greys(4))
    data = dcmread(path)
    frames = list(generate_frames(data.PixelData, number_of_frames=4))
    data.PixelData = encapsulate(frames, fragments_per_frame=3)
    data.NumberOfFrames = 2  # and the header is wrong besides
    data.save_as(path)
    assert len(images_of(path)) == len(wanted)


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("form", [f for f in FORMS if "JPEG" in f or f in ("grey", "RGB", "RLE grey")])
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.05, 0.99))
def test_of_a_cut_file_the_whole_pictures_are_kept(tmp_path_factory: pytest.TempPathFactory, form: str, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.dcm"
    wanted = cine_of(form, path, greys(4))
    data = path.read_bytes()
    header = len(data) - len(dcmread(path).PixelData)
    path.write_bytes(data[: header + round(share * (len(data) - header))])
    damaged: list[int] = []
    try:
        found = list(open_cine(path).pictures(damaged.append))
    except InputError as error:
        assert "cut off" in str(error) and "Error" not in str(error)
        assert share < 0.3  # one of four may be whole from there on
        return
    assert [index for index, _ in found] == list(range(len(found))) and len(found) <= 4
    assert len(found) >= int(share * 4 - 0.3)  # pictures are not equally long
    for index, image in found:
        assert np.abs(image.astype(int) - wanted[index]).mean() < 3


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_one_damaged_picture_leaves_the_others_at_their_times(tmp_path: Path, cut: float) -> None:
    path = tmp_path / "x.dcm"
    cine_of("JPEG grey", path, greys(4), FrameTime=50)
    data = dcmread(path)
    frames = list(generate_frames(data.PixelData, number_of_frames=4))
    frames[1] = frames[1][: round(len(frames[1]) * cut)]
    data.PixelData = encapsulate(frames)
    data.save_as(path)
    with DicomSource(path, fast=True) as source:
        played = list(iter(source.read, None))
    assert source.decode_errors == 1
    assert [(f.t_mono_ns - played[0].t_mono_ns) // 10**6 for f in played] == [0, 100, 150]


@pytest.mark.requirement("C-09")
def test_a_still_that_is_cut_is_told_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    cine_of("JPEG grey", path, greys(1))
    path.write_bytes(path.read_bytes()[:-120])
    for read in (images_of, read_image):
        with pytest.raises(InputError, match="its picture cannot be decoded .JPEG Baseline.*cut off or damaged"):
            read(path)


# -- files that are something else, or lack their beginning


def document(kind: str, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = kind, generate_uid()
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = kind, data.SOPInstanceUID
    data.PatientName = "Canary^Jane"
    for name, value in tags.items():
        setattr(data, name, value)
    return data


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (BasicTextSRStorage, "of the kind Basic Text SR, without a picture"),
        (GrayscaleSoftcopyPresentationStateStorage, "of the kind Grayscale Softcopy Presentation State, without a picture"),
        (EncapsulatedPDFStorage, "of the kind Encapsulated PDF, without a picture"),
        (MediaStorageDirectoryStorage, "the table of contents of a DICOM medium"),
        ("1.2.3.4.5.Canary", "a DICOM file without a picture"),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.filterwarnings("ignore")
def test_what_holds_no_picture_is_told_by_its_kind(tmp_path: Path, kind: str, told: str, syntax: str) -> None:
    path = tmp_path / "x.dcm"
    document(kind, syntax).save_as(path, enforce_file_format=True)
    for read in (open_cine, read_image):
        with pytest.raises(InputError, match=told) as caught:
            read(path)
        assert "Canary" not in str(caught.value) and "Error" not in str(caught.value)


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("form", ["grey", "RGB", "JPEG"])
@pytest.mark.parametrize("meta", [True, False])
def test_the_preamble_may_be_missing(tmp_path: Path, form: str, meta: bool) -> None:
    path = tmp_path / "IM0001"
    wanted = cine_of(form, path, greys(2))
    if meta:
        path.write_bytes(path.read_bytes()[132:])
    elif form == "JPEG":
        return  # without the file's meta group nothing says how it is compressed
    else:
        data = dcmread(path)
        data.file_meta, data.preamble = FileMetaDataset(), None
        data.save_as(path, implicit_vr=True, little_endian=True)
    assert is_dicom(path) and len(images_of(path)) == len(wanted)


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("lacks", ["Rows", "BitsAllocated", "PhotometricInterpretation", "SamplesPerPixel"])
def test_what_a_header_lacks_is_named(tmp_path: Path, lacks: str) -> None:
    cine_of("grey", tmp_path / "x.dcm", greys(1))
    data = dcmread(tmp_path / "x.dcm")
    del data[lacks]
    data.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=f"lacks {lacks}"):
        open_cine(tmp_path / "x.dcm")


@pytest.mark.requirement("C-09")
@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1), value=st.integers(0, 255), form=st.sampled_from(["grey", "JPEG", "RLE RGB", "JPEG 2000"]))
def test_a_byte_that_is_wrong_is_told_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, where: float, value: int, form: str
) -> None:
    path = tmp_path_factory.mktemp("byte") / "x.dcm"
    cine_of(form, path, greys(2))
    data = bytearray(path.read_bytes())
    data[round(where * (len(data) - 1))] = value
    path.write_bytes(data)
    try:
        images_of(path)
    except InputError as error:
        assert "Error" not in str(error) and "Canary" not in str(error)


# -- what is large


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("form", ["RGB", "JPEG"])
def test_a_long_cine_takes_no_more_memory_than_a_picture(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x.dcm"
    cine_of(form, path, greys(10, 240, 320) * 12)
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_cine(path).pictures())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 120 and peak < 12 * 240 * 320 * 3


@pytest.mark.requirement("C-09")
def test_a_size_that_no_picture_has_is_refused_before_it_is_read(tmp_path: Path) -> None:
    cine_of("RLE grey", tmp_path / "x.dcm", greys(1), Rows=60000, Columns=60000)
    assert PIXELS_MAX < 60000**2
    with pytest.raises(InputError, match="60000 x 60000 pixels; a picture has up to"):
        open_cine(tmp_path / "x.dcm")


@pytest.mark.requirement("C-09")
def test_a_file_that_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.capture.dicom.INFLATED_MAX", 2**20)
    data = document("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1.99", BitsAllocated=8, PixelData=bytes(2**20))
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="MiB once inflated"):
        open_cine(tmp_path / "x.dcm")


# -- compressions that a plugin decodes


@pytest.mark.requirement("C-09")
@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless])
@pytest.mark.parametrize("form", ["grey", "RGB"])
def test_lossless_jpeg_and_jpeg_ls_are_read_where_gdcm_is(tmp_path: Path, form: str, syntax: str) -> None:
    gdcm = pytest.importorskip("gdcm")
    path = tmp_path / "x.dcm"
    wanted = cine_of(form, path, greys(3))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    if not change.Change():
        pytest.skip("this gdcm does not encode it")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write() and dcmread(path).file_meta.TransferSyntaxUID == syntax
    images = images_of(path)
    assert len(images) == 3
    for image, whole in zip(images, wanted, strict=True):
        assert np.abs(image.astype(int) - whole).mean() < 3


# -- file: by content


@pytest.mark.requirement("C-10")
@pytest.mark.parametrize("name", ["x.dcm", "IM0001", "1.2.840.3", "clip.mp4"])
def test_file_takes_dicom_for_what_it_is(tmp_path: Path, name: str) -> None:
    cine_of("JPEG", tmp_path / name, greys(3))
    with open_source(f"file:{tmp_path}/{name}", CaptureConfig(), fast=True) as source:
        assert isinstance(source, DicomSource) and len(list(iter(source.read, None))) == 3


@pytest.mark.requirement("C-10")
def test_file_takes_a_folder_of_pictures_for_what_it_is(tmp_path: Path) -> None:
    import cv2

    for number, image in enumerate(greys(3)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    cine_of("grey", tmp_path / "IM0001", greys(2))
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7")
    with open_source(f"file:{tmp_path}", CaptureConfig(), fast=True) as source:
        assert isinstance(source, ImagesSource) and len(list(iter(source.read, None))) == 5
    assert source.decode_errors == 0


@pytest.mark.requirement("C-10")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "a folder without pictures"),
        (lambda folder: (folder / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom"), "a folder of 1 clips; name one.*file:.*a.mp4"),
    ],
)
def test_file_says_what_a_folder_lacks(tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=told):
        open_source(f"file:{tmp_path}", CaptureConfig(), fast=True)


@pytest.mark.requirement("C-10")
def test_file_takes_a_picture_whole_or_not_at_all(tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), greys(1)[0])
    with open_source(f"file:{path}", CaptureConfig(), fast=True) as source:
        assert [frame.image.shape[:2] for frame in iter(source.read, None)] == [(HIGH, WIDE)]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="a JPEG that is cut off"):
        open_source(f"file:{path}", CaptureConfig(), fast=True).open()


def test_file_leaves_clips_and_what_is_not_there_to_the_clips_reader(tmp_path: Path) -> None:
    assert isinstance(open_source(f"file:{tmp_path}/none.mp4", CaptureConfig()), FileSource)


assert JPEG["quality"] == 95  # the tolerances above are for it
