"""RTSTRUCT and SEG objects of masks on a DICOM series (PS3.3 A.19 and A.51)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from gtvbench.bench.core.digest import digest_array
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.pictures.contours import outline

#: Named in every object, so that the DICOM source never takes one for a reference.
MANUFACTURER = "gtvbench"
COLOURS = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (166, 86, 40))
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as RTReferencedStudySequence has it
_MOVES = re.compile(r"([Mhvz])(-?\d+)?(?: (-?\d+))?")
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
          "StudyDescription")  # fmt: skip

Masks = Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Subject:
    """What an object is about: study of the benchmark, case, arm; headers of the series in the order of `grid`'s z."""

    study: str
    case: str
    arm: str
    headers: tuple[Dataset, ...]
    grid: Grid

    def uid(self, *parts: object) -> str:
        """A UID that depends on what is exported alone: a second export is the same object."""
        source = self.headers[0].SeriesInstanceUID
        return str(generate_uid(entropy_srcs=[MANUFACTURER, self.study, self.case, self.arm, source, *map(str, parts)]))


def rtstruct(subject: Subject, masks: Masks) -> Dataset:
    """An RTSTRUCT whose contours run along voxel edges: by the even-odd rule at voxel centres they are the masks again.

    `masks`: bool (z, y, x) by structure. One that is empty becomes a region without contours.
    """
    content = digest_array(np.stack(list(masks.values())))
    ds = _general(subject, "RTSTRUCT", str(RTStructureSetStorage), content)
    now = datetime.now()
    ds.StructureSetLabel, ds.StructureSetName = subject.arm[:16], subject.arm[:64]
    ds.StructureSetDate, ds.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.ApprovalStatus, ds.InstanceNumber = "UNAPPROVED", 1
    frame = str(subject.headers[0].FrameOfReferenceUID)
    ds.FrameOfReferenceUID = frame
    ds.ReferencedFrameOfReferenceSequence = [_references(subject.headers)]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, mask) in enumerate(masks.items(), 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID, roi.ROIName = number, frame, name
        roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription = "AUTOMATIC", f"{MANUFACTURER} {subject.arm}"[:64]
        drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
        drawn.ReferencedROINumber = number
        slices = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
        contours = [_contour(subject, z, loop) for z in slices for loop in _loops(mask[z])]
        if contours:
            drawn.ContourSequence = contours
        seen.ObservationNumber, seen.ReferencedROINumber, seen.ROIInterpreter = number, number, ""
        seen.RTROIInterpretedType = "GTV" if name.upper().startswith("GTV") else ""
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(seen)
    return ds


def seg(subject: Subject, masks: Masks) -> Dataset | None:
    """A binary SEG of the masks that are not empty, one segment a structure; None where all are empty."""
    import highdicom
    from pydicom.sr.codedict import codes

    kept = {name: mask for name, mask in masks.items() if mask.any()}
    if not kept:
        return None
    content = digest_array(np.stack(list(kept.values())))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=subject.arm[:64], family=codes.DCM.ArtificialIntelligence, version=version("gtvbench")
    )
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=subject.uid("segment", name),
            tracking_id=f"{subject.case} {name}",
        )
        for number, name in enumerate(kept, 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=list(subject.headers),
        pixel_array=np.stack(list(kept.values()), axis=-1),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=subject.uid("seg"),
        series_number=_number(subject),
        sop_instance_uid=subject.uid("seg", content),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version("gtvbench"),
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description=subject.arm[:64],
    )


def _general(subject: Subject, modality: str, sop_class: str, content: str) -> Dataset:
    """Patient and study as the source has them; series, equipment and instance of our own."""
    first, ds = subject.headers[0], Dataset()
    if "SpecificCharacterSet" in first:
        ds.SpecificCharacterSet = first.SpecificCharacterSet
    for keyword in (*_PATIENT, *_STUDY):
        setattr(ds, keyword, first.get(keyword, ""))
    now = datetime.now()
    ds.SOPClassUID, ds.SOPInstanceUID = UID(sop_class), UID(subject.uid(modality, content))
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = modality, subject.uid(modality), _number(subject)
    ds.SeriesDate, ds.SeriesTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.SeriesDescription, ds.OperatorsName = subject.arm[:64], ""
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = MANUFACTURER, MANUFACTURER, version("gtvbench")
    ds.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _number(subject: Subject) -> int:
    """A series number out of the scanner's way, the same for every object of an arm."""
    return 9000 + int(subject.uid("number")[-6:]) % 1000


def _references(headers: Sequence[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, headers[0].StudyInstanceUID
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = [_reference(header) for header in headers]
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(header: Dataset) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return ds


def _contour(subject: Subject, z: int, loop: npt.NDArray[np.float64]) -> Dataset:
    """A contour (n, 2) of voxel edges (x, y) in slice z, in the patient's coordinates."""
    item = Dataset()
    item.ContourImageSequence = [_reference(subject.headers[z])]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(loop)
    item.ContourData = [_text(v) for x, y in loop.tolist() for v in subject.grid.world([z, y, x])]
    return item


def _loops(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Outlines of a 2D mask as corners (x, y) in voxel indices; an edge lies half a voxel beside a centre."""
    loops: list[npt.NDArray[np.float64]] = []
    points: list[tuple[int, int]] = []
    for move, first, second in _MOVES.findall(outline(mask)):
        if move == "M":
            points = [(int(first), int(second))]
        elif move == "z":
            if points[-1] == points[0]:
                points.pop()
            loops.append(np.asarray(points, float) - 0.5)
        else:
            x, y = points[-1]
            points.append((x + int(first), y) if move == "h" else (x, y + int(first)))
    return loops


def _text(value: Any) -> str:
    """A decimal string of at most 16 characters: to 1e-4 mm up to 10 m, far from any voxel's centre."""
    return f"{float(value):.4f}".rstrip("0").rstrip(".")
