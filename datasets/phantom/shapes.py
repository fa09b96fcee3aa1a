"""Implicit shapes in patient millimetres and the share of each voxel that they fill.

A shape is a function that is negative inside, zero on the surface and positive outside. Its value divided by its change
across a voxel tells how far the surface is, so the share of the voxel inside (partial volume) follows without rendering
at a finer resolution, on any grid. Coordinates and bounds are in the order z, y, x: z to the head, y to the back, x to
the patient's left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Field = Callable[[Array, Array, Array], Array]

_FAR = 1e4  # mm; a bound that no grid reaches


@dataclass(frozen=True)
class Shape:
    """A region of the patient: `field(z, y, x)` in mm is negative inside; it lies between `low` and `high` (mm)."""

    field: Field
    low: Point
    high: Point


@dataclass(frozen=True)
class Space:
    """A slab of a voxel grid seen in the patient's own frame.

    The grid's centre is the origin of the world; the patient stands in it scaled, tilted and shifted:
    patient = `matrix` @ (world - `shift`), both (z, y, x) in mm. `first` is the slab's first slice.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    matrix: Array
    shift: Array
    first: int = 0
    slices: int | None = None

    @property
    def slab_shape(self) -> tuple[int, int, int]:
        """Shape of the slab's arrays."""
        return (self.shape[0] if self.slices is None else self.slices), self.shape[1], self.shape[2]

    def world_axes(self, starts: Sequence[int], stops: Sequence[int]) -> list[Array]:
        """World coordinates in mm along each axis of voxels starts to stops - 1 of the slab."""
        first = (self.first, 0, 0)
        return [
            (np.arange(a, b, dtype=np.float32) + np.float32(f - (n - 1) / 2)) * np.float32(s)
            for a, b, f, n, s in zip(starts, stops, first, self.shape, self.spacing, strict=True)
        ]

    def coordinates(self, starts: Sequence[int], stops: Sequence[int]) -> tuple[Array, Array, Array]:
        """Patient coordinates z, y, x (each a full array) of the voxels of a box of the slab."""
        axes = [a - np.float32(s) for a, s in zip(self.world_axes(starts, stops), self.shift, strict=True)]
        z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
        m = self.matrix.astype(np.float32)
        found = [m[i, 0] * z + m[i, 1] * y + m[i, 2] * x for i in range(3)]
        return found[0], found[1], found[2]

    def to_world(self, point: Sequence[float]) -> Array:
        """World position of a patient position, both (z, y, x) in mm."""
        world: Array = np.linalg.solve(self.matrix, np.asarray(point, float)) + self.shift
        return world

    def box_of(self, shape: Shape) -> tuple[list[int], list[int]] | None:
        """First and last-plus-one voxel of the slab that the shape's bounds can touch, or None."""
        corners = np.array(
            [self.to_world(np.where(pick, shape.high, shape.low)) for pick in np.ndindex(2, 2, 2)]  # type: ignore[arg-type]
        )
        step = np.asarray(self.spacing)
        centre = (np.asarray(self.shape) - 1) / 2 - (self.first, 0, 0)
        low = np.floor(corners.min(0) / step + centre - 0.5).astype(int)
        high = np.ceil(corners.max(0) / step + centre + 1.5).astype(int)
        starts = np.maximum(low, 0)
        stops = np.minimum(high, self.slab_shape)
        return None if np.any(starts >= stops) else ([int(v) for v in starts], [int(v) for v in stops])


def coverage(shape: Shape, space: Space) -> tuple[Box, Array] | None:
    """The box of the slab that a shape touches, and the share (0-1, float32) of each of its voxels inside the shape."""
    bounds = space.box_of(shape)
    if bounds is None:
        return None
    starts, stops = bounds
    field = shape.field(*space.coordinates([a - 1 for a in starts], [b + 1 for b in stops]))
    middle = slice(1, -1)
    change = (field[2:, middle, middle] - field[:-2, middle, middle]) ** 2
    change += (field[middle, 2:, middle] - field[middle, :-2, middle]) ** 2
    change += (field[middle, middle, 2:] - field[middle, middle, :-2]) ** 2
    across = np.sqrt(change) / 2
    share = np.clip(0.5 - field[middle, middle, middle] / np.maximum(across, 1e-3), 0, 1).astype(np.float32)
    z, y, x = (slice(a, b) for a, b in zip(starts, stops, strict=True))
    return (z, y, x), share


def ellipsoid(centre: Point, radii: Point) -> Shape:
    """An ellipsoid along the patient's axes."""
    least = min(radii)

    def field(z: Array, y: Array, x: Array) -> Array:
        cz, cy, cx = ((v - c) / r for v, c, r in zip((z, y, x), centre, radii, strict=True))
        distance: Array = (np.sqrt(cz**2 + cy**2 + cx**2) - 1) * least
        return distance

    return Shape(field, *_around(centre, radii))


@dataclass(frozen=True)
class Profile:
    """Centre (y, x) and radii (y, x) in mm of an elliptic cross-section, piecewise linear in z."""

    z: Sequence[float]
    y: Sequence[float]
    x: Sequence[float]
    radius_y: Sequence[float]
    radius_x: Sequence[float]

    def at(self, z: float) -> tuple[float, float, float, float]:
        """Centre y, x and radii y, x at one height."""
        a, b, c, d = (float(np.interp(z, self.z, v)) for v in (self.y, self.x, self.radius_y, self.radius_x))
        return a, b, c, d

    def grown(self, by: float) -> Profile:
        """The same section with radii larger (or smaller) by a length in mm."""
        larger = [[max(r + by, 0.5) for r in radii] for radii in (self.radius_y, self.radius_x)]
        return Profile(self.z, self.y, self.x, *larger)

    def mirrored(self) -> Profile:
        """The section on the other side."""
        return Profile(self.z, self.y, [-v for v in self.x], self.radius_y, self.radius_x)


def tube(profile: Profile, low: float | None = None, high: float | None = None) -> Shape:
    """A tube of elliptic cross-section along z, from `low` to `high` (default: the ends of the profile)."""
    bottom = profile.z[0] if low is None else low
    top = profile.z[-1] if high is None else high
    knots = np.asarray(profile.z, np.float32)

    def field(z: Array, y: Array, x: Array) -> Array:
        # One table of the height instead of an interpolation a voxel: tilted grids have as many heights as voxels.
        step = 0.5
        # It starts at a multiple of its step, so that slabs of one grid agree.
        start = np.floor(float(z.min()) / step) * step
        table = np.arange(start, float(z.max()) + 1, step)
        index = ((z - np.float32(start)) / np.float32(step) + np.float32(0.5)).astype(np.intp)
        cy, cx, ry, rx = (
            np.interp(table, knots, v).astype(np.float32)
            for v in (profile.y, profile.x, profile.radius_y, profile.radius_x)
        )
        squared = ((y - cy[index]) / ry[index]) ** 2 + ((x - cx[index]) / rx[index]) ** 2
        side = (np.sqrt(squared) - 1) * np.minimum(ry, rx)[index]
        ends: Array = np.maximum(np.maximum(side, bottom - z), z - top)
        return ends

    y, x = np.asarray(profile.y), np.asarray(profile.x)
    ry, rx = np.asarray(profile.radius_y), np.asarray(profile.radius_x)
    return Shape(
        field,
        (bottom, float((y - ry).min()), float((x - rx).min())),
        (top, float((y + ry).max()), float((x + rx).max())),
    )


def blob(centre: Point, radii: Point, rng: np.random.Generator, rough: float = 0.18) -> Shape:
    """An irregular lump about an ellipsoid: two or three lobes melted together, its surface rippled.

    `rough` is the ripple's amplitude as a share of the smallest radius.
    """
    size = np.asarray(radii)
    lobes = [(np.asarray(centre), size * 0.9)]
    for _ in range(int(rng.integers(1, 4))):
        way = rng.standard_normal(3)
        way /= np.linalg.norm(way)
        share = rng.uniform(0.45, 0.65)
        lobes.append((np.asarray(centre) + way * size * (1.0 - share) * rng.uniform(0.9, 1.25), size * share))
    least = float(size.min())
    melt = 0.15 * least
    waves = Waves.draw(rng, 0.9 * float(size.max()), 2.2 * float(size.max()), 5)

    def field(z: Array, y: Array, x: Array) -> Array:
        total: Array | float = 0.0
        for middle, lobe in lobes:
            squared = sum((((v - m) / r) ** 2 for v, m, r in zip((z, y, x), middle, lobe, strict=True)), start=0.0)
            total = total + np.exp(np.clip(-(np.sqrt(squared) - 1) * float(lobe.min()) / melt, -60, 60))
        joined: Array = -melt * np.log(total) + rough * least * waves(z, y, x)
        return joined

    low, high = _around(centre, (radii[0] * 1.35 + 2, radii[1] * 1.35 + 2, radii[2] * 1.35 + 2))
    return Shape(field, low, high)


@dataclass(frozen=True)
class Waves:
    """A smooth random pattern of zero mean and unit variance: a sum of plane waves, so it needs no grid."""

    vectors: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, shortest: float, longest: float, count: int = 6) -> Waves:
        """Waves with lengths between `shortest` and `longest` mm in random directions."""
        ways = rng.standard_normal((count, 3))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        lengths = rng.uniform(shortest, longest, (count, 1))
        return cls((2 * np.pi / lengths * ways).astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, z: Array, y: Array, x: Array) -> Array:
        """The pattern at coordinates in mm."""
        total = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), np.float32)
        for (kz, ky, kx), phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(kz * z + ky * y + kx * x + phase)
        total *= np.float32(np.sqrt(2 / len(self.phases)))
        return total


def union(*shapes: Shape) -> Shape:
    """What lies in any of the shapes."""
    return Shape(
        lambda z, y, x: np.minimum.reduce([s.field(z, y, x) for s in shapes]),
        _corner(min, [s.low for s in shapes]),
        _corner(max, [s.high for s in shapes]),
    )


def without(shape: Shape, *others: Shape, gap: float = 0.0) -> Shape:
    """What lies in `shape` and at least `gap` mm outside all of `others`."""

    def field(z: Array, y: Array, x: Array) -> Array:
        cut: Array = np.maximum.reduce([shape.field(z, y, x), *(gap - s.field(z, y, x) for s in others)])
        return cut

    return Shape(field, shape.low, shape.high)


def shrunk(shape: Shape, by: float) -> Shape:
    """The shape with its surface moved inwards by a length in mm."""
    return Shape(lambda z, y, x: shape.field(z, y, x) + np.float32(by), shape.low, shape.high)


def clipped(shape: Shape, low: Sequence[float | None], high: Sequence[float | None]) -> Shape:
    """The part of a shape between planes (z, y, x) in mm; None leaves a side as it is."""
    lows = [-_FAR if v is None else v for v in low]
    highs = [_FAR if v is None else v for v in high]

    def field(z: Array, y: Array, x: Array) -> Array:
        parts = [shape.field(z, y, x)]
        for value, a, b, given_low, given_high in zip((z, y, x), lows, highs, low, high, strict=True):
            parts += [np.float32(a) - value] if given_low is not None else []
            parts += [value - np.float32(b)] if given_high is not None else []
        cut: Array = np.maximum.reduce(parts)
        return cut

    return Shape(
        field,
        _corner(max, [shape.low, (lows[0], lows[1], lows[2])]),
        _corner(min, [shape.high, (highs[0], highs[1], highs[2])]),
    )


def mirrored(shape: Shape) -> Shape:
    """The shape on the other side of the midline."""
    (az, ay, ax), (bz, by, bx) = shape.low, shape.high
    return Shape(lambda z, y, x: shape.field(z, y, -x), (az, ay, -bx), (bz, by, -ax))


def _around(centre: Point, radii: Point) -> tuple[Point, Point]:
    (z, y, x), (rz, ry, rx) = centre, radii
    return (z - rz, y - ry, x - rx), (z + rz, y + ry, x + rx)


def _corner(choose: Callable[[list[float]], float], points: Sequence[Point]) -> Point:
    z, y, x = (choose([p[i] for p in points]) for i in range(3))
    return z, y, x
