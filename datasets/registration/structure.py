"""Rigid and B-spline registration by structure (mind.py): descriptors of both images brought to the least distance.

The rigid motion is found with points of the image that is registered, not of the reference: it is the smaller one as a
rule, so that nearly all its points stay covered and the distance cannot fall because others came into view. Both are
minimised with Adam (Kingma and Ba, ICLR 2015), whose momentum carries over the small minima of interpolated images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from scipy import sparse
from scipy.spatial.transform import Rotation

from gtvbench.datasets.registration.mind import Channels, Descriptors, descriptors_of

#: Other starts of the rigid search: turned by this about each axis, both ways.
TURN_DEG = 10.0
#: What the reference shows farther than this from the other image at the start takes no part, in mm.
REACH_MM = 60.0
#: A turn of one radian counts as this many mm: about how far it moves a point of the head.
_LEVER_MM = 60.0
#: Weights of a deformation's roughness (mm^2, see `_roughness`) against the distance of descriptors, to try in turn.
STIFFNESS = (2e-4, 2e-3)
#: Share of the control points' own length in it, so that nothing moves where no image says so.
_REST = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    spacing_mm: float
    points: int
    steps: int
    step_mm: float


_RIGID = (_Level(4.0, 10_000, 60, 2.0), _Level(3.0, 15_000, 40, 1.0), _Level(2.0, 20_000, 40, 0.5))
_SPLINE = (_Level(3.0, 30_000, 60, 1.0), _Level(2.0, 30_000, 40, 0.5))
#: The step never gets smaller than this, in mm.
_LEAST_STEP_MM = 0.02


class _Adam:
    """Steps of Adam with its usual constants."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, np.zeros(()), np.zeros(())

    def step(self, gradient: Floats, size: float) -> Floats:
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        taken: Floats = -size * mean / (np.sqrt(square) + 1e-12)
        return taken


@dataclass(frozen=True)
class _Pose:
    """y = rotation (x - centre) + centre + shift, from the other image's points to the reference's."""

    rotation: Floats
    shift: Floats

    def moved(self, turn: Floats, shift: Floats) -> _Pose:
        return _Pose(Rotation.from_rotvec(turn).as_matrix() @ self.rotation, self.shift + shift)


def rigid_by_structure(reference: Any, other: Any, other_body: Any, start: Any, seed: int) -> Any:
    """Rigid transform from the reference's points to the other image's.

    `reference`, `other`: images clipped to what takes part; `other_body`: mask on the grid of `other`; `start`: where
    the search begins. If no point of the body falls inside the reference there, `start` is returned unchanged.
    """
    points = _points(other_body)
    back = start.GetInverse()
    target = _through(back, points)
    reference = _cut(reference, target)
    inside = _Place(reference).covers(target)
    if not inside.any():
        return start
    centre = points[inside].mean(axis=0)
    first = _Pose(_linear(back)[0], _through(back, centre[None])[0] - centre)
    turns = [np.zeros(3), *(sign * np.deg2rad(TURN_DEG) * axis for axis in np.eye(3) for sign in (1, -1))]
    poses = [first.moved(turn, np.zeros(3)) for turn in turns]
    rng = np.random.default_rng(seed)
    for level in _RIGID:
        near, far = descriptors_of(other, level.spacing_mm), descriptors_of(reference, level.spacing_mm)
        chosen = _some(points[near.covers(points)], level.points, rng)
        wanted = near.at(chosen)
        results = [_descend(far, chosen, wanted, centre, pose, level) for pose in poses]
        results.sort(key=lambda result: result[0])
        poses = [pose for _, pose in results[: 2 if len(results) > 2 else 1]]
    best = poses[0]
    transform = sitk.Euler3DTransform()  # the inverse: from the reference's points
    transform.SetCenter(tuple((centre + best.shift).tolist()))
    transform.SetMatrix(tuple(best.rotation.T.ravel().tolist()), 1e-6)
    transform.SetTranslation(tuple((-best.shift).tolist()))
    return transform


def _descend(
    far: Descriptors, points: Floats, wanted: Channels, centre: Floats, pose: _Pose, level: _Level
) -> tuple[float, _Pose]:
    """The best pose on the way, and its distance."""
    adam, best = _Adam(), (float("inf"), pose)
    for count in range(level.steps):
        turned = (points - centre) @ pose.rotation.T
        distance, gradient = far.distance(turned + centre + pose.shift, wanted)
        if distance < best[0]:
            best = (distance, pose)
        turning = np.cross(turned, gradient).sum(axis=0) / _LEVER_MM
        step = adam.step(np.concatenate([turning, gradient.sum(axis=0)]), _size(level, count))
        pose = pose.moved(step[:3] / _LEVER_MM, step[3:])
    return best


def deformable_by_structure(
    reference: Any, body: Any, other: Any, rigid: Any, control_point_mm: float, seed: int, stiffness: float
) -> Any:
    """B-spline transform of the reference's points that acts before `rigid`; `stiffness`: weight of its roughness.

    `body`: mask on the grid of `reference`; those of its points that the other image covers take part. Elsewhere the
    deformation dies out as its stiffness wants.
    """
    extent = [n * step for n, step in zip(reference.GetSize(), reference.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / control_point_mm)) for length in extent]
    spline = sitk.BSplineTransformInitializer(reference, mesh, order=3)
    points = _points(body)
    points = points[_Place(other).covers(_through(rigid, points))]
    linear = _linear(rigid)[0]
    if not len(points):
        return spline
    size = np.array(spline.GetFixedParameters()[:3]).astype(int)
    control = np.zeros((int(size.prod()), 3))
    part = _cut(reference, points)
    rng = np.random.default_rng(seed)
    for level in _SPLINE:
        near, far = descriptors_of(part, level.spacing_mm), descriptors_of(other, level.spacing_mm)
        chosen = _some(points[near.covers(points)], level.points, rng)
        wanted, weights = near.at(chosen), _weights(spline, chosen)
        there = _through(rigid, chosen)
        adam, best = _Adam(), (float("inf"), control)
        for count in range(level.steps):
            distance, gradient = far.distance(there + (weights @ control) @ linear.T, wanted)
            rough, slope = _roughness(control.reshape(*size[::-1], 3))
            if distance + stiffness * rough < best[0]:
                best = (distance + stiffness * rough, control)
            whole = weights.T @ (gradient @ linear) + stiffness * slope.reshape(-1, 3)
            control = control + adam.step(whole, _size(level, count))
        control = best[1]
    spline.SetParameters(tuple(control.T.ravel().tolist()))
    return spline


def _roughness(control: Floats) -> tuple[float, Floats]:
    """Mean over control points (z, y, x, 3) of squared second differences along the axes, and its gradient."""
    count = control[..., 0].size
    total, gradient = _REST * float((control**2).sum()), 2 * _REST * control
    for axis in range(3):
        bend = np.diff(control, n=2, axis=axis)
        total += float((bend**2).sum())
        for shift, factor in enumerate((2.0, -4.0, 2.0)):
            stop = control.shape[axis] - 2 + shift
            gradient[tuple(slice(shift, stop) if k == axis else slice(None) for k in range(4))] += factor * bend
    return total / count, gradient / count


def _weights(spline: Any, points: Floats) -> Any:
    """Sparse matrix (points, control points) of cubic B-spline weights, control points with x fastest."""
    fixed = np.array(spline.GetFixedParameters())
    size, origin, step, direction = fixed[:3].astype(int), fixed[3:6], fixed[6:9], fixed[9:18].reshape(3, 3)
    place = ((points - origin) @ direction) / step
    low = np.clip(np.floor(place).astype(int) - 1, 0, size - 4)
    t = place - (low + 1)
    cubic = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    columns, values = [], []
    for z, y, x in product(range(4), repeat=3):
        columns.append((low[:, 0] + x) + size[0] * ((low[:, 1] + y) + size[1] * (low[:, 2] + z)))
        values.append(cubic[:, 0, x] * cubic[:, 1, y] * cubic[:, 2, z])
    rows = np.repeat(np.arange(len(points)), 64)
    entries = (np.stack(values, 1).ravel(), (rows, np.stack(columns, 1).ravel()))
    return sparse.csr_matrix(entries, shape=(len(points), int(size.prod())))


class _Place:
    """Where the voxels of a SimpleITK image lie, for many points at once."""

    def __init__(self, image: Any) -> None:
        self.size, self.origin = np.array(image.GetSize()), np.array(image.GetOrigin())
        self.matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())

    def world(self, index: npt.NDArray[Any]) -> Floats:
        found: Floats = index @ self.matrix.T + self.origin
        return found

    def index(self, points: Floats) -> Floats:
        found: Floats = (points - self.origin) @ np.linalg.inv(self.matrix).T
        return found

    def covers(self, points: Floats) -> npt.NDArray[np.bool_]:
        index = self.index(points)
        return np.asarray(np.all((index >= 0) & (index <= self.size - 1), axis=1))


def _points(mask: Any) -> Floats:
    """Centres of a mask's voxels (n, 3)."""
    return _Place(mask).world(np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1])


def _linear(transform: Any) -> tuple[Floats, Floats]:
    """Matrix and offset of a linear transform."""
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(transform.TransformPoint(tuple(unit.tolist()))) - offset for unit in np.eye(3)]
    return np.stack(axes, axis=1), offset


def _through(transform: Any, points: Floats) -> Floats:
    """Points through a linear transform."""
    matrix, offset = _linear(transform)
    found: Floats = points @ matrix.T + offset
    return found


def _cut(image: Any, points: Floats) -> Any:
    """The part of an image within `REACH_MM` of the box around points; all of it where that is next to nothing."""
    place = _Place(image)
    index, margin = place.index(points), REACH_MM / np.array(image.GetSpacing())
    low = np.clip(np.floor(index.min(axis=0) - margin), 0, place.size).astype(int)
    high = np.clip(np.ceil(index.max(axis=0) + margin) + 1, 0, place.size).astype(int)
    if (high - low < 2).any():
        return image
    return sitk.RegionOfInterest(image, (high - low).tolist(), low.tolist())


def _some(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    return points if len(points) <= count else points[rng.choice(len(points), count, replace=False)]


def _size(level: _Level, count: int) -> float:
    """Length of a step: it falls to next to nothing within a level."""
    return level.step_mm * (1 - count / level.steps) + _LEAST_STEP_MM
