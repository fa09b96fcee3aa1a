"""LiteMedSAM as published: a box per instance and slice, no training.

torch is imported where it is used, so that listing methods and planning a run stay quick and small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from gtvbench.adapters.base import Context, Needs
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.litemedsam.options import ImageOptions
from gtvbench.adapters.slices import Boxes, Probabilities, SliceMethod
from gtvbench.bench.core.cases import CohortFacts
from gtvbench.bench.core.errors import WeightsError
from gtvbench.bench.files.provenance import has_accelerator

if TYPE_CHECKING:
    from torch import Tensor

    from gtvbench.adapters.litemedsam.inference import Predictor
    from gtvbench.adapters.litemedsam.preprocess import Frame

_BOXES_AT_ONCE = 16  # a box takes some 40 MB of activations at 256 px


@dataclass(frozen=True)
class Embedded:
    """Embeddings (n, 256, s, s) on the device, and how their slices lie in the frame."""

    tensors: Tensor
    frame: Frame


class ZeroShot(SliceMethod):
    """LiteMedSAM with the weights it is given, as they are."""

    needs: ClassVar[Needs] = Needs(prompts=("box",), weights="lite_medsam.pth", version=2)
    Options: ClassVar[type[BaseOptions]] = ImageOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._network: Predictor | None = None

    @classmethod
    def skip(cls, options: Any, cohort: CohortFacts) -> str | None:
        """bfloat16 on a processor that has no units for it."""
        if options.precision != "bfloat16" or options.backend == "torch" or has_accelerator():
            return None
        from gtvbench.adapters.litemedsam.inference import computes_bfloat16

        return None if computes_bfloat16() else "this processor does not compute in bfloat16; use precision: float32"

    def load(self, fit: Path | None) -> None:
        """Load the weights, move to the device."""
        self._load_from(given_weights(self.context))

    def encode(self, slices: npt.NDArray[np.uint8]) -> Embedded:
        """Embed slices (n, y, x, 3)."""
        import torch

        from gtvbench.adapters.litemedsam.preprocess import Frame, slice_to_frame

        options = self.context.options
        framed = [slice_to_frame(image, options.image_size, options.normalisation) for image in slices]
        frame = Frame((slices.shape[1], slices.shape[2]), options.image_size)
        return Embedded(self._ready().encode(torch.from_numpy(np.stack(framed))), frame)

    def decode(self, embeddings: Embedded, boxes: Sequence[Boxes]) -> list[Probabilities]:
        """Probabilities (k, y, x) of the k boxes of every slice."""
        import torch

        from gtvbench.adapters.litemedsam.preprocess import boxes_to_frame, logits_to_probability

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
        import torch

        from gtvbench.adapters.litemedsam.checkpoints import load_model
        from gtvbench.adapters.litemedsam.inference import Predictor

        options = self.context.options
        model, _ = load_model(weights, image_size=options.image_size)
        self._network = Predictor(model, torch.device(self.context.device), options.precision, options.backend)

    def _ready(self) -> Predictor:
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
            remedy="name lite_medsam.pth or a file under 'weights' in the study file; see `bench weights`",
        )
    return context.weights
