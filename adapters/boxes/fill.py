"""Reference arm `box-fill`: the box itself as the mask, that is what the prompt alone is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gtvbench.adapters.base import Needs
from gtvbench.adapters.slices import Boxes, Probabilities, SliceMethod


class BoxFill(SliceMethod):
    """Everything inside the box is foreground; the image is not looked at."""

    needs: ClassVar[Needs] = Needs(prompts=("box",), fusions=())

    def encode(self, slices: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """The slices' shape (y, x)."""
        return slices.shape[1], slices.shape[2]

    def decode(self, embeddings: tuple[int, int], boxes: Sequence[Boxes]) -> list[Probabilities]:
        """1 inside each box, 0 outside."""
        filled = []
        for of_slice in boxes:
            masks = np.zeros((len(of_slice), *embeddings), np.float32)
            for mask, (y0, x0, y1, x1) in zip(masks, of_slice, strict=True):
                mask[y0:y1, x0:x1] = 1
            filled.append(masks)
        return filled
