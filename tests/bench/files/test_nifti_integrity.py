import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.files.nifti_integrity import check_nifti

ARRAY = (np.random.default_rng(0).standard_normal((70, 80, 90)) * 50).astype(np.float32)


def _write(path: Path, array: np.ndarray = ARRAY) -> Path:  # type: ignore[type-arg]
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_whole_files_pass(tmp_path: Path, name: str, kind: type) -> None:
    check_nifti(_write(tmp_path / name, ARRAY.astype(kind)))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.999])
def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path, name: str, share: float) -> None:
    path = _write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="cannot be read") as caught:
        check_nifti(path, "patient-3")
    assert caught.value.case == "patient-3"
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_and_infinite_voxels_are_counted_anywhere_in_the_file(tmp_path: Path, name: str, kind: type) -> None:
    array = ARRAY.astype(kind)
    array[0, 0, 0], array[40, 3, 5], array[-1, -1, -1] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match=f"3 of {array.size} voxels are NaN or infinite"):
        check_nifti(_write(tmp_path / name, array))


def test_a_flipped_byte_in_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        check_nifti(path)


def test_bytes_of_the_other_order_are_understood(tmp_path: Path) -> None:
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "big")
    header[40:48] = np.array([3, 2, 2, 2], ">i2").tobytes()
    header[70:74] = np.array([16, 32], ">i2").tobytes()
    header[108:112] = np.array([352], ">f4").tobytes()
    values = np.arange(8).astype(">f4")
    (tmp_path / "a.nii").write_bytes(bytes(header) + values.tobytes())
    check_nifti(tmp_path / "a.nii")
    values[3] = np.nan
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(header) + values.tobytes()))
    with pytest.raises(DataError, match="1 of 8 voxels"):
        check_nifti(tmp_path / "b.nii.gz")


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("a letter, not an image " * 100)
    with pytest.raises(DataError, match="no NIfTI header"):
        check_nifti(tmp_path / "a.nii")


def test_other_formats_are_left_to_their_readers(tmp_path: Path) -> None:
    check_nifti(_write(tmp_path / "a.nrrd"))
