"""What keeps the box channel a box: transforms around nnU-Net's own augmentation.

nnU-Net resamples and turns every channel with an interpolation that smears a mask, and most of its intensity transforms
touch every channel. So the box channels are thresholded after everything that interpolates, and kept out of everything
that changes intensities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from gtvbench.adapters.nnunet.boxes import fresh_channels
from gtvbench.bench.core.prompts import Policy

#: A voxel belongs to the box where more than half of it does.
THRESHOLD = 0.5


def binarise(image: torch.Tensor, first: int) -> torch.Tensor:
    """Threshold the channels from `first` on, in place; `image` is (channel, ...)."""
    image[first:] = (image[first:] > THRESHOLD).to(image.dtype)
    return image


class Binarise(BasicTransform):  # type: ignore[misc]
    """Threshold the channels from `first` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """See `binarise`."""
        data_dict["image"] = binarise(data_dict["image"], self.first)
        return data_dict


class ImageChannelsOnly(BasicTransform):  # type: ignore[misc]
    """Let a transform see the channels before `first` only."""

    def __init__(self, transform: Any, first: int) -> None:
        super().__init__()
        self.transform, self.first = transform, first

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Split, transform the images, and put the box channels back."""
        image = data_dict["image"]
        boxes = image[self.first :].clone()
        done: dict[str, Any] = self.transform(**{**data_dict, "image": image[: self.first]})
        done["image"] = torch.cat([done["image"], boxes])
        return done


class FreshBoxes(BasicTransform):  # type: ignore[misc]
    """Draw the box channels anew from the patch's segmentation, before anything is turned or scaled.

    `slice_axis` and `spacing_mm` are those of a patch of three axes; a 2D patch lacks the first of them.
    """

    def __init__(
        self,
        first: int,
        channels: Sequence[Sequence[int]],
        spacing_mm: Sequence[float],
        slice_axis: int,
        margins: Policy,
    ) -> None:
        super().__init__()
        self.first, self.channels = first, channels
        self.spacing_mm, self.slice_axis, self.margins = spacing_mm, slice_axis, margins

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Replace the box channels; the seed comes from NumPy's global state, which the trainer seeds every epoch."""
        image, label = data_dict["image"], data_dict["segmentation"][0].numpy()
        flat = label.ndim == 2
        rng = np.random.default_rng(np.random.randint(2**31))
        drawn = fresh_channels(
            label[None] if flat else label, self.channels, self.spacing_mm, self.slice_axis, self.margins, rng
        )
        image[self.first :] = torch.from_numpy(drawn[:, 0] if flat else drawn).to(image.dtype)
        return data_dict


def with_boxes(pipeline: Any, first: int, fresh: FreshBoxes | None = None) -> Any:
    """nnU-Net's training pipeline with the box channels kept out of its intensity transforms, and binary.

    `pipeline` is what `get_training_transforms` returns: spatial transforms, then intensity transforms (each in a
    `RandomTransform`), then those that leave intensities alone.
    """
    steps: list[Any] = [*([fresh] if fresh is not None else []), Binarise(first)]
    spatial = True
    for step in pipeline.transforms:
        if isinstance(step, RandomTransform):
            if spatial:
                steps.append(Binarise(first))
                spatial = False
            steps.append(ImageChannelsOnly(step, first))
        else:
            steps.append(step)
    if spatial:  # a variant without intensity transforms: whatever interpolates comes before the end
        steps.append(Binarise(first))
    return ComposeTransforms(steps)


def validation_with_boxes(pipeline: Any, first: int, fresh: FreshBoxes | None = None) -> Any:
    """nnU-Net's validation pipeline, which neither turns nor scales, behind a threshold."""
    return ComposeTransforms([*([fresh] if fresh is not None else []), Binarise(first), *pipeline.transforms])
