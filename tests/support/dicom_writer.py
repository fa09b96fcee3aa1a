"""Synthetic DICOM files for tests: an image series and a structure set, each value open to change."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT, PET, STRUCTURES = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.481.3"
FRAME = "1.2.3.4"
AXIAL = (1, 0, 0, 0, 1, 0)

Change = Callable[[Dataset, int], None]


def image(values: np.ndarray, position: Sequence[float], **tags: Any) -> Dataset:
    """A CT slice of stored int16 values (y, x)."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.3.9.{abs(hash(tuple(position))) % 10**9}"
    ds.Modality, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "CT", "1.2.3.5", FRAME
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [float(v) for v in position], list(AXIAL)
    ds.PixelSpacing, ds.SliceThickness = [2.0, 1.5], 3.0
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1000
    ds.PixelData = np.ascontiguousarray(values.astype("<i2")).tobytes()
    for keyword, value in tags.items():
        put(ds, keyword, value)
    return ds


def put(ds: Dataset, keyword: str, value: Any) -> None:
    """Set a tag, or take it away (None)."""
    if value is None:
        if keyword in ds:
            delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    array: np.ndarray,
    change: Change | None = None,
    spacing: float = 3.0,
    start: float = -50.0,
    **tags: Any,
) -> list[Path]:
    """A series of stored values (z, y, x), a file a slice; `change(dataset, z)` alters one before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for z, values in enumerate(array):
        ds = image(values, (-10.0, -20.0, start + z * spacing), InstanceNumber=z + 1, **tags)
        if change is not None:
            change(ds, z)
        files.append(save(ds, folder / f"{z:03d}.dcm"))
    return files


def structures(rois: Mapping[str, Sequence[Any]], frame: str = FRAME, kind: str = "CLOSED_PLANAR") -> Dataset:
    """A structure set: contours (n, 3) in mm by name of region."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = STRUCTURES, "1.2.3.7", "RTSTRUCT"
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
            item.ContourData = [f"{v:.6g}" for v in np.ravel(points)]
            drawn.ContourSequence.append(item)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    return ds


def pet_header(**changes: Any) -> Dataset:
    """Header of a PET slice in Bq/ml: 70 kg, 350 MBq of 18F, injected an hour before the scan at noon."""
    ds = Dataset()
    ds.Modality, ds.Units, ds.DecayCorrection = "PT", "BQML", "START"
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    ds.SeriesDate, ds.SeriesTime = "20200301", "120000"
    ds.AcquisitionDate, ds.AcquisitionTime = "20200301", "120000"
    ds.PatientWeight = "70"
    item, code = Dataset(), Dataset()
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = "350000000", "6588"
    item.RadiopharmaceuticalStartTime = "110000"
    code.CodeValue = "C-111A1"
    item.RadionuclideCodeSequence = [code]
    ds.RadiopharmaceuticalInformationSequence = [item]
    for keyword, value in changes.items():
        put(item if keyword.startswith("Radio") else ds, keyword, value)
    return ds
