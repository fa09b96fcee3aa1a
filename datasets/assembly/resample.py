"""Bring volumes to the reference grid: lossless where only axes differ, else interpolated with SimpleITK.

Images are interpolated linearly, label maps by nearest neighbour. Where the target is coarser than the source along one
of the source's axes by more than a quarter, the image is first smoothed along it with a Gaussian whose full width at
half maximum is the square root of (target spacing squared - source spacing squared): what the coarse grid could not
show is averaged instead of folded. Label maps are not smoothed, so structures thinner than the target's voxels can
break up. Voxels outside the source's field of view (half a voxel beyond its outer centres) get the modality's
background value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from scipy import ndimage

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume, canonical
from gtvbench.bench.files.nifti import to_image

#: Target spacing over source spacing above which images are smoothed first.
ANTI_ALIAS_RATIO = 1.25
_FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


def canonicalised(volume: Volume) -> tuple[Volume, Reorientation]:
    """The volume with its axes permuted and flipped towards the patient's (no interpolation), and how."""
    turn = canonical(volume.grid)
    return Volume(turn.apply(volume.array), turn.apply_to_grid(volume.grid)), turn


def image_to_grid(
    volume: Volume, grid: Grid, background: float, *, case: str, file: Path, transform: Any = None
) -> tuple[npt.NDArray[np.float32], float]:
    """The image on `grid` (canonical), float32 (z, y, x), and the share (0-1) of the grid that it covers.

    A volume that lies on the grid already, whatever the order of its axes, is copied voxel by voxel. `transform`
    (SimpleITK) leads from the grid's points to the image's; None where they are the same. The image is interpolated
    once. Raises DataError where the image and the grid have nothing in common.
    """
    turned, _ = canonicalised(volume)
    if transform is None and not turned.grid.differences(grid):
        return np.ascontiguousarray(turned.array, np.float32), 1.0
    array = _smoothed(np.asarray(turned.array, np.float32), turned.grid, grid)
    found = _resampled(array, turned.grid, grid, sitk.sitkLinear, float("nan"), transform)
    outside = np.isnan(found)
    covered = 1.0 - np.count_nonzero(outside) / outside.size
    if covered == 0:
        raise _apart(turned.grid, grid, case, file)
    found[outside] = background
    return found, float(covered)


def labels_to_grid(volume: Volume, grid: Grid, *, case: str, file: Path) -> tuple[npt.NDArray[np.uint8], bool]:
    """The label map on `grid` (canonical), uint8 (z, y, x), 0 outside; and whether voxels were interpolated.

    Raises DataError where the label map and the grid have nothing in common.
    """
    turned, _ = canonicalised(volume)
    if not turned.grid.differences(grid):
        return np.ascontiguousarray(turned.array, np.uint8), False
    if not overlap(turned.grid, grid):
        raise _apart(turned.grid, grid, case, file)
    return _resampled(
        np.ascontiguousarray(turned.array, np.uint8), turned.grid, grid, sitk.sitkNearestNeighbor, 0
    ), True


def overlap(source: Grid, target: Grid) -> bool:
    """Whether any voxel centre of `target` lies in the field of view of `source`."""
    inverse = np.diag(1 / np.asarray(source.spacing[::-1])) @ source.matrix.T
    steps = target.matrix @ np.diag(target.spacing[::-1])
    start = inverse @ (np.asarray(target.origin) - np.asarray(source.origin))
    jump = inverse @ steps
    size = np.asarray(source.shape[::-1])
    for z in range(target.shape[0]):
        plane = start + jump[:, 2] * z
        rows = plane + np.arange(target.shape[1])[:, None] * jump[:, 1]
        index = rows[:, None] + np.arange(target.shape[2])[:, None] * jump[:, 0]
        if np.any(np.all((index >= -0.5) & (index <= size - 0.5), axis=-1)):
            return True
    return False


def _resampled(
    array: npt.NDArray[Any], source: Grid, target: Grid, interpolator: int, outside: float, transform: Any = None
) -> Any:
    moved = sitk.Resample(
        to_image(np.ascontiguousarray(array), source),
        target.shape[::-1],
        sitk.Transform(3, sitk.sitkIdentity) if transform is None else transform,
        interpolator,
        target.origin,
        target.spacing[::-1],
        target.direction,
        outside,
    )
    return sitk.GetArrayFromImage(moved)


def _smoothed(array: npt.NDArray[np.float32], source: Grid, target: Grid) -> npt.NDArray[np.float32]:
    """Anti-aliasing along the source's axes (z, y, x)."""
    cosines = (source.matrix.T @ target.matrix)[::-1, ::-1]
    steps = np.sqrt(np.sum((cosines * np.asarray(target.spacing)) ** 2, axis=1))
    own = np.asarray(source.spacing)
    widths = np.sqrt(np.where(steps > ANTI_ALIAS_RATIO * own, steps**2 - own**2, 0))
    if not widths.any():
        return array
    smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(
        array, widths * _FWHM_TO_SIGMA / own, mode="nearest", truncate=3.0
    )
    return smooth


def _apart(source: Grid, target: Grid, case: str, file: Path) -> DataError:
    return DataError(
        f"the file and the reference image have no voxel in common: it spans {_span(source)}, "
        f"the reference {_span(target)}",
        case=case,
        file=file,
        remedy="check that both files belong to one patient and are registered (origin and direction in the headers)",
    )


def _span(grid: Grid) -> str:
    corners = grid.corners()
    ends = zip("xyz", corners.min(0), corners.max(0), strict=True)
    return ", ".join(f"{name} {low:.0f} to {high:.0f} mm" for name, low, high in ends)
