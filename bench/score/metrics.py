"""One pair of masks -> numbers: DSC, HD95, NSD, mean surface distance, volumes.

The surface measures are surface-distance's (DeepMind, https://github.com/google-deepmind/surface-distance; Nikolov et
al., JMIR 2021;23(7):e26151): surface elements ("surfels") on the half-voxel grid, weighted by the area that the
package's own tables give them. The package makes two distance transforms of the masks' joint bounding box, so one stray
voxel in a far corner costs a transform of the whole volume. Here the joint box is first cut into pieces at its empty
planes; each piece goes through the same steps as in the package, and what other pieces add is looked up in a k-d tree
of surfels. The sorted (distance, area) lists that result, and every number, are the package's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import surface_distance
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

TOOL = "surface-distance"
TOOL_VERSION = version(TOOL)
PERCENTILE = 95.0
DEFAULT_TOLERANCE_MM = 2.0

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

_MM3_PER_ML = 1000.0
# A box up to this many voxels is transformed whole, as the package does it; a larger one is cut where it is empty.
_UNCUT_VOXELS = 2**18
# Fewer empty planes than these are no reason to cut.
_GAP_PLANES = 8
# A piece above this many voxels gets no distance transform (about 80 bytes a voxel): the k-d tree does it alone.
_TRANSFORM_VOXELS = 2**22
# The tree's distances have other rounding errors than the transform's; below this difference the transform's stands.
_TIE = 1e-9


@dataclass(frozen=True)
class PairMetrics:
    """What one pair of masks measures, before any policy for empty masks.

    An empty mask gives what surface-distance gives at its newest commit: DSC and NSD 0 where one mask is empty and NaN
    where both are, HD95 inf; the mean surface distance, a mean over no surface, is NaN.
    """

    dsc: float
    hd95_mm: float
    nsd: float
    assd_mm: float
    volume_ml: float
    reference_volume_ml: float
    tp_mm3: float

    @property
    def volume_difference_ml(self) -> float:
        """Volume of the prediction less that of the reference, in mL."""
        return self.volume_ml - self.reference_volume_ml


def compare(
    reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance_mm: float = DEFAULT_TOLERANCE_MM
) -> PairMetrics:
    """Measure two boolean masks (z, y, x) of one shape; spacing (z, y, x) and tolerance in mm.

    Both may be cropped, as long as no true voxel is lost: beyond the array there is background. Raises ValueError where
    the shapes differ or the masks are not boolean and three-dimensional.
    """
    _check(reference, prediction)
    boxes = pieces(reference | prediction)
    n_reference, n_prediction = (sum(int(np.count_nonzero(m[box])) for box in boxes) for m in (reference, prediction))
    voxel_mm3 = float(np.prod(spacing))
    volumes = (n_prediction * voxel_mm3 / _MM3_PER_ML, n_reference * voxel_mm3 / _MM3_PER_ML)
    if not n_reference or not n_prediction:
        overlap = math.nan if n_reference == n_prediction else 0.0
        return PairMetrics(overlap, math.inf, overlap, math.nan, *volumes, 0.0)
    common = sum(int(np.count_nonzero(reference[box] & prediction[box])) for box in boxes)
    distances = _distances(reference, prediction, boxes, spacing)
    return PairMetrics(
        2 * common / (n_reference + n_prediction),
        float(surface_distance.compute_robust_hausdorff(distances, PERCENTILE)),
        float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        float(np.mean(surface_distance.compute_average_surface_distance(distances))),
        *volumes,
        common * voxel_mm3,
    )


def surface_distances(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> dict[str, npt.NDArray[Any]]:
    """What `surface_distance.compute_surface_distances` returns, for two masks that are not empty.

    Sorted distances in mm (`distances_gt_to_pred`, `distances_pred_to_gt`) and the surfel areas in mm2 that go with
    them (`surfel_areas_gt`, `surfel_areas_pred`). Raises ValueError as `compare` does, and where a mask is empty.
    """
    _check(reference, prediction)
    if not reference.any() or not prediction.any():
        raise ValueError("an empty mask has no surface: decide what it means before measuring distances")
    return _distances(reference, prediction, pieces(reference | prediction), spacing)


def _distances(
    reference: Mask, prediction: Mask, boxes: Sequence[Box], spacing: Sequence[float]
) -> dict[str, npt.NDArray[Any]]:
    sampling = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    parts = [_piece(reference[box], prediction[box], box, sampling) for box in boxes]
    there, back = (_Surfels.join([part[side] for part in parts]) for side in (0, 1))
    if len(boxes) > 1 or not (np.isfinite(there.distances).all() and np.isfinite(back.distances).all()):
        there, back = there.towards(back, sampling), back.towards(there, sampling)
    found = {}
    for surfels, distances, areas in (
        (there, "distances_gt_to_pred", "surfel_areas_gt"),
        (back, "distances_pred_to_gt", "surfel_areas_pred"),
    ):
        # By distance, then area: the order of sums decides the last digit, and with it a percentile met exactly.
        order = np.lexsort((surfels.areas, surfels.distances))
        found[distances], found[areas] = surfels.distances[order], surfels.areas[order]
    return found


def pieces(mask: Mask) -> list[Box]:
    """Disjoint boxes that together hold every true voxel of a mask (z, y, x).

    One tight box where it is small or without wide gaps; otherwise the pieces between the gaps, each tight.
    """
    return _pieces(mask, (0, 0, 0))


def neighbour_codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """Code of the 2 x 2 x 2 neighbourhood at each voxel corner of a mask, one longer than the mask on each axis.

    The bits are those of surface-distance's ENCODE_NEIGHBOURHOOD_3D_KERNEL (128 for the first voxel on all axes, 1 for
    the last); beyond the mask there is background.
    """
    codes = np.pad(mask.view(np.uint8), 1)
    codes = codes[:, :, :-1] * np.uint8(2) + codes[:, :, 1:]
    codes = codes[:, :-1] * np.uint8(4) + codes[:, 1:]
    return codes[:-1] * np.uint8(16) + codes[1:]


@dataclass(frozen=True)
class _Surfels:
    """Surfels of one mask: corner indices (n, 3), areas in mm2, distances in mm to the other mask's (inf: unknown)."""

    corners: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]

    @classmethod
    def join(cls, parts: Sequence[_Surfels]) -> _Surfels:
        """The surfels of all parts."""
        if len(parts) == 1:
            return parts[0]
        none = np.empty(0)
        return cls(
            np.concatenate([np.empty((0, 3), np.int64), *(p.corners for p in parts)]),
            np.concatenate([none, *(p.areas for p in parts)]),
            np.concatenate([none, *(p.distances for p in parts)]),
        )

    def towards(self, others: _Surfels, sampling: tuple[float, float, float]) -> _Surfels:
        """The same surfels with their distances to the nearest of the others, in whatever piece that is."""
        _, nearest = cKDTree(others.corners * sampling).query(self.corners * sampling)
        steps = (self.corners - others.corners[nearest]) * sampling
        distances = np.sqrt(np.add.reduce(steps * steps, axis=1))
        closer = distances < self.distances * (1.0 - _TIE)
        return _Surfels(self.corners, self.areas, np.where(closer, distances, self.distances))


def _piece(
    reference: Mask, prediction: Mask, box: Box, sampling: tuple[float, float, float]
) -> tuple[_Surfels, _Surfels]:
    """Surfels of both masks in one box, with the distances that this box alone knows."""
    table = _areas(sampling)
    codes = [neighbour_codes(mask) for mask in (reference, prediction)]
    borders = [(code != 0) & (code != 255) for code in codes]
    first = [side.start for side in box]
    found = []
    for code, border, other in zip(codes, borders, borders[::-1], strict=True):
        if border.size <= _TRANSFORM_VOXELS and border.any() and other.any():
            distances = distance_transform_edt(~other, sampling=sampling)[border]
        else:
            distances = np.full(np.count_nonzero(border), math.inf)
        found.append(_Surfels(np.argwhere(border) + first, table[code[border]], distances))
    return found[0], found[1]


def _pieces(mask: Mask, start: tuple[int, int, int]) -> list[Box]:
    plane: Mask = np.any(mask, axis=0)
    if not plane.any():
        return []
    occupied: list[Mask] = [np.any(mask, axis=(1, 2)), np.any(plane, axis=1), np.any(plane, axis=0)]
    runs = [_runs(line) for line in occupied]
    z, y, x = (slice(first + r[0][0], first + r[-1][1]) for first, r in zip(start, runs, strict=True))
    lengths = [r[-1][1] - r[0][0] for r in runs]
    if math.prod(lengths) <= _UNCUT_VOXELS or all(len(r) == 1 for r in runs):
        return [(z, y, x)]
    kept = [sum(stop - first for first, stop in r) / length for r, length in zip(runs, lengths, strict=True)]
    axis = int(np.argmin(kept))
    found = []
    for first, stop in runs[axis]:
        inside = [slice(None)] * 3
        inside[axis] = slice(first, stop)
        moved = [start[0], start[1], start[2]]
        moved[axis] += first
        found += _pieces(mask[tuple(inside)], (moved[0], moved[1], moved[2]))
    return found


def _runs(line: Mask) -> list[tuple[int, int]]:
    """Half-open runs of true values, those less than `_GAP_PLANES` apart taken as one."""
    where = np.flatnonzero(line)
    breaks = np.flatnonzero(np.diff(where) > _GAP_PLANES)
    firsts = where[np.concatenate(([0], breaks + 1))]
    lasts = where[np.concatenate((breaks, [len(where) - 1]))]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


@lru_cache(maxsize=64)
def _areas(sampling: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    table: npt.NDArray[np.float64] = create_table_neighbour_code_to_surface_area(sampling)
    return table


def _check(reference: Mask, prediction: Mask) -> None:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(f"masks of shapes {reference.shape} and {prediction.shape} are not two volumes of one shape")
    if reference.dtype != bool or prediction.dtype != bool:
        raise ValueError(f"masks are boolean, not {reference.dtype} and {prediction.dtype}")
