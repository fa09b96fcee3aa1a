"""Descriptors of local structure that look alike in CT and MR: MIND with self-similarity context.

Heinrich et al., MICCAI 2013, LNCS 8149:187. Each voxel has twelve numbers: how alike the patches around it are, two by
two. Contrast may be reversed between two images, or vary within one: where tissue borders run the same, descriptors are
alike. Written for this project; distances and gradients are exact derivatives of trilinear interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from scipy import ndimage

#: Voxels of a descriptor image at most (12 float32 each: .3 GB); larger ones get coarser voxels.
MOST_VOXELS = 6_000_000

#: The six neighbours (z, y, x), and the twelve pairs of them that are not opposite.
_SIX = np.array([(-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
_PAIRS = [(i, j) for i in range(6) for j in range(i + 1, 6) if ((_SIX[i] - _SIX[j]) ** 2).sum() == 2]
CHANNELS = len(_PAIRS)

Floats = npt.NDArray[np.float64]
Channels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Descriptors:
    """Descriptors (z, y, x, 12) on an isotropic grid; points are (n, 3), LPS, in mm."""

    channels: Channels
    origin: Floats
    to_world: Floats
    to_index: Floats

    def index(self, points: Floats) -> Floats:
        """Continuous voxel coordinates (z, y, x) of points."""
        found: Floats = (points - self.origin) @ self.to_index.T
        return found

    def covers(self, points: Floats) -> npt.NDArray[np.bool_]:
        """Which points lie between the centres of the outermost voxels."""
        index = self.index(points)
        return np.asarray(np.all((index >= 0) & (index <= np.array(self.channels.shape[:3]) - 1), axis=1))

    def at(self, points: Floats) -> Channels:
        """Descriptors (n, 12) at points, which must all be covered."""
        return self._interpolated(self.index(points))[0]

    def distance(self, points: Floats, wanted: Channels) -> tuple[float, Floats]:
        """Mean squared difference to `wanted` over the points covered, and its gradient (n, 3) per mm of each point.

        Points that are not covered take no part; without any, the distance is infinite.
        """
        covered = self.covers(points)
        gradient = np.zeros((len(points), 3))
        if not covered.any():
            return float("inf"), gradient
        values, slopes = self._interpolated(self.index(points[covered]))
        residual = values - wanted[covered]
        gradient[covered] = (np.einsum("dnc,nc->nd", slopes, residual) * (2.0 / residual.size)) @ self.to_index
        return float((residual**2).mean()), gradient

    def _interpolated(self, index: Floats) -> tuple[Channels, Channels]:
        """Trilinear values (n, 12), and their slopes (3, n, 12) per voxel along z, y and x."""
        shape = np.array(self.channels.shape[:3])
        low = np.clip(np.floor(index).astype(np.int64), 0, shape - 2)
        part = (index - low).astype(np.float32)
        flat = self.channels.reshape(-1, CHANNELS)
        first = (low[:, 0] * shape[1] + low[:, 1]) * shape[2] + low[:, 2]
        values = np.zeros((len(index), CHANNELS), np.float32)
        slopes = np.zeros((3, len(index), CHANNELS), np.float32)
        for corner in np.ndindex(2, 2, 2):
            at = flat[first + (corner[0] * shape[1] + corner[1]) * shape[2] + corner[2]]
            share = [part[:, axis] if up else 1 - part[:, axis] for axis, up in enumerate(corner)]
            values += (share[0] * share[1] * share[2])[:, None] * at
            for axis, up in enumerate(corner):
                others = np.prod([share[k] for k in range(3) if k != axis], axis=0)
                slopes[axis] += (others if up else -others)[:, None] * at
        return values, slopes


def descriptors_of(image: Any, spacing_mm: float) -> Descriptors:
    """Descriptors of a SimpleITK image, smoothed and brought to isotropic voxels of `spacing_mm` first.

    The voxels are larger where there would be more than `MOST_VOXELS`.
    """
    extent = np.array(image.GetSize()) * np.array(image.GetSpacing())
    step = max(spacing_mm, float(np.prod(extent) / MOST_VOXELS) ** (1 / 3))
    smooth = sitk.DiscreteGaussian(sitk.Cast(image, sitk.sitkFloat32), (step / 2) ** 2, 32, 0.01, True)
    size = [max(2, int(np.ceil(length / step))) for length in extent]
    least = float(sitk.GetArrayViewFromImage(image).min())
    even = sitk.Resample(
        smooth, size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, image.GetOrigin(), [step] * 3,
        image.GetDirection(), least, sitk.sitkFloat32,
    )  # fmt: skip
    to_world = (np.array(image.GetDirection()).reshape(3, 3) * step)[:, ::-1]
    array: npt.NDArray[np.float32] = sitk.GetArrayFromImage(even)
    return Descriptors(descriptors(array), np.array(image.GetOrigin()), to_world, np.linalg.inv(to_world))


def descriptors(array: npt.NDArray[np.float32]) -> Channels:
    """Descriptors (z, y, x, 12), 0 to 1, of a volume (z, y, x): patches of 3 voxels, neighbours at 1 voxel."""
    padded = np.pad(array, 1, mode="edge")
    moved = [
        padded[tuple(slice(1 + step, 1 + step + n) for step, n in zip(offset, array.shape, strict=True))]
        for offset in _SIX
    ]
    found = np.empty((*array.shape, CHANNELS), np.float32)
    for channel, (i, j) in enumerate(_PAIRS):
        ndimage.uniform_filter((moved[i] - moved[j]) ** 2, 3, output=found[..., channel], mode="nearest")
    found -= found.min(axis=-1, keepdims=True)
    variance = found.mean(axis=-1, keepdims=True)
    # Flat regions have next to no variance of their own, edges much: both are kept within reason, as the authors do.
    typical = float(variance.mean()) or 1.0
    found /= -np.clip(variance, 1e-3 * typical, 1e3 * typical)
    return np.exp(found, out=found)
