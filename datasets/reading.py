"""Reading an image file that somebody else wrote: looked through for damage first, for ITK does not always tell."""

from __future__ import annotations

from pathlib import Path

from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.nifti import read_volume
from gtvbench.bench.nifti_integrity import check_nifti


def read_image(path: Path, case: str | None = None) -> Volume:
    """Read a scalar 3D image, (z, y, x) in the file's pixel type.

    Raises DataError, naming case and file, where the file is missing, truncated, damaged, not a scalar 3D image, or has
    NaN or infinite voxels.
    """
    if path.is_file():
        check_nifti(path, case)
    return read_volume(path, case)
