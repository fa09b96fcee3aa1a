"""Cases: what a source delivers, what lies prepared on disk, and what a method may see of it.

`Images` has no reference, nor a path that leads to one: a method that predicts gets this and nothing else.
`TrainingCase` adds the reference label map and the stored prompts, for training and validation cases only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.fusion import FUSIONS, MODALITIES
from gtvbench.bench.core.geometry import Grid, Reorientation
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import Structure


@dataclass(frozen=True)
class RegistrationRecord:
    """How a modality came to the reference grid: JSON-serialisable `facts` (docs/registration.md), the transform as the
    content of an ITK transform file (None where nothing was done), and what is kept of how it lay before
    (checkerboards.py)."""

    facts: Mapping[str, Any]
    transform: bytes | None = None
    before: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceCase:
    """One patient as a source delivers it: modalities and reference on the reference grid, canonical orientation.

    `images` holds float32 arrays (z, y, x) in HU, SUV and scanner units; `label` is uint8; `original` and
    `reorientation` lead predictions back to the file's own grid; `coverage` is the share of the grid that each
    modality's field of view covers; `notes` are warnings for the user; `registrations` is by modality, empty where
    headers were trusted.
    """

    name: str
    patient: str
    grid: Grid
    images: Mapping[str, npt.NDArray[np.float32]]
    label: npt.NDArray[np.uint8]
    original: Grid
    reorientation: Reorientation
    coverage: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    registrations: Mapping[str, RegistrationRecord] = field(default_factory=dict)


#: Bytes before the voxels of an uncompressed NIfTI-1 file without extensions.
NIFTI_OFFSET = 352


@dataclass(frozen=True)
class CohortFacts:
    """What a method may know of a study's patients before any work: modalities that all of them have, structures, and
    how many patients are in each subset ("train", "validation", "test")."""

    modalities: tuple[str, ...]
    structures: tuple[Structure, ...]
    patients: Mapping[str, int]


def gathered_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by case as lines, each told once: with the case's name, or with the number of cases that share it."""
    cases: dict[str, list[str]] = {}
    for case, told in notes.items():
        for note in dict.fromkeys(told):
            cases.setdefault(note, []).append(case)
    return [
        f"{named[0]}: {note}" if len(named) == 1 else f"{note} (in {len(named)} of {len(notes)} cases)"
        for note, named in cases.items()
    ]


@dataclass(frozen=True)
class Images:
    """The images of one prepared case, read lazily from `folder`; all a method sees when it predicts."""

    case: str
    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Record written when the case was prepared: grid, modalities, coverage, digest."""
        path = self.folder / "case.json"
        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError("a prepared case cannot be read", case=self.case, file=path) from error
        return record

    @property
    def grid(self) -> Grid:
        """The reference grid, in canonical orientation."""
        return Grid.from_dict(self.meta["grid"])

    @property
    def original(self) -> Grid:
        """The grid of the reference's file, in whatever orientation that is."""
        return Grid.from_dict(self.meta["original"])

    def to_original(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A volume on `grid`, turned onto `original`; contiguous."""
        return np.ascontiguousarray(self._turn.undo(volume))

    def from_original(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A volume on `original`, turned onto `grid`; contiguous."""
        return np.ascontiguousarray(self._turn.apply(volume))

    @property
    def _turn(self) -> Reorientation:
        (a, b, c), (d, e, f) = self.meta["reorientation"]["axes"], self.meta["reorientation"]["flips"]
        return Reorientation((a, b, c), (d, e, f))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of this case, in the order of MODALITIES."""
        return tuple(m for m in MODALITIES if m in self.meta["modalities"])

    def raw_file(self, modality: str) -> Path:
        """The uncompressed NIfTI file of `raw`, on the reference grid: other programs read it, or a link to it."""
        return self.folder / f"{modality}.nii"

    def raw(self, modality: str) -> npt.NDArray[np.float32]:
        """Volume (z, y, x) in HU, SUV or scanner units, memory-mapped, read-only."""
        path, shape = self.raw_file(modality), self.grid.shape
        if not path.is_file() or path.stat().st_size != NIFTI_OFFSET + 4 * math.prod(shape):
            raise StoreError("a prepared volume is missing or not whole", case=self.case, file=path)
        return np.memmap(path, "<f4", mode="r", offset=NIFTI_OFFSET, shape=shape)

    def scaled(self, modality: str) -> npt.NDArray[np.uint8]:
        """Volume (z, y, x) clipped and scaled to 0-255 (fusion.py), memory-mapped, read-only."""
        volume: npt.NDArray[np.uint8] = np.load(self.folder / f"{modality}.uint8.npy", mmap_mode="r")
        return volume

    def fused_slice(self, fusion: str, z: int) -> npt.NDArray[np.uint8]:
        """Slice z as the three-channel image (y, x, 3), uint8, of a named fusion."""
        wanted = FUSIONS[fusion]
        return wanted.fuse({m: np.asarray(self.scaled(m)[z]) for m in wanted.modalities(self.modalities)})


@dataclass(frozen=True)
class TrainingCase:
    """A training or validation case: its images, its reference label map and its stored prompts."""

    images: Images
    reference: Path
    prompts: Prompts

    @property
    def case(self) -> str:
        """Name of the case."""
        return self.images.case

    def label(self) -> npt.NDArray[np.uint8]:
        """Reference label map (z, y, x), memory-mapped, read-only."""
        label: npt.NDArray[np.uint8] = np.load(self.reference, mmap_mode="r")
        return label
