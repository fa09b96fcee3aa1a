"""The reference grid: shape, spacing, origin and direction of a volume, and its canonical orientation.

Arrays are (z, y, x); `shape` and `spacing` follow them (spacing in mm). `origin` and `direction` are in the patient's
LPS coordinates (x, y, z) as ITK writes them: column j of the 3 x 3 `direction` is the unit vector of image axis j in
the order x, y, z.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in the patient's coordinates (LPS, mm)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(np.prod(self.spacing))

    @property
    def diagonal_mm(self) -> float:
        """Physical diagonal of the grid in mm (shape times spacing), the penalty of HD95."""
        return float(np.linalg.norm(np.multiply(self.shape, self.spacing)))

    @property
    def matrix(self) -> Array:
        """Direction cosines, 3 x 3, columns x, y, z."""
        return np.asarray(self.direction, dtype=float).reshape(3, 3)

    def differences(self, other: Grid) -> list[str]:
        """What differs from `other`, in words; empty where both are the same grid.

        Absolute differences, each against its own tolerance: a signed sum would let opposite errors cancel.
        """
        found = []
        if self.shape != other.shape:
            found.append(f"size {_zyx(self.shape)} against {_zyx(other.shape)} voxels (z, y, x)")
        for name, mine, theirs, tolerance in (
            ("spacing", self.spacing, other.spacing, SPACING_TOLERANCE_MM),
            ("origin", self.origin, other.origin, ORIGIN_TOLERANCE_MM),
            ("direction", self.direction, other.direction, DIRECTION_TOLERANCE),
        ):
            largest = float(np.max(np.abs(np.subtract(mine, theirs))))
            if largest > tolerance:
                found.append(f"{name} differs by up to {largest:.4g}")
        return found

    def world(self, index_zyx: Sequence[float]) -> Array:
        """World position (x, y, z) in mm of a continuous voxel index (z, y, x); voxel centres are integers."""
        steps = np.multiply(index_zyx, self.spacing)[::-1]
        position: Array = np.asarray(self.origin) + self.matrix @ steps
        return position

    def corners(self) -> Array:
        """World positions (8, 3) in mm of the outer corners of the grid (half a voxel beyond the centres)."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return np.stack([self.world(corner) for corner in itertools.product(*ends)])

    def as_dict(self) -> dict[str, list[Any]]:
        """JSON-serialisable form; `Grid.from_dict` reads it."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Grid:
        """Inverse of `as_dict`."""
        z, y, x = (int(n) for n in record["shape"])
        sz, sy, sx = (float(n) for n in record["spacing"])
        ox, oy, oz = (float(n) for n in record["origin"])
        return cls((z, y, x), (sz, sy, sx), (ox, oy, oz), tuple(float(n) for n in record["direction"]))


@dataclass(frozen=True)
class Volume:
    """An array (z, y, x) on its grid."""

    array: Array
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise ValueError(f"array of shape {self.array.shape} on a grid of {self.grid.shape}")


@dataclass(frozen=True)
class Reorientation:
    """A lossless permutation and flip of the axes of an array (z, y, x), and its inverse.

    `axes[i]` is the original axis that becomes axis i; `flips[i]` tells whether axis i of the *result* is reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: Array) -> Array:
        """The array in the new orientation (a view)."""
        return np.transpose(array, self.axes)[self._slices()]

    def undo(self, array: Array) -> Array:
        """The array brought back to the original orientation (a view)."""
        a, b, c = (self.axes.index(axis) for axis in range(3))
        return np.transpose(array[self._slices()], (a, b, c))

    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)

    def apply_to_grid(self, grid: Grid) -> Grid:
        """The grid that `apply`'s result lies on: the same voxels at the same places."""
        first = tuple(n - 1 if flip else 0 for n, flip in zip(self.apply_shape(grid.shape), self.flips, strict=True))
        corner = [0, 0, 0]
        for axis, start in zip(self.axes, first, strict=True):
            corner[axis] = start
        signs = [-1.0 if flip else 1.0 for flip in self.flips]
        columns_zyx = grid.matrix.T[::-1]  # row i: the unit vector of array axis i
        rows = np.stack([sign * columns_zyx[axis] for sign, axis in zip(signs, self.axes, strict=True)])
        direction = rows[::-1].T
        ox, oy, oz = (float(v) for v in grid.world(corner))
        sz, sy, sx = (grid.spacing[axis] for axis in self.axes)
        return Grid(
            self.apply_shape(grid.shape), (sz, sy, sx), (ox, oy, oz), tuple(float(v) for v in direction.ravel())
        )

    def apply_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape (z, y, x) of `apply`'s result."""
        a, b, c = (shape[axis] for axis in self.axes)
        return a, b, c


def canonical(grid: Grid) -> Reorientation:
    """The reorientation that brings a grid closest to the patient's axes: x to the left, y to the back, z to the head.

    Only axes are permuted and flipped, so no voxel is interpolated; an oblique grid keeps the rest of its obliquity.
    """
    columns_zyx = grid.matrix.T[::-1]
    towards = columns_zyx[:, ::-1]  # (array axis, patient axis), both in the order z, y, x
    axes = max(itertools.permutations(range(3)), key=lambda p: sum(abs(towards[p[i], i]) for i in range(3)))
    flips = tuple(bool(towards[axes[i], i] < 0) for i in range(3))
    return Reorientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def _zyx(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)
