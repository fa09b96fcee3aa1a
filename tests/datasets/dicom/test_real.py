"""The reference patient in DICOM (raw PET, cropped CT and PET, structure sets), and a phantom of two slices."""

from pathlib import Path

import numpy as np
import pytest

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.files.nifti import read_volume
from gtvbench.datasets.dicom.images.series import Series, read_series
from gtvbench.datasets.dicom.images.suv import suv_factor
from gtvbench.datasets.dicom.structures.contours import StructureSet, read_structures, roi_mask

# Where the reference's crop begins in the raw PET series (z, y, x).
CROP = (slice(0, 59), slice(45, 88), slice(59, 100))


@pytest.fixture(scope="module")
def patient(data: Path) -> Path:
    folder = data / "sts_001_dicom"
    if not folder.is_dir():
        pytest.skip(f"the reference patient is not here ({folder}); set GTVBENCH_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def raw_pet(patient: Path) -> Series:
    return read_series(sorted((patient / "raw_pet_dicom").iterdir()), "STS_001")


def _structures(folder: Path) -> StructureSet:
    return read_structures(next(folder.glob("*.dcm")), "STS_001")


def test_the_suv_factor_is_the_reference_s(raw_pet: Series) -> None:
    found = suv_factor(raw_pet.headers)
    assert found.factor == pytest.approx(0.0002429029766, rel=1e-9)
    assert found.decay_s == 2711


def test_suv_is_the_reference_s_within_a_thousandth(raw_pet: Series, patient: Path) -> None:
    reference = read_volume(patient / "reference_nifti" / "PET_image.nii.gz").array
    suv = raw_pet.volume.array[CROP] * suv_factor(raw_pet.headers).factor
    assert np.max(np.abs(suv - reference)) < 0.001


@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_a_series_is_the_reference_s_volume_on_its_grid(patient: Path, modality: str) -> None:
    series = read_series(sorted((patient / f"ibsi_{modality.lower()}_dicom" / "image").iterdir()))
    reference = read_volume(patient / "reference_nifti" / f"{modality}_image.nii.gz")
    assert series.volume.grid.differences(reference.grid) == []
    np.testing.assert_allclose(series.volume.array, reference.array, atol=1e-5)


@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_contours_give_the_reference_mask_voxel_for_voxel(patient: Path, modality: str) -> None:
    folder = patient / f"ibsi_{modality.lower()}_dicom"
    series = read_series(sorted((folder / "image").iterdir()))
    found = roi_mask(
        _structures(folder / "mask"), f"GTV_Mass_{modality}", series.volume.grid, series.frame_of_reference
    )
    reference = read_volume(patient / "reference_nifti" / f"{modality}_mask.nii.gz").array > 0
    assert np.array_equal(found.array, reference)
    assert found.notes == ()


def test_the_raw_series_and_its_structures_give_the_reference_s_tumour(raw_pet: Series, patient: Path) -> None:
    structures = _structures(patient / "raw_pet_rtstruct")
    assert structures.names == ("GTV_Mass", "GTV_Edema")
    mask = roi_mask(structures, "GTV_Mass", raw_pet.volume.grid, raw_pet.frame_of_reference).array
    reference = read_volume(patient / "reference_nifti" / "PET_mask.nii.gz").array > 0
    assert np.array_equal(mask[CROP], reference)
    assert np.count_nonzero(mask) == 5095
    inside = raw_pet.volume.array[mask] * suv_factor(raw_pet.headers).factor
    assert (inside.min(), inside.max(), inside.mean()) == pytest.approx((0.1688, 7.9107, 2.5552), abs=1e-4)


def test_two_slices_of_a_phantom_are_read_and_contours_beyond_them_told(data: Path) -> None:
    folder = data / "rtstruct_two_slices" / "tests" / "mock_data"
    if not folder.is_dir():
        pytest.skip(f"the phantom of two slices is not here ({folder}); set GTVBENCH_TEST_DATA")
    series = read_series(sorted(folder.glob("ct_*.dcm")))
    for name in ("invalid_reference_rt", "non_existent_reference_rt"):  # their references to images lead nowhere
        structures = read_structures(folder / f"{name}.dcm")
        assert structures.names == ("ROI-1", "ROI-2", "ROI-3", "ROI-4")
        for roi in structures.names:
            found = roi_mask(structures, roi, series.volume.grid, series.frame_of_reference)
            assert found.array.any(axis=(1, 2)).all()
            assert found.notes == ("contours of 1 plane(s) lie beyond the image's slices and were left out",)
    stranger = read_structures(folder / "rt.dcm")
    with pytest.raises(DataError, match="another frame of reference"):
        roi_mask(stranger, "ROI-1", series.volume.grid, series.frame_of_reference)
    assert roi_mask(stranger, "ROI-1", series.volume.grid).array[0].any()
