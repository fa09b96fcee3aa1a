"""What the index keeps of a DICOM file's header: enough to choose series by, and nothing of the pixels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydicom import Dataset

from gtvbench.datasets.dicom.headers.tags import Header

#: Raised when facts gain a field or are taken from the header in another way: older caches are then not believed.
FACTS_VERSION = 1

#: Modalities whose objects carry structures.
CARRIERS = ("RTSTRUCT", "SEG")
_MOST_NAMES = 2000


@dataclass(frozen=True)
class Facts:
    """Values of a header that all files of one stack of slices share (all of the file, for a structure set).

    Texts are as the file has them, empty where it does not; numbers are None there. Times are in ms, spacing (row,
    column) and thickness in mm. `rois` are the names of structures or segments of a structure set, `references` the
    UIDs of the series that it was drawn on, `frames_of_reference` those it names.
    """

    patient: str = ""
    patient_name: str = ""
    birth_date: str = ""
    study: str = ""
    study_date: str = ""
    study_description: str = ""
    series: str = ""
    series_number: str = ""
    made: str = ""
    modality: str = ""
    description: str = ""
    protocol: str = ""
    frame_of_reference: str = ""
    image_type: tuple[str, ...] = ()
    rows: int = 0
    columns: int = 0
    frames: int = 1
    spacing: tuple[float, ...] = ()
    thickness: float | None = None
    orientation: tuple[float, ...] = ()
    units: str = ""
    corrected: tuple[str, ...] = ()
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    sequence: tuple[str, ...] = ()
    contrast: str = ""
    kernel: str = ""
    manufacturer: str = ""
    rois: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    frames_of_reference: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable form without what is absent."""
        blank = Facts()
        return {name: value for name, value in asdict(self).items() if value != getattr(blank, name)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Facts:
        """Inverse of `as_dict`."""
        known = {field.name for field in fields(cls)}
        if not known.issuperset(record):
            raise ValueError("facts of another version")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**values)


@dataclass(frozen=True)
class FileFacts:
    """`facts`, and what differs from slice to slice: a digest of the SOPInstanceUID and the position (x, y, z; mm)."""

    facts: Facts
    instance: str
    position: tuple[float, ...]


def facts_of(header: Header) -> FileFacts:
    """Facts of a header; values that cannot be read count as absent here, and are errors where they are needed."""
    text = header.text
    modality = text("Modality").upper()
    carrier = modality in CARRIERS
    facts = Facts(
        patient=text("PatientID"),
        patient_name=text("PatientName"),
        birth_date=text("PatientBirthDate"),
        study=text("StudyInstanceUID"),
        study_date=text("StudyDate"),
        study_description=text("StudyDescription"),
        series=text("SeriesInstanceUID"),
        series_number=text("SeriesNumber"),
        made=_made(header),
        modality=modality,
        description=text("SeriesDescription"),
        protocol=text("ProtocolName"),
        frame_of_reference=text("FrameOfReferenceUID"),
        image_type=_texts(header, "ImageType"),
        rows=_count(header, "Rows", 0),
        columns=_count(header, "Columns", 0),
        frames=_count(header, "NumberOfFrames", 1),
        spacing=_numbers(header, "PixelSpacing"),
        thickness=next(iter(_numbers(header, "SliceThickness")), None),
        orientation=_numbers(header, "ImageOrientationPatient"),
        units=text("Units").upper(),
        corrected=_texts(header, "CorrectedImage"),
        repetition_time=next(iter(_numbers(header, "RepetitionTime")), None),
        echo_time=next(iter(_numbers(header, "EchoTime")), None),
        inversion_time=next(iter(_numbers(header, "InversionTime")), None),
        sequence=_texts(header, "ScanningSequence"),
        contrast=text("ContrastBolusAgent"),
        kernel=text("ConvolutionKernel"),
        manufacturer=text("Manufacturer"),
        rois=_names(header) if carrier else (),
        references=_references(header) if carrier else (),
        frames_of_reference=_frames(header) if carrier else (),
    )
    instance = hashlib.sha256(text("SOPInstanceUID").encode()).hexdigest()[:16] if text("SOPInstanceUID") else ""
    return FileFacts(facts, instance, _numbers(header, "ImagePositionPatient"))


def short_id(uid: str) -> str:
    """A short name of a series or structure set for study files and messages: a digest of its UID, so never the UID."""
    return "s-" + hashlib.sha256(uid.encode()).hexdigest()[:6]


def _made(header: Header) -> str:
    """When a series or structure set was made, as sortable text: date and time."""
    for day, clock in (("StructureSetDate", "StructureSetTime"), ("ContentDate", "ContentTime"),
                       ("SeriesDate", "SeriesTime"), ("AcquisitionDate", "AcquisitionTime"),
                       ("StudyDate", "StudyTime")):  # fmt: skip
        if header.text("Modality") not in CARRIERS and day in ("StructureSetDate", "ContentDate"):
            continue  # the content of an image is another from slice to slice
        if header.text(day):
            return header.text(day) + header.text(clock)[:6]
    return ""


def _numbers(header: Header, keyword: str) -> tuple[float, ...]:
    try:
        found = header.numbers(keyword) or ()
    except Exception:  # damaged: an error where the value is needed, which the index does not know yet
        return ()
    return tuple(round(v, 6) for v in found) if all(math.isfinite(v) for v in found) else ()


def _count(header: Header, keyword: str, absent: int) -> int:
    found = _numbers(header, keyword)
    return int(found[0]) if len(found) == 1 and 0 <= found[0] < 1e6 else absent


def _texts(header: Header, keyword: str) -> tuple[str, ...]:
    try:
        value = header.dataset.get(keyword)
        if value is None or value == "":
            return ()
        many = [value] if isinstance(value, str) else list(value)
    except Exception:  # see `_numbers`
        return ()
    return tuple(str(item).strip().upper() for item in many)


def _items(header: Header, keyword: str) -> list[Header]:
    try:
        return [header.within(item) for item in header.items(keyword) if isinstance(item, Dataset)]
    except Exception:  # see `_numbers`
        return []


def _names(header: Header) -> tuple[str, ...]:
    regions = [
        item.text("ROIName") or f"ROI {item.text('ROINumber')}" for item in _items(header, "StructureSetROISequence")
    ]
    segments = [
        item.text("SegmentLabel") or f"segment {item.text('SegmentNumber')}"
        for item in _items(header, "SegmentSequence")
    ]
    return tuple((regions or segments)[:_MOST_NAMES])


def _references(header: Header) -> tuple[str, ...]:
    """UIDs of the series that a structure set was drawn on, or a segmentation made from."""
    found = [item.text("SeriesInstanceUID") for item in _items(header, "ReferencedSeriesSequence")]
    for frame in _items(header, "ReferencedFrameOfReferenceSequence"):
        for study in _items(frame, "RTReferencedStudySequence"):
            found += [series.text("SeriesInstanceUID") for series in _items(study, "RTReferencedSeriesSequence")]
    return tuple(dict.fromkeys(uid for uid in found if uid))


def _frames(header: Header) -> tuple[str, ...]:
    found = [item.text("FrameOfReferenceUID") for item in _items(header, "ReferencedFrameOfReferenceSequence")]
    found += [item.text("ReferencedFrameOfReferenceUID") for item in _items(header, "StructureSetROISequence")]
    return tuple(dict.fromkeys(uid for uid in (*found, header.text("FrameOfReferenceUID")) if uid))
