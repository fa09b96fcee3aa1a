"""Structures: the named label values that a study delineates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import DataError, StudyError


@dataclass(frozen=True)
class Structure:
    """A structure (GTV-T, GTV-N ...) and its value in label maps (1 to 255; 0 is background)."""

    name: str
    value: int

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise StudyError("a structure has no name", remedy="give every structure a name, for example GTV-T")
        if not 1 <= self.value <= 255:
            raise StudyError(
                f"structure {self.name!r} has label value {self.value}",
                remedy="label values are whole numbers from 1 to 255; 0 is the background",
            )


def structures_from(mapping: Mapping[str, int]) -> tuple[Structure, ...]:
    """Structures in ascending order of their values; two of one value are an error."""
    structures = tuple(sorted((Structure(name, value) for name, value in mapping.items()), key=lambda s: s.value))
    if not structures:
        raise StudyError("no structures are named", remedy="name at least one, for example 'GTV-T: 1'")
    for one, other in itertools.pairwise(structures):
        if one.value == other.value:
            raise StudyError(f"structures {one.name!r} and {other.name!r} share label value {one.value}")
    return structures


def check_labels(label: npt.NDArray[np.integer], structures: Iterable[Structure], case: str, file: str) -> None:
    """Raise DataError where a label map holds values that no structure has."""
    known = {0, *(s.value for s in structures)}
    unknown = sorted({int(v) for v in np.unique(label)} - known)
    if unknown:
        raise DataError(
            f"label values {unknown} belong to no structure of the study (known: {sorted(known)})",
            case=case,
            file=file,
            remedy="name them under 'structures', map them away with the source's 'labels' option, or fix the mask",
        )
