"""Reference arm `box-ellipse`: the ellipse inscribed in the box as the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gtvbench.adapters.base import Needs
from gtvbench.adapters.slices import Boxes, Probabilities, SliceMethod


class BoxEllipse(SliceMethod):
    """Voxels whose centre lies in the box's inscribed ellipse are foreground; the image is not looked at."""

    needs: ClassVar[Needs] = Needs(prompts=("box",), fusions=())

    def encode(self, slices: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """The slices' shape (y, x)."""
        return slices.shape[1], slices.shape[2]

    def decode(self, embeddings: tuple[int, int], boxes: Sequence[Boxes]) -> list[Probabilities]:
        """1 inside each ellipse, 0 outside."""
        y, x = np.ogrid[: embeddings[0], : embeddings[1]]
        return [
            np.array([_inside(y, x, box) for box in of_slice], np.float32).reshape(-1, *embeddings)
            for of_slice in boxes
        ]


def _inside(y: npt.NDArray[np.intp], x: npt.NDArray[np.intp], box: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    y0, x0, y1, x1 = (float(side) for side in box)
    # Voxel n covers [n, n + 1) of the half-open box, so its centre is n + 0.5.
    vertical = (y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    horizontal = (x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    inside: npt.NDArray[np.bool_] = vertical**2 + horizontal**2 <= 1
    return inside
