"""LiteMedSAM as published: a box per instance and slice, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gtvbench.adapters.base import Context, Needs
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.litemedsam.checkpoints import load_model
from gtvbench.adapters.litemedsam.fast import FastLiteMedSAM, Precision
from gtvbench.adapters.litemedsam.preprocess import (
    Frame,
    Normalisation,
    boxes_to_frame,
    logits_to_probability,
    slice_to_frame,
)
from gtvbench.adapters.slices import Boxes, Probabilities, SliceMethod
from gtvbench.bench.core.errors import WeightsError

_BOXES_AT_ONCE = 16  # a box takes some 40 MB of activations at 256 px


class ImageOptions(BaseOptions):
    """Of every LiteMedSAM method: the frame's side in pixels, how slices are scaled, the encoder's precision."""

    image_size: int = Field(256, ge=8, multiple_of=4)
    normalisation: Normalisation = "min-max"
    precision: Precision = "float32"


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, 256, s, s) on the device, and how their slices lie in the frame."""

    tensors: Tensor
    frame: Frame


class ZeroShot(SliceMethod):
    """LiteMedSAM with the weights it is given, as they are."""

    needs: ClassVar[Needs] = Needs(prompts=("box",), weights="lite_medsam.pth")
    Options: ClassVar[type[BaseOptions]] = ImageOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._network: FastLiteMedSAM | None = None

    def load(self, fit: Path | None) -> None:
        """Load the weights, fold BatchNorm, move to the device."""
        self._load_from(given_weights(self.context))

    def encode(self, slices: npt.NDArray[np.uint8]) -> Embedded:
        """Embed slices (n, y, x, 3)."""
        options = self.context.options
        framed = [slice_to_frame(image, options.image_size, options.normalisation) for image in slices]
        frame = Frame((slices.shape[1], slices.shape[2]), options.image_size)
        return Embedded(self._ready().encode(torch.from_numpy(np.stack(framed))), frame)

    def decode(self, embeddings: Embedded, boxes: Sequence[Boxes]) -> list[Probabilities]:
        """Probabilities (k, y, x) of the k boxes of every slice."""
        counts = [len(of_slice) for of_slice in boxes]
        owners = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor(counts))
        framed = torch.from_numpy(boxes_to_frame(np.concatenate(boxes), embeddings.frame))
        found = [np.zeros((0, *embeddings.frame.original), np.float32)]
        for start in range(0, len(framed), _BOXES_AT_ONCE):
            part = slice(start, start + _BOXES_AT_ONCE)
            chosen = embeddings.tensors[owners[part].to(embeddings.tensors.device)]
            logits, _ = self._ready().decode(chosen, framed[part])
            found.append(logits_to_probability(logits, embeddings.frame).cpu().numpy())
        return np.split(np.concatenate(found), np.cumsum(counts)[:-1])

    def _load_from(self, weights: Path) -> None:
        options = self.context.options
        model, _ = load_model(weights, image_size=options.image_size)
        self._network = FastLiteMedSAM(model, torch.device(self.context.device), options.precision)

    def _ready(self) -> FastLiteMedSAM:
        if self._network is None:
            raise WeightsError("LiteMedSAM predicts before its weights are loaded", remedy="call load() first")
        return self._network


def given_weights(context: Context) -> Path:
    """The weights that the harness resolved.

    Raises:
        WeightsError: it was given none.
    """
    if context.weights is None:
        raise WeightsError(
            "LiteMedSAM was given no weights",
            remedy="name lite_medsam.pth, demo or a file under 'weights' in the study file; see `bench weights`",
        )
    return context.weights
