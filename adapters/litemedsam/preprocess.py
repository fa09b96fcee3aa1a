"""From slices, boxes and labels to LiteMedSAM's square frame, and from its logits back.

As in LiteMedSAM's own inference (CVPR24_LiteMedSAM_infer.py, commit b0fab47): the longest side is resized to S with
area interpolation, rounded to whole grey levels, scaled to [0, 1], and zero-padded at the right and the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
    pixels = image.astype(np.float32)
    if frame.resized != frame.original:
        pixels = np.rint(resize_area(pixels, frame.resized))
    if normalisation == "min-max":
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels - low) / max(high - low, 1e-8)
    else:
        pixels = pixels / 255.0
    out = np.zeros((3, size, size), np.float32)
    out[:, : frame.resized[0], : frame.resized[1]] = np.moveaxis(pixels, 2, 0)
    return out


def boxes_to_frame(boxes: Sequence[Sequence[int]] | npt.NDArray[Any], frame: Frame) -> npt.NDArray[np.float32]:
    """Half-open voxel boxes (N, 4) y0, x0, y1, x1 as x0, y0, x1, y1 of their corner pixels in the frame.

    LiteMedSAM was trained on the indices of a box's first and last pixel, so the half-open ends lose one pixel first.
    """
    array = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    corners = array[:, [1, 0, 3, 2]] - np.array([0, 0, 1, 1], np.float32)
    return np.asarray(corners * np.float32(frame.scale), dtype=np.float32)


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


def resize_area(image: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize (y, x) or (y, x, c) so that every new pixel is the mean of the area it covers.

    This equals OpenCV's INTER_AREA in both directions; enlarging, a new pixel lies in one or two old ones.
    """
    rows = _area_weights(image.shape[0], shape[0])
    columns = _area_weights(image.shape[1], shape[1])
    narrowed = np.tensordot(rows, image, axes=(1, 0))
    return np.asarray(np.moveaxis(np.tensordot(columns, narrowed, axes=(1, 1)), 0, 1), dtype=np.float32)


@lru_cache(maxsize=64)
def _area_weights(old: int, new: int) -> npt.NDArray[np.float32]:
    """Row i holds the share of new pixel i that each old pixel fills; (new, old), rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    overlap = np.clip(np.minimum(ends, pixel + 1) - np.maximum(starts, pixel), 0, None)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), dtype=np.float32)
