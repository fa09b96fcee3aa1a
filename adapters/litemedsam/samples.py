"""Training samples for LiteMedSAM: (slice, instance) pairs of prepared cases, as batches in the network's frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gtvbench.adapters.litemedsam.embeddings import Embeddings
from gtvbench.adapters.litemedsam.options import Normalisation
from gtvbench.adapters.litemedsam.preprocess import Frame, boxes_to_frame, mask_to_frame, slice_to_frame
from gtvbench.bench.core.cases import TrainingCase
from gtvbench.bench.core.digest import generator_from
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.prompts import Box, BoxPrompt, Policy, grow, instances_in
from gtvbench.bench.core.structures import Structure


@dataclass(frozen=True)
class SlicePrompts:
    """The prompts of one slice of the case numbered ``case`` in the list of cases."""

    case: int
    z: int
    prompts: tuple[BoxPrompt, ...]


@dataclass(frozen=True)
class Batch:
    """A batch of B images and N boxes.

    Images (B, 3, S, S) or embeddings (B, 256, s, s); boxes (N, 4) x0 y0 x1 y1, masks (N, 1, S, S) float, and the image
    of every box (N,). ``weight``: which part its boxes are of those of the same step in all ranks.
    """

    images: Tensor
    boxes: Tensor
    masks: Tensor
    owners: Tensor
    weight: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``, images channels-last."""
        return Batch(
            self.images.to(device, memory_format=torch.channels_last),
            self.boxes.to(device),
            self.masks.to(device),
            self.owners.to(device),
            self.weight,
        )


@dataclass(frozen=True)
class Samples:
    """All (slice, instance) pairs of some cases.

    Args:
        cases: where slices, labels and stored prompts come from.
        fusion: name of the fusion.
        size: side of the network's frame in pixels.
        normalisation: of slices.
        batch: (slice, instance) pairs per batch.
        embeddings: instead of images, for a training of the decoder alone.
    """

    cases: Sequence[TrainingCase]
    fusion: str
    size: int
    normalisation: Normalisation
    batch: int
    embeddings: Embeddings | None = None

    def slices(self) -> list[SlicePrompts]:
        """Slices with at least one prompt, by case and height."""
        return [
            SlicePrompts(number, z, case.prompts.in_slice(z))
            for number, case in enumerate(self.cases)
            for z in case.prompts.slices
        ]

    def plan(self, *shuffled_by: object) -> list[list[SlicePrompts]]:
        """Batches of one pass over every pair once; with names, slices in an order drawn from these names.

        A batch counts *pairs*, as the study's does. Pairs of one slice stay together, so that the slice is encoded
        once for all its boxes; a slice that does not fit the rest of a batch goes on in the next one.
        """
        slices = self.slices()
        if shuffled_by:
            slices = [slices[i] for i in generator_from("samples", *shuffled_by).permutation(len(slices))]
        pairs = [SlicePrompts(one.case, one.z, (prompt,)) for one in slices for prompt in one.prompts]
        chunks = [pairs[start : start + self.batch] for start in range(0, len(pairs), self.batch)]
        return [list(_together(chunk)) for chunk in chunks]

    def stored(self, slices: Sequence[SlicePrompts]) -> Batch:
        """A batch with the stored prompts, nothing redrawn: for validation."""
        return self._batch(slices, None, flips=False, names=())

    def redrawn(
        self, slices: Sequence[SlicePrompts], margins: Policy, *, flips: bool, names: Sequence[object]
    ) -> Batch:
        """A batch with margins, and flips of the slice, drawn from a seed made of ``names`` and the slice."""
        return self._batch(slices, margins, flips=flips, names=names)

    def _batch(
        self, slices: Sequence[SlicePrompts], margins: Policy | None, *, flips: bool, names: Sequence[object]
    ) -> Batch:
        images, boxes, masks, owners = [], [], [], []
        for position, one in enumerate(slices):
            case = self.cases[one.case]
            image = case.images.fused_slice(self.fusion, one.z)
            height, width = image.shape[:2]
            turned = generator_from("flips", *names, case.case, one.z).random(2) < 0.5 if flips else (False, False)
            step_y, step_x = (-1 if turn else 1 for turn in turned)
            if self.embeddings is None:
                images.append(slice_to_frame(image[::step_y, ::step_x], self.size, self.normalisation))
            else:
                images.append(self.embeddings.of(case, one.z))
            for prompt, mask, tight in _instances(case, one):
                box = prompt.box
                if margins is not None:
                    rng = generator_from("margins", *names, case.case, one.z, prompt.structure, prompt.instance)
                    box = grow(tight, margins.margins_mm(rng), case.images.grid.spacing[1:], (height, width))
                box = _flipped(box, height, width, step_y, step_x)
                boxes.append(boxes_to_frame([box], Frame((height, width), self.size)))
                masks.append(mask_to_frame(mask[::step_y, ::step_x], self.size))
                owners.append(position)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.concatenate(boxes)),
            torch.from_numpy(np.stack(masks)[:, None].astype(np.float32)),
            torch.tensor(owners),
        )


def share(slices: Sequence[SlicePrompts], rank: int, ranks: int) -> list[SlicePrompts]:
    """What one of several ranks takes of a batch. It may be empty: a slice goes to one rank with all its pairs, so that
    BatchNorm counts it once, to the one that has the fewest pairs so far."""
    shares: list[list[SlicePrompts]] = [[] for _ in range(ranks)]
    for one in slices:
        min(shares, key=count_pairs).append(one)
    return shares[rank]


def count_pairs(slices: Sequence[SlicePrompts]) -> int:
    """Pairs of slice and instance."""
    return sum(len(one.prompts) for one in slices)


def _together(pairs: Sequence[SlicePrompts]) -> Iterator[SlicePrompts]:
    for (case, z), group in groupby(pairs, key=lambda pair: (pair.case, pair.z)):
        yield SlicePrompts(case, z, tuple(prompt for pair in group for prompt in pair.prompts))


def _instances(case: TrainingCase, one: SlicePrompts) -> Iterator[tuple[BoxPrompt, npt.NDArray[np.bool_], Box]]:
    """Prompt, mask and tight box of every instance of ``one``."""
    values = sorted({prompt.structure for prompt in one.prompts})
    found = instances_in(np.asarray(case.label()[one.z]), one.z, [Structure(str(value), value) for value in values])
    by_name = {(instance.structure, instance.number): instance for instance in found}
    for prompt in one.prompts:
        instance = by_name.get((prompt.structure, prompt.instance))
        if instance is None:
            raise DataError(
                f"prompt {prompt.instance} of structure {prompt.structure} in slice {one.z} has no instance",
                case=case.case,
                file=case.reference,
                remedy="the reference changed after its prompts were drawn; run the study again",
            )
        yield prompt, instance.mask, instance.tight


def _flipped(box: Box, height: int, width: int, step_y: int, step_x: int) -> Box:
    y0, x0, y1, x1 = box
    if step_y < 0:
        y0, y1 = height - y1, height - y0
    if step_x < 0:
        x0, x1 = width - x1, width - x0
    return y0, x0, y1, x1
