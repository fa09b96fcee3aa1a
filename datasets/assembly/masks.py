"""Reference label maps from mask files: which values mean which structure, and how several files become one map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.nifti import read_volume
from gtvbench.datasets.assembly.resample import labels_to_grid
from gtvbench.datasets.base import SourceOptions


class MaskEntry(SourceOptions):
    """A mask file of a patient, or several. Give `labels` or `structure`, or neither: then the values are those of the
    study."""

    file: str
    """Pattern of the file name."""
    labels: dict[int, str] | None = None
    """What the values in the file mean: `{1: GTV-T, 2: GTV-N}`."""
    structure: str | None = None
    """Every voxel above 0 is this structure."""
    ignore: tuple[int, ...] = ()
    """Values that count as background."""
    several: bool = False
    """The pattern may match more than one file (one for each lesion)."""
    optional: bool = False
    """A patient may lack this file: then this patient has no such structure."""

    @model_validator(mode="after")
    def _one_meaning(self) -> MaskEntry:
        if self.labels is not None and self.structure is not None:
            raise ValueError("a mask has 'labels' or 'structure', not both")
        if self.labels is not None and 0 in self.labels:
            raise ValueError("the value 0 is the background and cannot be a structure")
        if self.structure is not None and self.ignore:
            raise ValueError("'ignore' goes with 'labels'; with 'structure' every voxel above 0 counts")
        return self


@dataclass(frozen=True)
class Meaning:
    """How a mask file's values become the study's: `values` {file's: study's}, or `whole` for all above 0."""

    values: dict[int, int]
    whole: int | None = None


def meaning_of(entry: MaskEntry, structures: Sequence[Structure]) -> Meaning:
    """Resolve the names of structures; raises StudyError where the study has no such structure."""
    known = {s.name: s.value for s in structures}
    wanted = list(entry.labels.values()) if entry.labels is not None else [entry.structure] if entry.structure else []
    for name in wanted:
        if name not in known:
            raise StudyError(
                f"the mask {entry.file!r} names the structure {name!r}, which the study does not have",
                remedy=f"the study's structures are {', '.join(known)}; a value to drop goes under 'ignore'",
            )
    ignored = dict.fromkeys(entry.ignore, 0)
    if entry.structure is not None:
        return Meaning({}, known[entry.structure])
    if entry.labels is not None:
        return Meaning({**ignored, **{value: known[name] for value, name in entry.labels.items()}})
    return Meaning({**ignored, **{value: value for value in known.values() if value not in ignored}})


def translated(array: npt.NDArray[Any], meaning: Meaning, *, case: str, file: Path) -> npt.NDArray[np.uint8]:
    """A file's label map in the study's values, uint8; raises DataError for values that mean nothing."""
    if np.issubdtype(array.dtype, np.floating) and bool(np.any(array != np.rint(array))):
        raise DataError(
            "the mask has values that are not whole numbers",
            case=case,
            file=file,
            remedy="it looks like a probability map or an interpolated mask; write it as a label map",
        )
    if meaning.whole is not None:
        return (array > 0).astype(np.uint8) * np.uint8(meaning.whole)
    out = np.zeros(array.shape, np.uint8)
    unknown = []
    for value in np.unique(array):
        if int(value) == 0:
            continue
        if int(value) not in meaning.values:
            unknown.append(int(value))
        elif meaning.values[int(value)]:
            out[array == value] = meaning.values[int(value)]
    if unknown:
        named = sorted(value for value, to in meaning.values.items() if to)
        raise DataError(
            f"label values {unknown} belong to no structure of the study (known in this file: {named})",
            case=case,
            file=file,
            remedy="name them under the mask's 'labels', drop them with 'ignore: [...]', or fix the mask",
        )
    return out


@dataclass(frozen=True)
class MaskFile:
    """A mask file found, and what its values mean."""

    path: Path
    meaning: Meaning


def merged_label(
    files: Sequence[MaskFile], grid: Grid, structures: Sequence[Structure], case: str
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """The label map (z, y, x) of all mask files on a canonical grid, and notes on what had to be decided.

    Where two files claim a voxel for different structures, the earlier keeps it, and a note says how many. A mask on
    another grid is resampled (nearest neighbour) with a note; without any overlap that is a DataError.
    """
    names = {s.value: s.name for s in structures}
    label = np.zeros(grid.shape, np.uint8)
    notes = []
    for item in files:
        found = read_volume(item.path, case)
        values = translated(found.array, item.meaning, case=case, file=item.path)
        marked_ml = np.count_nonzero(values) * found.grid.voxel_volume_mm3 / 1000
        part, moved = labels_to_grid(Volume(values, found.grid), grid, case=case, file=item.path)
        if moved:
            kept_ml = np.count_nonzero(part) * grid.voxel_volume_mm3 / 1000
            notes.append(
                f"{item.path.name} lies on another grid than the reference image and was resampled (nearest "
                f"neighbour): {marked_ml:.2f} ml before, {kept_ml:.2f} ml after"
            )
        both = (label > 0) & (part > 0) & (label != part)
        for value in np.unique(part[both]):
            count = int(np.count_nonzero(both & (part == value)))
            volume = count * grid.voxel_volume_mm3 / 1000
            notes.append(
                f"{count} voxels ({volume:.2f} ml) of {names[int(value)]} in {item.path.name} belong to a structure of "
                "an earlier mask, which keeps them"
            )
        label[label == 0] = part[label == 0]
    return label, notes
