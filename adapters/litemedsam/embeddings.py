"""Embeddings of prompted slices for a training that leaves the encoder as it is: each slice is embedded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.cases import TrainingCase

Encode = Callable[[TrainingCase, int], npt.NDArray[np.float32]]
"""The embedding (256, s, s) of one slice of a case."""


class Embeddings:
    """Embeddings of the prompted slices of `cases`, kept in `folder` while they fit into `limit` bytes.

    They are kept in float16: 2 MB a slice at 256 px. What does not fit is embedded again whenever it is asked for, and
    rounded in the same way, so that the limit changes the time and not the result.
    """

    def __init__(self, cases: Sequence[TrainingCase], encode: Encode, folder: Path, limit: int) -> None:
        self._encode, self._folder, self._limit = encode, folder, limit
        self._cases = list({case.case: case for case in cases}.values())

    def prepare(self) -> int:
        """Embed what is not there yet, case by case, each published whole; the number of slices that did not fit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        used = left = 0
        for case in self._cases:
            slices = case.prompts.slices
            path = self._file(case)
            if not path.exists() and slices:
                first = self._rounded(case, slices[0])
                if used + first.nbytes * len(slices) > self._limit:
                    left += len(slices)
                    continue
                partial = path.with_suffix(".partial")
                with partial.open("wb") as stream:
                    np.save(stream, np.stack([first, *(self._rounded(case, z) for z in slices[1:])]))
                partial.replace(path)
            used += path.stat().st_size if slices else 0
        return left

    def of(self, case: TrainingCase, z: int) -> npt.NDArray[np.float32]:
        """The embedding (256, s, s), float32, of a prompted slice."""
        path = self._file(case)
        if not path.exists():
            return self._rounded(case, z).astype(np.float32)
        kept = np.load(path, mmap_mode="r")
        return np.asarray(kept[case.prompts.slices.index(z)], np.float32)

    def _rounded(self, case: TrainingCase, z: int) -> npt.NDArray[np.float16]:
        return self._encode(case, z).astype(np.float16)

    def _file(self, case: TrainingCase) -> Path:
        return self._folder / f"{case.case}.npy"
