from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import read_volume

ARRAY = (np.random.default_rng(0).standard_normal((70, 80, 90)) * 50).astype(np.float32)


def _write(path: Path, array: np.ndarray = ARRAY) -> Path:  # type: ignore[type-arg]
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_voxels_and_grid_are_those_that_itk_wrote(tmp_path: Path, name: str, kind: type) -> None:
    image = sitk.GetImageFromArray(ARRAY.astype(kind))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-5.0, 7.0, 11.0))
    sitk.WriteImage(image, str(tmp_path / name))
    volume = read_volume(tmp_path / name)
    assert volume.array.dtype == kind
    assert np.array_equal(volume.array, ARRAY.astype(kind))
    assert volume.grid == Grid(ARRAY.shape, (3.0, 2.0, 1.5), (-5.0, 7.0, 11.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_slope_and_intercept_of_the_header_count(tmp_path: Path) -> None:
    nifti = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nifti.header.set_slope_inter(2.0, -10.0)
    nib.save(nifti, tmp_path / "a.nii.gz")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, theirs)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.999])
def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path, name: str, share: float) -> None:
    path = _write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_volume(path, "patient-3")
    assert caught.value.case == "patient-3"
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_and_infinite_voxels_are_counted_anywhere_in_the_file(tmp_path: Path, name: str, kind: type) -> None:
    array = ARRAY.astype(kind)
    array[0, 0, 0], array[40, 3, 5], array[-1, -1, -1] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match=f"3 of {array.size} voxels are NaN or infinite"):
        read_volume(_write(tmp_path / name, array))


def test_a_flipped_byte_in_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(path)


def test_bytes_of_the_other_order_are_understood(tmp_path: Path) -> None:
    values = np.arange(8, dtype=">f4").reshape(2, 2, 2)
    nib.save(nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">")), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    assert np.array_equal(read_volume(tmp_path / "a.nii").array, values.T)
    values[1, 1, 0] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">")), tmp_path / "b.nii.gz")
    with pytest.raises(DataError, match="1 of 8 voxels"):
        read_volume(tmp_path / "b.nii.gz")


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("a letter, not an image " * 100)
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(tmp_path / "a.nii")
