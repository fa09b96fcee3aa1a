"""From slices, boxes and labels to LiteMedSAM's square frame, and from its logits back.

As in LiteMedSAM's own inference (CVPR24_LiteMedSAM_infer.py, commit b0fab47), bit for bit: OpenCV resizes the longest
side of the 8-bit slice to S by area interpolation, it is scaled to [0, 1] and zero-padded at the right and the bottom;
corners of boxes are cut to whole pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from gtvbench.adapters.litemedsam.options import Normalisation


@dataclass(frozen=True)
class Frame:
    """How a slice of ``original`` (height, width) pixels lies in a square frame of ``size`` pixels."""

    original: tuple[int, int]
    size: int

    @property
    def scale(self) -> float:
        """Frame pixels per original pixel."""
        return self.size / max(self.original)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the slice in the frame, without the padding."""
        height, width = (max(1, int(side * self.scale + 0.5)) for side in self.original)
        return height, width


def slice_to_frame(
    image: npt.NDArray[np.uint8], size: int, normalisation: Normalisation = "min-max"
) -> npt.NDArray[np.float32]:
    """A slice (y, x, 3), uint8, as the network's input (3, size, size) in [0, 1].

    Min-max comes after the resize and before the padding; its denominator is at least 1e-8.
    """
    frame = Frame((image.shape[0], image.shape[1]), size)
    pixels = resize_area(image, frame.resized)
    low, high = (int(pixels.min()), int(pixels.max())) if normalisation == "min-max" else (0, 255)
    # float64 until the end, as there: a division in float32 differs in the last bit
    scaled = (pixels - np.float64(low)) / max(high - low, 1e-8)
    out: npt.NDArray[np.float32] = np.zeros((3, size, size), np.float32)
    out[:, : frame.resized[0], : frame.resized[1]] = np.moveaxis(scaled, 2, 0)
    return out


def boxes_to_frame(boxes: Sequence[Sequence[int]] | npt.NDArray[Any], frame: Frame) -> npt.NDArray[np.float32]:
    """Half-open voxel boxes (N, 4) y0, x0, y1, x1 as x0, y0, x1, y1 of their corner pixels in the frame.

    LiteMedSAM was trained on the indices of a box's first and last pixel, so the half-open ends lose one pixel first;
    its inference cuts the scaled corners to whole pixels.
    """
    array = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    corners = array[:, [1, 0, 3, 2]] - np.array([0, 0, 1, 1])
    return np.asarray(np.trunc(corners * frame.scale), np.float32)


def mask_to_frame(mask: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    """A mask (y, x) as the training target (size, size).

    A frame pixel belongs to the target where at least half of its area does; a target too small for that keeps the
    pixels that it covers most, so that no instance vanishes, which nearest-neighbour downscaling would let happen.
    """
    frame = Frame((mask.shape[0], mask.shape[1]), size)
    covered = resize_area(mask.astype(np.float32), frame.resized)
    inside = covered >= min(0.5, float(covered.max())) if mask.any() else covered > 1
    out = np.zeros((size, size), bool)
    out[: frame.resized[0], : frame.resized[1]] = inside
    return out


def logits_to_probability(logits: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Logits (N, 1, size, size) as probabilities (N, y, x) on the original slice: crop, bilinear, sigmoid."""
    height, width = frame.resized
    cropped = logits[:, :, :height, :width].float()
    if frame.resized != frame.original:
        cropped = F.interpolate(cropped, frame.original, mode="bilinear", align_corners=False)
    return cropped[:, 0].sigmoid()


def resize_area(image: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize (y, x) or (y, x, c), of uint8 or float32, to ``shape`` (y, x) by OpenCV's area interpolation."""
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA))
