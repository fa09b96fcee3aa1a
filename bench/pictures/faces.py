"""Which voxels must not be shown, so that no face can be seen in pictures, or put together from them.

Not only the skin goes: what is left after a shell of even depth still has the face's shape, and could be grown back by
that depth. So the body is first opened with a ball larger than nose, lips, ears and brows (Serra, Image Analysis and
Mathematical Morphology, 1982), and the shell is counted from there. Everything is found on a grid of about 3 mm, on
which masks that fix the head, and sheets, are too thin to count as body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from gtvbench.bench.core.fusion import BACKGROUND, MR
from gtvbench.bench.core.geometry import Grid

#: Raised when other voxels are hidden than before.
HIDING_VERSION = 4
#: No voxel nearer to the surface of the body is shown, in mm.
SHELL_MM = 12.0
#: Radius of the ball that the body is opened with: what is narrower than twice that leaves no trace.
BALL_MM = 20.0
#: Grey level of what is hidden: neither air nor tissue in any modality.
HIDDEN_GREY = 32

_CELL_MM = 3.0
_CT_BODY_HU = -300.0
#: Parts of the body apart from the largest (legs, arms) count from this share of it on.
_PART = 0.05
#: Added to MR (as a share of its brightest) before the logarithm is taken: what is darker is all alike.
_FLOOR = 0.01
#: The body is looked for in the first of these that a case has.
_ORDER = ("CT", "T1w", "T2w", "PET")

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


def hidden_voxels(images: Mapping[str, Array], grid: Grid) -> Mask:
    """True where a voxel must not be shown, (z, y, x): outside the body, and in its outer `SHELL_MM`.

    `images` holds volumes on `grid` by modality, in HU, SUV or scanner units; memory-mapped ones are read slice by
    slice. Where the volume ends inside the body there is no surface, and nothing is hidden. A volume in which no body
    is found, or none of the modalities known, is hidden whole.
    """
    modality = next((name for name in _ORDER if name in images), None)
    if modality is None:
        return np.ones(grid.shape, bool)
    factors = tuple(max(1, round(_CELL_MM / spacing)) for spacing in grid.spacing)
    cells = _block_means(images[modality], factors)
    spacing = [factor * side for factor, side in zip(factors, grid.spacing, strict=True)]
    shown = _deep_inside(_body(cells, modality), spacing)
    full = np.ones(grid.shape, bool)
    for z in range(grid.shape[0]):
        plane = shown[z // factors[0]].repeat(factors[1], axis=0).repeat(factors[2], axis=1)
        full[z] = ~plane[: grid.shape[1], : grid.shape[2]]
    return full


def hidden_by_modality(images: Mapping[str, Array], grid: Grid) -> Callable[[str], Mask]:
    """What must not be shown of each modality, by its name: the surface of the body, and MR's own beside it.

    MR may lie wrong upon the image that the body is found in; its own surface would be seen then. What an MR does not
    cover is left to the body's surface. `images` as for `hidden_voxels`.
    """
    body = hidden_voxels(images, grid)
    carrier = next((name for name in _ORDER if name in images), None)

    def hidden(modality: str) -> Mask:
        if modality not in MR or modality == carrier:
            return body
        volume, background = images[modality], BACKGROUND[modality]
        own = hidden_of_one(volume, modality, grid, background)
        for z in range(grid.shape[0]):
            own[z] &= np.asarray(volume[z]) != background
        own |= body
        return own

    return hidden


def hidden_of_one(volume: Array, modality: str, grid: Grid, background: float) -> Mask:
    """As `hidden_voxels` for an image that covers part of `grid` only, `background` elsewhere (all of that is hidden).

    Where its field of view ends inside the body there is no surface.
    """
    hidden = np.ones(grid.shape, bool)
    filled = np.zeros(grid.shape, bool)
    for z in range(grid.shape[0]):
        filled[z] = np.asarray(volume[z]) != background
    ends = []
    for axis in range(3):
        found = np.flatnonzero(filled.any(axis=tuple(k for k in range(3) if k != axis)))
        if not len(found):
            return hidden
        ends.append(slice(int(found[0]), int(found[-1]) + 1))
    box = (ends[0], ends[1], ends[2])
    part = np.asarray(volume[box])
    shape = (part.shape[0], part.shape[1], part.shape[2])
    hidden[box] = hidden_voxels({modality: part}, Grid(shape, grid.spacing, grid.origin, grid.direction))
    return hidden


def _block_means(volume: Array, factors: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Means of blocks of voxels; blocks that reach beyond the volume take the mean of what they have."""
    starts = [np.arange(0, n, factor) for n, factor in zip(volume.shape, factors, strict=True)]
    counts = [np.minimum(n - s, f) for n, s, f in zip(volume.shape, starts, factors, strict=True)]
    out = np.zeros(tuple(len(s) for s in starts), np.float32)
    for z in range(volume.shape[0]):
        plane = np.add.reduceat(np.asarray(volume[z], np.float32), starts[1], axis=0)
        out[z // factors[0]] += np.add.reduceat(plane, starts[2], axis=1)
    out /= counts[0][:, None, None] * counts[1][:, None] * counts[2]
    return out


def _body(cells: npt.NDArray[np.float32], modality: str) -> Mask:
    """The body without its thin parts, holes of each slice filled."""
    tissue = cells > (_CT_BODY_HU if modality == "CT" else _otsu(cells, modality))
    cross = ndimage.generate_binary_structure(3, 1)
    # At the borders of the volume the body goes on.
    eroded = ndimage.binary_erosion(tissue, cross, border_value=1)
    labels, count = ndimage.label(ndimage.binary_dilation(eroded, cross, mask=tissue))
    if not count:
        return np.zeros(cells.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body: Mask = np.isin(labels, np.flatnonzero(sizes >= max(1.0, _PART * sizes.max())))
    for plane in body:
        plane[:] = ndimage.binary_fill_holes(plane)
    return body


def _deep_inside(body: Mask, spacing: Iterable[float]) -> Mask:
    """Voxels of the opened body that lie deeper than the shell."""
    steps = tuple(spacing)
    if body.all():
        return body
    # A cell's centre may be half a diagonal away from the voxel that is judged by it, and so may the surface's.
    slack = float(np.linalg.norm(steps))
    core: Mask = ndimage.distance_transform_edt(body, sampling=steps) >= BALL_MM + slack
    if not core.any():
        return core
    near: Mask = ndimage.distance_transform_edt(~core, sampling=steps) <= BALL_MM - SHELL_MM
    return near


def _otsu(cells: npt.NDArray[np.float32], modality: str) -> float:
    """Threshold between background and body (Otsu, IEEE Trans SMC 9:62, 1979), below the uptake of single organs.

    MR is parted by its logarithm: fat is so bright that it would be parted from all other tissue otherwise. Its darkest
    value does not count: it fills what the image does not cover, and would be parted from the noise of the air.
    """
    top = float(np.percentile(cells, 95 if modality == "PET" else 99.5))
    low = float(cells.min())
    if not top > low:
        return top
    share = (np.clip(cells, low, top) - low) / (top - low)
    if modality == "PET":
        return low + (top - low) * _parting(share)
    bright = share[share > 0]
    if bright.max() - bright.min() < _FLOOR:  # one value beside the darkest: nothing to part but the two
        return low + (top - low) * float(bright.min()) / 2
    return low + (top - low) * (float(np.exp(_parting(np.log(bright + _FLOOR)))) - _FLOOR)


def _parting(values: npt.NDArray[Any]) -> float:
    """The value that parts a histogram into two classes with the most variance between them."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])
