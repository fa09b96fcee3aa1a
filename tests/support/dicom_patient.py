"""Headers of a made-up patient as scanners fill them, and image series written slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from gtvbench.bench.core.geometry import Grid, Volume

CT, MR, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
HALF_LIFE_S = 6586.2
_SURNAMES = ("Quistorff", "Vanderheyden", "Oyelaran", "Lindqvist", "Czarniecki", "Übelacker")
_GIVEN = ("Wendelgard", "Thibault", "Adaeze", "Sigrunn", "Bogumiła", "Jörgen")


@dataclass(frozen=True)
class Person:
    """Who a patient is said to be, and when and with what they were examined; drawn from a seed and a name."""

    name: str
    identity: str
    birth: date
    sex: str
    weight_kg: float
    dose_bq: float
    scanned: datetime
    uptake_s: float
    key: str = field(repr=False, default="")

    @classmethod
    def draw(cls, rng: np.random.Generator, key: str) -> Person:
        scanned = datetime(2011, 1, 1, 9) + timedelta(
            days=int(rng.integers(0, 3000)), minutes=int(rng.integers(0, 400))
        )
        return cls(
            name=f"{rng.choice(_SURNAMES)}{rng.integers(10, 99)}^{rng.choice(_GIVEN)}^^^",
            identity=f"KH{rng.integers(10**8, 10**9)}",
            birth=date(1930, 1, 1) + timedelta(days=int(rng.integers(0, 18_000))),
            sex=str(rng.choice(["M", "F"])),
            weight_kg=round(float(rng.uniform(48, 110)), 1),
            dose_bq=float(rng.integers(250_000_000, 420_000_000)),
            scanned=scanned,
            uptake_s=float(rng.integers(3000, 5400)),
            key=key,
        )

    def uid(self, *parts: object) -> str:
        """A UID that depends on the patient and on `parts` alone."""
        return str(generate_uid(entropy_srcs=["gtvbench-tree", self.key, *map(str, parts)]))

    @property
    def suv_a_bqml(self) -> float:
        """Body-weight SUV of 1 Bq/ml at the scan's start."""
        return 1000 * self.weight_kg / (self.dose_bq * 2 ** (-self.uptake_s / HALF_LIFE_S))


@dataclass(frozen=True)
class Study:
    """One examination: its name (of which UIDs are made), when it began, and what its description says."""

    name: str
    began: datetime
    description: str


@dataclass(frozen=True)
class SeriesKind:
    """What makes one series: where it stands in its study, what its headers say beyond the general ones."""

    name: str
    sop_class: str
    modality: str
    number: int
    description: str
    frame: str
    tags: dict[str, Any] = field(default_factory=dict)
    syntax: str = ExplicitVRLittleEndian


def general(person: Person, study: Study, sop_class: str, modality: str, number: int, description: str) -> Dataset:
    """Patient, study, series and equipment of any object, as an archive hands it out (series named by its number)."""
    began = study.began + timedelta(minutes=4 * number)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = sop_class
    ds.StudyDate = ds.AcquisitionDate = ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = f"{began:%Y%m%d}"
    ds.StudyTime = f"{study.began:%H%M%S}.125000"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = f"{began:%H%M%S}.250000"
    ds.AccessionNumber = f"ACC{abs(int.from_bytes(person.uid(study.name)[-9:].encode()[:6], 'big')) % 10**8:08d}"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = modality, "Examplar Medical", "Panorama 64"
    ds.InstitutionName, ds.InstitutionAddress = "Marienspital Hinterwaldau", "Lindenallee 77, Hinterwaldau"
    ds.ReferringPhysicianName, ds.PerformingPhysicianName = "Haberkorn^Dietlinde", "Achterberg^Roelof"
    ds.OperatorsName, ds.StationName = "Mtra^Zwetana", "CTAWP75553"
    ds.StudyDescription, ds.SeriesDescription = study.description, description
    ds.PatientName, ds.PatientID, ds.PatientSex = person.name, person.identity, person.sex
    ds.PatientBirthDate, ds.PatientWeight = f"{person.birth:%Y%m%d}", DSfloat(person.weight_kg)
    ds.PatientAge, ds.PatientSize = f"{(study.began.date() - person.birth).days // 365:03d}Y", DSfloat(1.74)
    ds.DeviceSerialNumber, ds.SoftwareVersions = "SN7755331", "vx 41"
    ds.BodyPartExamined, ds.PatientPosition = "HEADNECK", "HFS"
    ds.StudyInstanceUID = person.uid(study.name)
    ds.SeriesInstanceUID = person.uid(study.name, "series", number)
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = f"{person.uid(study.name)[-6:]}", number, 1
    return ds


def series(person: Person, study: Study, kind: SeriesKind, volume: Volume) -> tuple[list[Dataset], Volume]:
    """A series of a volume (HU, Bq/ml or scanner units) as one dataset a slice, and the volume as those hold it.

    CT and MR are rounded to integers (by at most 0.5); PET has a slope of its own in every slice, and is off by at most
    half of it: 1/65534 of the slice's largest value.
    """
    grid, found = volume.grid, []
    if np.linalg.det(grid.matrix) < 0:
        raise ValueError("DICOM slices are stacked along row x column: the grid must be right-handed")
    held = np.empty(grid.shape, np.float32)
    for z in range(grid.shape[0]):
        ds = general(person, study, kind.sop_class, kind.modality, kind.number, kind.description)
        ds.SOPInstanceUID = person.uid(study.name, kind.number, z)
        _place(ds, grid, z, kind.frame)
        held[z] = _pixels(ds, volume.array[z], kind.modality)
        _describe(ds, person, study, kind)
        found.append(ds)
    return found, Volume(held, grid)


def ds_text(value: float) -> str:
    """A number as DS: at most 16 characters."""
    for digits in range(12, 4, -1):
        if len(text := f"{value:.{digits}g}") <= 16:
            return text
    raise ValueError(f"{value} does not fit 16 characters")


def numbers(values: Sequence[float] | npt.NDArray[Any]) -> list[str]:
    return [ds_text(float(v)) for v in values]


def _place(ds: Dataset, grid: Grid, z: int, frame: str) -> None:
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame, ""
    ds.ImagePositionPatient = numbers(grid.world([z, 0, 0]))
    ds.ImageOrientationPatient = numbers([*grid.matrix[:, 0], *grid.matrix[:, 1]])
    ds.PixelSpacing, ds.SliceThickness = numbers(grid.spacing[1:]), ds_text(grid.spacing[0])
    ds.SliceLocation = ds_text(float(grid.world([z, 0, 0])[2]))
    ds.InstanceNumber = grid.shape[0] - z  # from head to feet, against the order in space
    ds.Rows, ds.Columns = grid.shape[1:]


def _pixels(ds: Dataset, values: npt.NDArray[np.float32], modality: str) -> npt.NDArray[np.float32]:
    """Store a slice; its values as a reader gets them back."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated = 1, "MONOCHROME2", 16
    if modality == "CT":
        slope, intercept, bits, signed = 1.0, -1024.0, 16, 1
    elif modality == "PT":
        slope, intercept, bits, signed = max(float(values.max()), 1e-3) / 32767, 0.0, 16, 1
    else:
        slope, intercept, bits, signed = 1.0, 0.0, 16, 0
    text = ds_text(slope)
    stored = np.rint((values.astype(np.float64) - intercept) / float(text))
    limits = (-32768, 32767) if signed else (0, 65535)
    if stored.min() < limits[0] or stored.max() > limits[1]:
        raise ValueError(f"{modality} values of {values.min():g} to {values.max():g} do not fit 16 bits")
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, signed
    if modality != "MR":
        ds.RescaleIntercept, ds.RescaleSlope = ds_text(intercept), text
    ds.WindowCenter, ds.WindowWidth = ds_text(float(np.mean(values))), ds_text(float(np.ptp(values)) + 1)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return (stored * float(text) + intercept).astype(np.float32)


def _describe(ds: Dataset, person: Person, study: Study, kind: SeriesKind) -> None:
    if kind.modality == "CT":
        ds.RescaleType, ds.KVP, ds.ConvolutionKernel = "HU", "120", "B30f"
        ds.ProtocolName, ds.GantryDetectorTilt = "HeadNeck", "0"
    elif kind.modality == "PT":
        _describe_pet(ds, person, study)
    for keyword, value in kind.tags.items():
        setattr(ds, keyword, value)


def _describe_pet(ds: Dataset, person: Person, study: Study) -> None:
    ds.Units, ds.CountsSource, ds.SeriesType = "BQML", "EMISSION", ["WHOLE BODY", "IMAGE"]
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RANSNG", "NORM"]
    ds.DecayCorrection, ds.AttenuationCorrectionMethod = "START", "CT-based"
    ds.NumberOfSlices, ds.ActualFrameDuration, ds.ProtocolName = ds.Rows, "120000", "PET HN"
    began = datetime.strptime(f"{ds.SeriesDate}{ds.SeriesTime}", "%Y%m%d%H%M%S.%f")
    injected = began - timedelta(seconds=person.uptake_s)
    item, tracer, nuclide = Dataset(), Dataset(), Dataset()
    item.Radiopharmaceutical, item.RadiopharmaceuticalStartTime = "FDG", f"{injected:%H%M%S.%f}"
    item.RadiopharmaceuticalStartDateTime = f"{injected:%Y%m%d%H%M%S.%f}"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = ds_text(person.dose_bq), ds_text(HALF_LIFE_S)
    item.RadionuclidePositronFraction = "0.97"
    nuclide.CodeValue, nuclide.CodingSchemeDesignator, nuclide.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
    tracer.CodeValue, tracer.CodingSchemeDesignator, tracer.CodeMeaning = "C-B1031", "SRT", "Fluorodeoxyglucose F^18^"
    item.RadionuclideCodeSequence, item.RadiopharmaceuticalCodeSequence = [nuclide], [tracer]
    ds.RadiopharmaceuticalInformationSequence = [item]


def ct_kind(frame: str) -> SeriesKind:
    return SeriesKind("CT", CT, "CT", 2, "HN 3.0 B30f", frame)


def pet_kind(frame: str) -> SeriesKind:
    return SeriesKind("PET", PET, "PT", 5, "PET HN AC", frame, syntax=ImplicitVRLittleEndian)


def mr_kind(modality: str, frame: str) -> SeriesKind:
    """T1w or T2w, told apart by the headers as on a scanner: echo and repetition time, and the protocol's name."""
    first = modality == "T1w"
    tags: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "ProtocolName": "t1_tse_tra" if first else "t2_tse_tra",
        "ScanningSequence": "SE",
        "SequenceVariant": ["SK", "SP", "OSP"],
        "ScanOptions": "SAT1",
        "MRAcquisitionType": "2D",
        "SequenceName": "*tse2d1_3" if first else "*tse2d1_17",
        "RepetitionTime": "610" if first else "4300",
        "EchoTime": "9.8" if first else "92",
        "EchoTrainLength": 3 if first else 17,
        "FlipAngle": "150",
        "MagneticFieldStrength": "1.5",
        "Manufacturer": "Otherscan Ltd",
        "ManufacturerModelName": "Resona 1.5",
        "StationName": "MRC40311",
    }
    return SeriesKind(modality, MR, "MR", 7 if first else 8, "t1_tse_tra" if first else "t2_tse_tra", frame, tags)
