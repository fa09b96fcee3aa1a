"""Methods that segment slice by slice from boxes: the shared walk through a volume."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gtvbench.adapters.base import Adapter, Clock, LabelMap
from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.fusion import NO_FUSION
from gtvbench.bench.core.prompts import BoxPrompt, Prompts

Boxes = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


class SliceMethod(Adapter):
    """A method that turns a slice into an embedding once, and each box in it into a mask."""

    #: Slices that are encoded and decoded together when throughput is measured; latency is always at one slice.
    throughput_batch = 8

    @abstractmethod
    def encode(self, slices: npt.NDArray[np.uint8]) -> Any:
        """Embeddings, in any form, of slices (n, y, x, 3), uint8 0-255, fused as the arm says.

        Called once for every slice with a prompt (n = 1), however many boxes it has, and with several slices where
        throughput is measured. Timed as the stage "encode".
        """

    @abstractmethod
    def decode(self, embeddings: Any, boxes: Sequence[Boxes]) -> list[Probabilities]:
        """Foreground probabilities (k, y, x) for each slice of `encode`, one for each of its k boxes.

        Boxes are (k, 4): y0, x0, y1, x1, half-open voxel indices. A voxel is foreground above 0.5. Called after every
        `encode`. Timed as the stage "decode".
        """

    def predict(self, images: Images, prompts: Prompts, clock: Clock) -> LabelMap:
        """Encode each prompted slice once, decode its boxes, merge the instances into a label map."""
        label = np.zeros(images.grid.shape, np.uint8)
        for z in prompts.slices:
            asked = prompts.in_slice(z)
            boxes = _boxes(asked)
            image = self._slice(images, z)[None]
            with clock.measure("encode", slice=z):
                embeddings = self.encode(image)
            with clock.measure("decode", slice=z, boxes=len(asked)):
                probabilities = self.decode(embeddings, [boxes])[0]
            label[z] = merge(probabilities, [p.structure for p in asked])
        return label

    def throughput(self, images: Images, prompts: Prompts, clock: Clock) -> None:
        """One batch of slices, after one that pays for the memory of its shape."""
        batch = prompts.slices[: self.throughput_batch]
        if len(batch) < 2:
            return
        slices = np.stack([self._slice(images, z) for z in batch])
        boxes = [_boxes(prompts.in_slice(z)) for z in batch]
        self.decode(self.encode(slices), boxes)
        with clock.measure("throughput", slice=len(batch), boxes=sum(len(b) for b in boxes)):
            self.decode(self.encode(slices), boxes)

    def _slice(self, images: Images, z: int) -> npt.NDArray[np.uint8]:
        if self.context.fusion == NO_FUSION:
            return np.zeros((*images.grid.shape[1:], 3), np.uint8)
        return images.fused_slice(self.context.fusion, z)


def merge(probabilities: Probabilities, structures: Sequence[int]) -> LabelMap:
    """One label plane (y, x) of instance probabilities (k, y, x) and their structures' label values.

    Where foregrounds (above 0.5) overlap the higher probability wins; ties go to the smaller label value.
    """
    label = np.zeros(probabilities.shape[1:], np.uint8)
    best = np.full(probabilities.shape[1:], 0.5, np.float32)
    for index in np.argsort(structures, kind="stable"):
        wins = probabilities[index] > best
        label[wins] = structures[index]
        best[wins] = probabilities[index][wins]
    return label


def _boxes(prompts: Sequence[BoxPrompt]) -> Boxes:
    return np.array([p.box for p in prompts], np.int64).reshape(-1, 4)
