"""The one place that reads and writes image files (NIfTI, NRRD, MetaImage: whatever SimpleITK reads).

Geometry is SimpleITK's. The voxels of NIfTI are nibabel's: ITK returns uninitialised memory, without an error, for a
file that ends early, and zeros for voxels that are NaN (SimpleITK 2.5.7; .nii and .nii.gz alike).
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from gtvbench.bench.core.errors import DataError, StoreError, why
from gtvbench.bench.core.geometry import Grid, Volume

_GZIP = b"\x1f\x8b"
#: What the readers raise of a file that is not whole or not what its name says.
_DAMAGED = (RuntimeError, ValueError, EOFError, OSError, zlib.error, HeaderDataError, ImageFileError)
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
    grid = read_grid(path, case)
    try:
        array = _voxels(path)
    except _DAMAGED as error:
        raise _unreadable(path, case, error) from error
    if np.issubdtype(array.dtype, np.floating):
        bad = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
        if bad:
            raise DataError(
                f"{bad} of {array.size} voxels are NaN or infinite",
                case=case,
                file=path,
                remedy="replace them (for example by the modality's background value) and write the file again",
            )
    return Volume(array, grid)


def _voxels(path: Path) -> npt.NDArray[Any]:
    """Voxels (z, y, x) in the machine's byte order; any of several errors where the file is damaged."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    if packed:
        content = gzip.decompress(path.read_bytes())  # to its end, where the checksum is
        kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(content[:540]) else nib.Nifti1Image
        image = kind.from_bytes(content)
    else:
        image = nib.load(path)
    array: npt.NDArray[Any] = np.asanyarray(image.dataobj).T
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


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
    except _DAMAGED as error:
        raise StoreError(
            f"the image could not be written whole ({_last_line(error)})",
            file=path,
            remedy="free disk space, run again",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _holds(path: Path, array: npt.NDArray[Any], grid: Grid) -> bool:
    """Whether an image file holds an array, looked at slice by slice: an uncompressed NIfTI is mapped, not read."""
    back = _voxels(path)
    return read_grid(path).shape == grid.shape == back.shape and all(map(np.array_equal, array, back))


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
