"""Label maps as RTSTRUCT contours along voxel edges, and as SEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom
import numpy as np
import numpy.typing as npt
from dicom_patient import Person, Study, ds_text, general
from pydicom import Dataset
from pydicom.sr.codedict import codes

from gtvbench.bench.core.geometry import Grid

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
Mask = npt.NDArray[np.bool_]


def edge_loops(mask: Mask) -> list[npt.NDArray[np.float64]]:
    """Closed loops (n, 2) of points (x, y), in pixel indices, along the edges between a mask (y, x) and what is not.

    Corners only. By the even-odd rule at pixel centres they enclose exactly the mask, whichever way loops that meet at
    a corner are told apart.
    """
    padded = np.pad(mask, 1)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(
        rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], start: tuple[int, int], end: tuple[int, int]
    ) -> None:
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            steps.setdefault((y + start[0], x + start[1]), []).append((y + end[0], x + end[1]))

    # Corner (i, j) lies at (i - 0.5, j - 0.5) of the padded pixels; inside is to the right of every step.
    add(*np.nonzero(padded[1:] & ~padded[:-1]), (1, 0), (1, 1))
    add(*np.nonzero(padded[:-1] & ~padded[1:]), (1, 1), (1, 0))
    add(*np.nonzero(padded[:, 1:] & ~padded[:, :-1]), (1, 1), (0, 1))
    add(*np.nonzero(padded[:, :-1] & ~padded[:, 1:]), (0, 1), (1, 1))
    loops = []
    while steps:
        here = start = next(iter(steps))
        loop = []
        while True:
            loop.append(here)
            ends = steps[here]
            here = ends.pop()
            if not ends:
                del steps[loop[-1]]
            if here == start:
                break
        points = np.asarray(loop, float)[:, ::-1] - 1.5
        turns = np.any(np.roll(points, -1, axis=0) - points != points - np.roll(points, 1, axis=0), axis=1)
        loops.append(points[turns])
    return loops


def structure_set(
    person: Person,
    study: Study,
    number: int,
    image: Sequence[Dataset],
    grid: Grid,
    masks: Mapping[str, Mask],
    description: str = "RTstruct HN",
) -> Dataset:
    """An RTSTRUCT of masks (z, y, x) by name, drawn on the slices of `image` (in the grid's order).

    An empty mask becomes a region without contours, as planning systems leave it.
    """
    first = image[0]
    ds = general(person, study, RTSTRUCT, "RTSTRUCT", number, description)
    del ds.ImageType, ds.AcquisitionDate, ds.AcquisitionTime, ds.AcquisitionNumber
    ds.SOPInstanceUID = person.uid(study.name, "rtstruct", number)
    ds.StructureSetLabel, ds.StructureSetName, ds.InstanceNumber = "HN", "HN", 1
    ds.StructureSetDate, ds.StructureSetTime = ds.SeriesDate, ds.SeriesTime
    ds.ApprovalStatus = "UNAPPROVED"
    ds.ReferencedFrameOfReferenceSequence = [_references(image)]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for index, (name, mask) in enumerate(masks.items(), 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = index, name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = index, [255, 40 * index % 256, 0]
        if mask.any():
            drawn.ContourSequence = [
                _contour(image[z], grid, z, loop)
                for z in np.flatnonzero(mask.any(axis=(1, 2))).tolist()
                for loop in edge_loops(mask[z])
            ]
        seen.ObservationNumber, seen.ReferencedROINumber = index, index
        seen.RTROIInterpretedType, seen.ROIInterpreter = "GTV" if name.upper().startswith("GTV") else "ORGAN", ""
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(seen)
    return ds


def _references(image: Sequence[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = image[0].FrameOfReferenceUID
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = image[0].StudyInstanceUID
    series.SeriesInstanceUID = image[0].SeriesInstanceUID
    series.ContourImageSequence = [_reference(ds) for ds in image]
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(image: Dataset) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return ds


def _contour(image: Dataset, grid: Grid, z: int, loop: npt.NDArray[np.float64]) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [_reference(image)]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(loop)
    item.ContourData = [ds_text(float(v)) for x, y in loop for v in grid.world([z, y, x])]
    return item


def segmentation(
    person: Person, study: Study, number: int, image: Sequence[Dataset], masks: Mapping[str, Mask]
) -> Dataset:
    """A binary SEG of masks (z, y, x) by name on the slices of `image`; empty masks are left out."""
    kept = {name: mask for name, mask in masks.items() if mask.any()}
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=index,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_uid=highdicom.UID(person.uid(study.name, number, name)),
            tracking_id=name,
        )
        for index, name in enumerate(kept, 1)
    ]
    ds = highdicom.seg.Segmentation(
        source_images=list(image),
        pixel_array=np.stack(list(kept.values()), axis=-1),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=person.uid(study.name, "series", number),
        series_number=number,
        sop_instance_uid=person.uid(study.name, "seg", number),
        instance_number=1,
        manufacturer="Segmenter Inc",
        manufacturer_model_name="Contourist",
        software_versions="2.1",
        device_serial_number="SEG9911",
        content_label="HN",
        content_creator_name="Haberkorn^Dietlinde",
        series_description="Segmentation HN",
    )
    # The library writes the present date; a test that looks for the patient's dates must not meet the run's own.
    template = general(person, study, str(ds.SOPClassUID), "SEG", number, "Segmentation HN")
    for keyword in ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "SeriesDate"):
        setattr(ds, keyword, template.get(keyword))
    return ds
