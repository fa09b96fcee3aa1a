"""Polygons to pixels by the even-odd rule at pixel centres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def even_odd(polygons: Sequence[Points], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels (y, x) whose centre an odd number of polygons' windings enclose: holes, keyholes and islands come out.

    `polygons`: arrays (n, 2) of vertices (x, y) in pixel indices (centres are integers), closed from the last vertex to
    the first. A pixel is inside where a ray from its centre to smaller x crosses an odd number of edges. Edges hold
    their lower end and not their upper one, and a centre on an edge belongs to the polygon at larger x: polygons that
    share an edge share no pixel and leave none out. Parts beyond the image are cut off.

    Source: the crossing-number (even-odd) rule, as in Foley et al., Computer Graphics, 2nd ed., 3.6.
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        level = start[:, 1] == end[:, 1]
        start, end = start[~level], end[~level]
        upward = (start[:, 1] < end[:, 1])[:, None]
        low, high = np.where(upward, start, end), np.where(upward, end, start)
        # Rows y with low <= y < high; clipped as floats first, so that far-away vertices stay within integers.
        first = np.clip(np.ceil(low[:, 1]), 0, rows).astype(np.int64)
        past = np.clip(np.ceil(high[:, 1]), 0, rows).astype(np.int64)
        counts = np.maximum(past - first, 0)
        edge = np.repeat(np.arange(len(low)), counts)
        y = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        share = (y - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
        x = low[edge, 0] + share * (high[edge, 0] - low[edge, 0])
        np.add.at(toggles, (y, np.clip(np.ceil(x), 0, columns).astype(np.int64)), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(toggles[:, :columns], axis=1) % 2 == 1
    return inside
