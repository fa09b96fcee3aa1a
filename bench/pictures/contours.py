"""Outlines of masks along voxel edges, as SVG path data, and how well two masks agree slice by slice.

An outline shows exactly the voxels that were scored: filling its path (either fill rule) gives the mask back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
_Segments = dict[tuple[int, int], int]


def outline(mask: Mask, corner: tuple[int, int] = (0, 0)) -> str:
    """Path data ("M3 4h2v1h-2z...") around the voxels of a 2D mask (y, x); empty where the mask is.

    Whole numbers are voxel edges: voxel (y, x) covers x to x + 1 and y to y + 1, after `corner` (y, x) is added. Outer
    edges run clockwise as seen on the screen, holes the other way; voxels that only touch at a corner stay apart.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    right, left = _segments(np.diff(padded, axis=0)[:, 1:-1])
    down, up = _segments(-np.diff(padded, axis=1)[1:-1].T)
    right = {(x, y): end for (y, x), end in right.items()}
    left = {(x, y): end for (y, x), end in left.items()}
    parts = []
    while right:
        start = next(iter(right))
        parts.append(_loop(start, right, left, up, down, corner))
    return "".join(parts)


def _segments(steps: npt.NDArray[np.int8]) -> tuple[_Segments, _Segments]:
    """Straight edges of a mask in its lines: (line, from) -> to, those that run forwards and those that run back.

    `steps` (line, position) is +1 where the mask begins behind the line, and -1 where it ends there.
    """
    padded = np.pad(steps, ((0, 0), (1, 1)))
    before, after = padded[:, :-1], padded[:, 1:]
    changed = before != after
    lines, starts = np.nonzero(changed & (after != 0))
    _, ends = np.nonzero(changed & (before != 0))
    forwards, back = {}, {}
    for line, start, end, sign in zip(
        lines.tolist(), starts.tolist(), ends.tolist(), after[lines, starts].tolist(), strict=True
    ):
        if sign > 0:
            forwards[line, start] = end
        else:
            back[line, end] = start
    return forwards, back


def _loop(
    start: tuple[int, int], right: _Segments, left: _Segments, up: _Segments, down: _Segments, corner: tuple[int, int]
) -> str:
    """Follow one closed outline from the beginning of an edge to the right; its edges are taken out of the maps.

    Where four edges meet, the turn to the right is taken: it stays with the voxel at hand.
    """
    x, y = start
    moves = [f"M{x + corner[1]} {y + corner[0]}"]
    forwards = True
    while True:
        here, x = x, right.pop((x, y)) if forwards else left.pop((x, y))
        moves.append(f"h{x - here}")
        goes_down = (x, y) in down if forwards else (x, y) not in up
        here, y = y, down.pop((x, y)) if goes_down else up.pop((x, y))
        forwards = (x, y) not in left if goes_down else (x, y) in right or (x, y) == start
        if forwards and (x, y) == start:
            return "".join(moves) + "z"
        moves.append(f"v{y - here}")


def box_outline(box: tuple[int, int, int, int], corner: tuple[int, int]) -> str:
    """Path data around a box (y0, x0, y1, x1) of half-open voxel indices, seen from `corner` (y, x)."""
    y0, x0, y1, x1 = box
    return f"M{x0 - corner[1]} {y0 - corner[0]}h{x1 - x0}v{y1 - y0}h{x0 - x1}z"


def slice_dsc(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float | None:
    """DSC of two 2D masks; None where both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / total if total else None
