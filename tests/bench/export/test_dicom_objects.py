"""RTSTRUCT and SEG objects give the very masks back that they were made of."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_patient import Person, Study, ct_kind, series
from fuzz import fuzzed
from hypothesis import given
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon

from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.bench.export.dicom_objects import Subject, rtstruct, seg
from gtvbench.datasets.dicom.structures.contours import read_structures, roi_mask
from gtvbench.datasets.dicom.structures.segmentation import read_segmentation, segment_mask

SHAPE = (3, 7, 6)
UPRIGHT = Grid(SHAPE, (2.5, 0.9765625, 0.9765625), (-123.4567, -98.7654, 33.3))
_C, _S = np.cos(0.3), np.sin(0.3)
OBLIQUE = Grid(SHAPE, (2.5, 0.7, 0.9), (-12.0, 40.0, -3.0), (_C, -_S, 0.0, _S, _C, 0.0, 0.0, 0.0, 1.0))
SAGITTAL = Grid(SHAPE, (3.0, 1.1, 1.1), (4.0, -20.0, 60.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0))


def subject_of(grid: Grid) -> Subject:
    person = Person.draw(np.random.default_rng(3), "export")
    made, _ = series(person, Study("ct", person.scanned, "HN"), ct_kind(person.uid("f")), Volume(np.zeros(SHAPE), grid))
    return Subject("study", "P-1", "box-fill", tuple(made), grid)


@pytest.mark.parametrize("grid", [UPRIGHT, OBLIQUE, SAGITTAL])
@fuzzed(40)
@given(mask=arrays(bool, SHAPE))
def test_any_mask_comes_back_from_contours_and_from_segments(tmp_path: Path, grid: Grid, mask: np.ndarray) -> None:
    subject = subject_of(grid)
    masks = {"GTV-T": mask, "GTV-N": ~mask}
    rtstruct(subject, masks).save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    read = read_structures(tmp_path / "rs.dcm")
    frame = str(subject.headers[0].FrameOfReferenceUID)
    for name, wanted in masks.items():
        if wanted.any():
            np.testing.assert_array_equal(roi_mask(read, name, grid, frame).array, wanted)
        else:
            assert read.roi(name).contours == 0
    made = seg(subject, masks)
    assert made is not None
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    both = read_segmentation(tmp_path / "seg.dcm")
    for name, wanted in masks.items():
        if wanted.any():
            np.testing.assert_array_equal(segment_mask(both, name, grid, frame).array, wanted)


def test_another_reader_finds_the_same_mask(tmp_path: Path) -> None:
    """Contours of one slice by matplotlib, combined by the even-odd rule: holes and corners that touch included."""
    mask = np.zeros(SHAPE, bool)
    mask[1, 1:6, 1:5] = True
    mask[1, 2:4, 2:4] = False
    mask[1, 0, 5] = mask[1, 6, 0] = True
    rtstruct(subject_of(UPRIGHT), {"GTV-T": mask}).save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    ds = pydicom.dcmread(tmp_path / "rs.dcm")
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    centres = np.stack([x.ravel() * 0.9765625 - 123.4567, y.ravel() * 0.9765625 - 98.7654], axis=1)
    found = np.zeros(centres.shape[0], bool)
    for item in ds.ROIContourSequence[0].ContourSequence:
        points = np.asarray(item.ContourData, float).reshape(-1, 3)
        assert np.ptp(points[:, 2]) == 0 and points[0, 2] == pytest.approx(33.3 + 2.5)
        found ^= Polygon(points[:, :2]).contains_points(centres)
    np.testing.assert_array_equal(found.reshape(SHAPE[1:]), mask[1])


def test_objects_belong_to_the_patient_s_study_and_name_their_arm() -> None:
    subject = subject_of(UPRIGHT)
    mask = np.ones(SHAPE, bool)
    for made in (rtstruct(subject, {"GTV-T": mask}), seg(subject, {"GTV-T": mask})):
        assert made is not None
        first = subject.headers[0]
        assert made.PatientID == first.PatientID and made.StudyInstanceUID == first.StudyInstanceUID
        assert made.SeriesInstanceUID != first.SeriesInstanceUID
        assert made.Manufacturer == "gtvbench" and made.SeriesDescription == "box-fill"
        again = rtstruct(subject, {"GTV-T": mask}) if made.Modality == "RTSTRUCT" else seg(subject, {"GTV-T": mask})
        assert again is not None and again.SOPInstanceUID == made.SOPInstanceUID
    # Nothing segmented is a region without contours, and no segmentation.
    nothing = {"GTV-T": np.zeros(SHAPE, bool)}
    made = rtstruct(subject, nothing)
    assert [item.ROIName for item in made.StructureSetROISequence] == ["GTV-T"]
    assert "ContourSequence" not in made.ROIContourSequence[0]
    assert seg(subject, nothing) is None
