"""Method `pet-threshold`: voxels of the box above a fraction of the box's brightest voxel (the classic PET rule)."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from gtvbench.adapters.base import Needs, Options
from gtvbench.adapters.slices import SliceMethod

GREEN = 1  # the fusion `multimodal` holds PET in its second channel


class ThresholdOptions(Options):
    """Options in the study file: `fraction: 0.42`."""

    fraction: float = Field(default=0.42, gt=0, lt=1)


class PetThreshold(SliceMethod):
    """41-50 % of the maximum uptake are customary (Boellaard et al., EANM guideline 2015).

    An example, not for use: the fused slices hold PET clipped to SUV 6, in 8 bits. A method that counts on SUV
    derives from VolumeMethod and reads `images.raw("PET")`.
    """

    needs = Needs(prompts=("box",), fusions=("multimodal",))
    Options = ThresholdOptions

    def encode(self, slices: np.ndarray) -> np.ndarray:
        """The PET channel of each slice."""
        return slices[..., GREEN].astype(np.float32)

    def decode(self, embeddings: np.ndarray, boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """1 above the threshold inside the box, else 0."""
        return [
            np.array([self._segment(plane, box) for box in of_slice], np.float32).reshape(-1, *plane.shape)
            for plane, of_slice in zip(embeddings, boxes, strict=True)
        ]

    def _segment(self, plane: np.ndarray, box: np.ndarray) -> np.ndarray:
        y0, x0, y1, x1 = box
        mask = np.zeros(plane.shape, np.float32)
        inside = plane[y0:y1, x0:x1]
        mask[y0:y1, x0:x1] = inside > self.context.options.fraction * inside.max()
        return mask
