"""Events as DICOM Secondary Capture: the evidence image, and the clip as a multi-frame one. No patient is in them.

A PACS wants a patient: whoever imports them adds name and number there. UIDs follow from the evidence's own hash and its
review, so that the same event exported twice is the same object, and one reviewed since is another of the same series.
"""

from __future__ import annotations

import io
import uuid
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MultiFrameGrayscaleByteSecondaryCaptureImageStorage
from pydicom.uid import SecondaryCaptureImageStorage as STILL

from edge import __version__
from edge.events.clip import decode_webp
from edge.events.evidence import WORDS, holds_no_patient
from edge.records import Event

MOVING = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
_NAMESPACE = uuid.UUID("5b0f9a5e-6b1c-4a52-9d60-0f6b3a8a5c11")  # ours, drawn once


def still_object(event: Event, png: bytes) -> bytes:
    """The evidence image as an RGB Secondary Capture."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    data = _dataset(event, STILL, "still", 1)
    if holds_no_patient(png):
        data.BurnedInAnnotation = (
            "NO"  # optional here, and absent it says what is so: that nobody knows (PS3.3 C.7.6.1)
        )
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = pixels.shape[:2]
    return _file(data, pixels.tobytes())


def clip_object(event: Event, webp: bytes, png: bytes) -> bytes:
    """The clip as a Multi-frame Grayscale Byte Secondary Capture. `png`: the event's image, which knows what may be in both."""
    images, ms_each = decode_webp(webp)
    data = _dataset(event, MOVING, "clip", 2)
    data.BurnedInAnnotation = (
        "NO" if holds_no_patient(png) else "YES"
    )  # wanted here (PS3.3 C.8.6.3): then the safe word
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = images[0].shape
    data.NumberOfFrames, data.FrameTime = len(images), ms_each
    data.FrameIncrementPointer = 0x00181063  # frames follow each other by FrameTime
    data.PresentationLUTShape, data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "IDENTITY", 0, 1, "US"
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "RFC_9649"  # WebP; DICOM names no term for it
    data.LossyImageCompressionRatio = round(sum(i.size for i in images) / len(webp), 1)
    return _file(data, np.stack(images).tobytes())


def _dataset(event: Event, kind: UID, part: str, series: int) -> FileDataset:
    instance = _uid(event, f"{part} {event.review} {event.reviewed_by}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: reviewers have names
    data.SOPClassUID, data.SOPInstanceUID = kind, instance
    taken = datetime.fromisoformat(event.t_wall.replace("Z", "+00:00"))
    date, clock = taken.strftime("%Y%m%d"), taken.strftime("%H%M%S.%f")
    data.StudyDate = data.ContentDate = data.DateOfSecondaryCapture = date
    data.StudyTime = data.ContentTime = data.TimeOfSecondaryCapture = clock
    data.TimezoneOffsetFromUTC = "+0000"
    data.PatientName = data.PatientID = data.PatientBirthDate = data.PatientSex = ""
    data.ReferringPhysicianName = data.AccessionNumber = ""
    data.StudyInstanceUID, data.StudyID = _uid(event, "study"), str(event.id)
    data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = _uid(event, part + " series"), series, 1
    data.Modality, data.ConversionType, data.ImageType = "OT", "WSD", ["DERIVED", "SECONDARY"]
    data.PatientOrientation = data.Laterality = ""
    data.Manufacturer = data.SecondaryCaptureDeviceManufacturer = "hygroma-edge"
    data.SecondaryCaptureDeviceManufacturerModelName = "hygroma-edge"
    data.SecondaryCaptureDeviceSoftwareVersions = __version__
    data.StudyDescription = "Suspected nuchal collection"
    data.SeriesDescription = "hygroma-edge evidence " + part
    review = event.review + (f" by {event.reviewed_by}" if event.reviewed_by else "")
    data.ImageComments = (
        f"{WORDS}. Research prototype, not a diagnosis. Exam {event.exam_id}, score {event.hygroma:.3f},"
        f" evidence {event.evidence:.2f}, bundle {event.bundle}, review {review}"
        + (f". Boundary not sure: {event.boundary}" if event.boundary else "")
        + (f". Decision overridden: {event.overrides}" if event.overrides else "")
        + (f". Clock {event.clock}" if event.clock else "")
    )
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    return data


def _file(data: FileDataset, pixels: bytes) -> bytes:
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    data["PixelData"].VR = "OB"
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _uid(event: Event, part: str) -> UID:
    """2.25 and a UUID as a number (DICOM PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{event.image_sha256} {event.t_wall} {event.id} {part}').int}")
