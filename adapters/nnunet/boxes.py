"""Box prompts as image channels, of whole volumes and of training patches; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.prompts import Policy, Prompts, grow, instances_in
from gtvbench.bench.core.structures import Structure

Channels = npt.NDArray[np.uint8]


def groups(structures: Sequence[Structure], per_structure: bool) -> tuple[tuple[int, ...], ...]:
    """For each box channel the label values whose boxes it shows."""
    if per_structure:
        return tuple((s.value,) for s in structures)
    return (tuple(s.value for s in structures),)


def box_channels(prompts: Prompts, shape: Sequence[int], channels: Sequence[Sequence[int]]) -> Channels:
    """Channels (channel, z, y, x), uint8: 1 inside any box of that slice whose structure belongs to the channel."""
    out = np.zeros((len(channels), *shape), np.uint8)
    for prompt in prompts.boxes:
        y0, x0, y1, x1 = prompt.box
        for index, values in enumerate(channels):
            if prompt.structure in values:
                out[index, prompt.slice, y0:y1, x0:x1] = 1
    return out


def fresh_channels(
    label: npt.NDArray[np.integer],
    channels: Sequence[Sequence[int]],
    spacing_mm: Sequence[float],
    slice_axis: int,
    margins: Policy,
    rng: np.random.Generator,
) -> Channels:
    """Channels as `box_channels`, drawn anew around what a label patch (three axes, any order) shows.

    `slice_axis` is the axis of the patch along which slices follow each other, `spacing_mm` the size of its voxels.
    `channels` name values of the patch. An instance cut by the patch's edge gets the box of its visible part.
    """
    planes = np.moveaxis(label, slice_axis, 0)
    in_plane = [s for axis, s in enumerate(spacing_mm) if axis != slice_axis]
    out = np.zeros((len(channels), *planes.shape), np.uint8)
    named = [Structure(str(value), value) for values in channels for value in values]
    for z in np.flatnonzero((planes > 0).any(axis=(1, 2))):
        for instance in instances_in(planes[z], int(z), named):
            y0, x0, y1, x1 = grow(instance.tight, margins.margins_mm(rng), in_plane, planes.shape[1:])
            for index, values in enumerate(channels):
                if instance.structure in values:
                    out[index, z, y0:y1, x0:x1] = 1
    return np.ascontiguousarray(np.moveaxis(out, 1, slice_axis + 1))
