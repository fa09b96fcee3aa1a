"""Checkerboards of a registration: squares of the reference image and of the other one, before and after.

Where tissue borders run on from square to square, the images lie right. Three planes through one point are kept of how
the image lay before, when the case is prepared; the picture is made of them and of the prepared volumes later, when it
is known whether the body's surface may be shown (faces.py).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.fusion import BACKGROUND, display_range, to_uint8
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.pictures.faces import HIDDEN_GREY, Mask, hidden_of_one

#: Side of a square, and what is shown around the other image, in mm.
SQUARE_MM, MARGIN_MM = 16.0, 10.0
#: A pixel is at least this large (mm); larger where a row of three planes would be wider than this many pixels.
LEAST_PIXEL_MM, WIDEST = 0.6, 900
_QUALITY, _GAP = 80, 6
#: Squares of the other image are of this colour, so that it can be told from the reference, and dark tissue is
#: lightened by this exponent: fat is so bright in MR that all else would be black.
_TINT, _LIGHTER = np.array([1.0, 0.86, 0.6], np.float32), 0.7

PLANES = ("axial", "coronal", "sagittal")
Array = npt.NDArray[Any]


def planes_through(volume: Array, at: Sequence[int]) -> dict[str, Array]:
    """Three planes of a volume (z, y, x) through a voxel; the head is up in the coronal and the sagittal one."""
    z, y, x = at
    return {"axial": volume[z], "coronal": volume[::-1, y], "sagittal": volume[::-1, :, x]}


def kept_before(
    volume: npt.NDArray[np.float32] | None, modality: str, at: Sequence[int], grid: Grid
) -> dict[str, Array]:
    """What is kept of an image (z, y, x) on `grid` before registration, to be shown later; None: it lay elsewhere.

    Planes through voxel `at` in the image's own unit, the range that is shown, and where the body's surface is.
    """
    if volume is None:
        volume = np.full(grid.shape, BACKGROUND[modality], np.float32)
    hidden = hidden_of_one(volume, modality, grid, BACKGROUND[modality])
    kept: dict[str, Array] = {"at": np.asarray(at), "range": np.asarray(display_range(modality, volume))}
    kept |= {name: np.ascontiguousarray(plane) for name, plane in planes_through(volume, at).items()}
    return kept | {f"hidden {name}": np.ascontiguousarray(p) for name, p in planes_through(hidden, at).items()}


def checkerboard(kept: Path, modality: str, reference: str, images: Images, surface: Mask | None) -> bytes:
    """A picture (WebP): above as the image lay before, below as registered; axial, coronal, sagittal.

    `kept` is the file of `kept_before`; `reference` the modality that `modality` was registered to; `surface` a mask
    (z, y, x) of the reference's voxels that must be hidden, or None if nothing of both images is hidden. Raises
    ValueError or OSError if `kept` is damaged.
    """
    with np.load(kept) as file:
        parts = {name: file[name] for name in file.files}
    at = [int(v) for v in parts["at"]]
    low, high = parts["range"]
    base = planes_through(images.scaled(reference), at)
    rows: list[dict[str, Array]] = [
        {name: to_uint8(parts[name][None], low, high)[0] for name in PLANES},
        planes_through(images.scaled(modality), at),
    ]
    shown = {name: _frame([row[name] > 0 for row in rows], _steps(images.grid)[name]) for name in PLANES}
    if surface is not None:
        # Each image has a surface of its own, and they need not lie upon each other.
        own = hidden_of_one(images.raw(modality), modality, images.grid, BACKGROUND[modality])
        masks = [{name: parts[f"hidden {name}"] for name in PLANES}, planes_through(own, at)]
        body = planes_through(surface, at)
        base = {name: np.where(body[name], np.uint8(HIDDEN_GREY), base[name]) for name in PLANES}
        rows = [
            {n: np.where(mask[n] | body[n], np.uint8(0), row[n]) for n in PLANES}
            for mask, row in zip(masks, rows, strict=True)
        ]
    pixel = _pixel(shown, images.grid)
    painted = [[_panel(base[n], row[n], shown[n], _steps(images.grid)[n], pixel) for n in PLANES] for row in rows]
    stream = io.BytesIO()
    Image.fromarray(_put_together(painted)).save(stream, "WEBP", quality=_QUALITY, method=4)
    return stream.getvalue()


def _steps(grid: Grid) -> Mapping[str, tuple[float, float]]:
    """Spacing of rows and columns of each plane, in mm."""
    z, y, x = grid.spacing
    return {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}


def _frame(present: Sequence[npt.NDArray[np.bool_]], steps: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns around where the other image is, before or after; all where it is nowhere."""
    anywhere = np.logical_or.reduce(present)
    found = []
    for axis in (0, 1):
        filled = np.flatnonzero(anywhere.any(axis=1 - axis))
        margin = round(MARGIN_MM / steps[axis])
        ends = (int(filled[0]) - margin, int(filled[-1]) + 1 + margin) if len(filled) else (0, anywhere.shape[axis])
        found.append(slice(max(0, ends[0]), min(anywhere.shape[axis], ends[1])))
    return found[0], found[1]


def _pixel(shown: Mapping[str, tuple[slice, slice]], grid: Grid) -> float:
    steps = _steps(grid)
    width = sum((columns.stop - columns.start) * steps[name][1] for name, (_, columns) in shown.items())
    return max(LEAST_PIXEL_MM, float(width) / WIDEST)


def _panel(
    base: Array, other: Array, shown: tuple[slice, slice], steps: tuple[float, float], pixel: float
) -> npt.NDArray[np.uint8]:
    """One plane (rows, columns, 3): squares of both, the reference wherever the other image has nothing."""
    base, other = base[shown], other[shown]
    size = [max(1, round(n * step / pixel)) for n, step in zip(base.shape, steps, strict=True)]
    lower, upper = (_resized(plane, size[0], size[1]) for plane in (base, other))
    side = max(1, round(SQUARE_MM / pixel))
    row, column = np.indices(lower.shape)
    squares = ((row // side + column // side) % 2 == 1) & (upper > 0)
    light = 255 * (upper / 255) ** _LIGHTER
    found = np.where(squares[..., None], light[..., None] * _TINT, lower[..., None])
    return np.round(found).astype(np.uint8)


def _resized(plane: Array, height: int, width: int) -> npt.NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _put_together(rows: Sequence[Sequence[npt.NDArray[np.uint8]]]) -> npt.NDArray[np.uint8]:
    """Panels in rows and columns with black gaps, each in the middle of its cell."""
    heights = [max(panel.shape[0] for panel in row) for row in rows]
    widths = [max(row[k].shape[1] for row in rows) for k in range(len(rows[0]))]
    whole = np.zeros((sum(heights) + _GAP * (len(rows) - 1), sum(widths) + _GAP * (len(widths) - 1), 3), np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for panel, width in zip(row, widths, strict=True):
            y, x = top + (height - panel.shape[0]) // 2, left + (width - panel.shape[1]) // 2
            whole[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
            left += width + _GAP
        top += height + _GAP
    return whole
