"""The one place that reads and writes image files (NIfTI, NRRD, MetaImage: whatever SimpleITK reads)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses

from gtvbench.bench.core.cases import NIFTI_OFFSET
from gtvbench.bench.core.errors import DataError, StoreError, why
from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.bench.files.nifti_integrity import check_nifti

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def grid_of(image: Any) -> Grid:
    """Grid of a SimpleITK image: shape and spacing turned to (z, y, x)."""
    x, y, z = image.GetSize()
    sx, sy, sz = image.GetSpacing()
    ox, oy, oz = image.GetOrigin()
    return Grid((z, y, x), (sz, sy, sx), (ox, oy, oz), tuple(image.GetDirection()))


def read_grid(path: Path, case: str | None = None) -> Grid:
    """Grid of an image file, from its header alone; raises DataError as `read_volume` does."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, case, error) from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise _not_a_volume(path, case, reader.GetDimension(), reader.GetNumberOfComponents())
    return grid_of(reader)


def read_volume(path: Path, case: str | None = None) -> Volume:
    """Read a scalar 3D image; the array (z, y, x) keeps the file's pixel type.

    Raises DataError, naming case and file, where the file is missing, truncated, not a scalar 3D image, or has NaN or
    infinite voxels.
    """
    if not path.is_file():
        raise DataError("image file not found", case=case, file=path, remedy="check the study's patterns and paths")
    check_nifti(path, case)  # ITK reads a truncated NIfTI as zeros, and NaN as anything, without a word
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, case, error) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise _not_a_volume(path, case, image.GetDimension(), image.GetNumberOfComponentsPerPixel())
    array = sitk.GetArrayFromImage(image)
    if np.issubdtype(array.dtype, np.floating):
        bad = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
        if bad:
            raise DataError(
                f"{bad} of {array.size} voxels are NaN or infinite",
                case=case,
                file=path,
                remedy="replace them (for example by the modality's background value) and write the file again",
            )
    return Volume(array, grid_of(image))


def to_image(array: npt.NDArray[Any], grid: Grid) -> Any:
    """A SimpleITK image of an array (z, y, x) on a grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def write_volume(array: npt.NDArray[Any], grid: Grid, path: Path, compress: bool = True) -> None:
    """Write an array (z, y, x) as an image file, atomically: the file appears whole or not at all.

    Raises StoreError where the folder cannot be written or the disk is full.
    """
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), ".nii.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise StoreError(f"the file cannot be written: {why(error)}", file=path) from error
    part = Path(name)
    try:
        sitk.WriteImage(to_image(array, grid), str(part), compress and suffix != ".nii")
        # ITK's compressor reports a full disk late or not at all: read the header and voxels back before believing it.
        if not _holds(part, array, grid):
            raise RuntimeError("what was read back differs from what was written")
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o644)
        part.replace(path)
    except (RuntimeError, OSError) as error:
        raise StoreError(
            f"the image could not be written whole ({_last_line(error)})",
            file=path,
            remedy="free disk space, run again",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _holds(path: Path, array: npt.NDArray[Any], grid: Grid) -> bool:
    """Whether an image file holds an array; an uncompressed NIfTI is looked at slice by slice, to spare memory."""
    if path.suffix != ".nii":
        back = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        return back.shape == array.shape and np.array_equal(back, array)
    if read_grid(path).shape != grid.shape or path.stat().st_size != NIFTI_OFFSET + array.nbytes:
        return False
    back = np.memmap(path, array.dtype, mode="r", offset=NIFTI_OFFSET, shape=array.shape)
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(array, back, strict=True))


def _unreadable(path: Path, case: str | None, error: Exception) -> DataError:
    if not path.is_file():
        return DataError("image file not found", case=case, file=path, remedy="check the study's patterns and paths")
    return DataError(
        f"the image cannot be read ({_last_line(error)})",
        case=case,
        file=path,
        remedy="the file is truncated, damaged or not an image; export or copy it again",
    )


def _not_a_volume(path: Path, case: str | None, dimension: int, components: int) -> DataError:
    return DataError(
        f"the image has {dimension} dimensions and {components} value(s) a voxel, not 3 and 1",
        case=case,
        file=path,
        remedy="give one scalar 3D image a file",
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
