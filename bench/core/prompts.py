"""Prompts: one box for each instance (8-connected 2D component of a structure) in each slice.

A box is (y0, x0, y1, x1) in half-open voxel indices of its slice: rows y0 to y1 - 1, columns x0 to x1 - 1. Margins are
drawn in millimetres, once for each (case, slice, structure, instance), from a seed made of those names, and rounded to
whole voxels (half up) outwards from the tight box; the box is clipped to the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.digest import digest_json, generator_from
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.structures import Structure

Box = tuple[int, int, int, int]

#: Kinds of prompt that are drawn.
PROMPT_KINDS = ("box",)

_EIGHT_CONNECTED = np.ones((3, 3), int)


@dataclass(frozen=True)
class Policy:
    """How margins are drawn: each side of the box uniformly within [low_mm, high_mm], independently."""

    name: str
    low_mm: float
    high_mm: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_mm <= self.high_mm or not np.isfinite(self.high_mm):
            raise StudyError(f"prompt margins from {self.low_mm} to {self.high_mm} mm are not a range of lengths")

    def margins_mm(self, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Margins in mm of the sides y0, x0, y1, x1."""
        a, b, c, d = rng.uniform(self.low_mm, self.high_mm, 4)
        return float(a), float(b), float(c), float(d)


def policy_from(text: str) -> Policy:
    """Read a policy: 'random-margin(0, 20)', 'fixed-margin(5)' (mm) or 'tight'."""
    match = re.fullmatch(r"\s*([a-z-]+)\s*(?:\(([^()]*)\))?\s*", text)
    remedy = "use random-margin(LOW, HIGH), fixed-margin(MM) or tight; lengths in mm"
    if match is None:
        raise StudyError(f"prompt policy {text!r} cannot be read", remedy=remedy)
    name, inside = match.group(1), match.group(2)
    try:
        numbers = [float(part) for part in inside.split(",")] if inside and inside.strip() else []
    except ValueError as error:
        raise StudyError(f"prompt policy {text!r} cannot be read", remedy=remedy) from error
    if name == "random-margin" and len(numbers) == 2:
        return Policy(text, numbers[0], numbers[1])
    if name == "fixed-margin" and len(numbers) == 1:
        return Policy(text, numbers[0], numbers[0])
    if name == "tight" and not numbers:
        return Policy(text, 0.0, 0.0)
    raise StudyError(f"prompt policy {text!r} is unknown", remedy=remedy)


@dataclass(frozen=True)
class BoxPrompt:
    """The box given to every prompted method for one instance in one slice."""

    slice: int
    structure: int
    instance: int
    y0: int
    x0: int
    y1: int
    x1: int
    area: int

    @property
    def box(self) -> Box:
        """(y0, x0, y1, x1), half-open voxel indices."""
        return self.y0, self.x0, self.y1, self.x1


@dataclass(frozen=True)
class Prompts:
    """All prompts of one case, ordered by slice, structure and instance."""

    case: str
    boxes: tuple[BoxPrompt, ...]

    @cached_property
    def digest(self) -> str:
        """Identity of these prompts: methods that carry the same digest saw the same boxes."""
        return digest_json([self.case, [asdict(p) for p in self.boxes]])

    @property
    def slices(self) -> tuple[int, ...]:
        """Slices with at least one prompt, ascending."""
        return tuple(sorted({p.slice for p in self.boxes}))

    def in_slice(self, z: int) -> tuple[BoxPrompt, ...]:
        """Prompts of slice z."""
        return tuple(p for p in self.boxes if p.slice == z)

    def slices_of(self, structure: int) -> tuple[int, ...]:
        """Slices in which this structure has a prompt."""
        return tuple(sorted({p.slice for p in self.boxes if p.structure == structure}))

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the prompts table."""
        return [{"case": self.case, **asdict(p)} for p in self.boxes]

    @classmethod
    def from_rows(cls, case: str, rows: Iterable[dict[str, Any]]) -> Prompts:
        """Inverse of `rows`."""
        names = BoxPrompt.__dataclass_fields__
        return cls(case, tuple(BoxPrompt(**{name: int(row[name]) for name in names}) for row in rows))


@dataclass(frozen=True)
class Instance:
    """An 8-connected component of one structure in one slice; `mask` is the slice-sized boolean mask."""

    slice: int
    structure: int
    number: int
    tight: Box
    mask: npt.NDArray[np.bool_]


def instances_in(plane: npt.NDArray[np.integer], z: int, structures: Iterable[Structure]) -> list[Instance]:
    """Instances of a label plane (y, x), numbered from 1 in raster order of their first voxel, for each structure."""
    from scipy import ndimage  # slow to import, and a report or a method that draws no boxes does without

    found = []
    for structure in structures:
        selected = plane == structure.value
        if not selected.any():
            continue
        components, _ = ndimage.label(selected, structure=_EIGHT_CONNECTED)
        for number, where in enumerate(ndimage.find_objects(components), start=1):
            tight = (where[0].start, where[1].start, where[0].stop, where[1].stop)
            found.append(Instance(z, structure.value, number, tight, components == number))
    return found


def grow(tight: Box, margins_mm: Sequence[float], spacing_yx: Sequence[float], shape_yx: Sequence[int]) -> Box:
    """A tight box with a margin in mm on each side (y0, x0, y1, x1), in whole voxels, clipped to the image."""
    steps = [int(np.floor(m / s + 0.5)) for m, s in zip(margins_mm, [*spacing_yx, *spacing_yx], strict=True)]
    return (
        max(0, tight[0] - steps[0]),
        max(0, tight[1] - steps[1]),
        min(int(shape_yx[0]), tight[2] + steps[2]),
        min(int(shape_yx[1]), tight[3] + steps[3]),
    )


def draw_prompts(
    case: str,
    label: npt.NDArray[np.integer],
    spacing: Sequence[float],
    structures: Sequence[Structure],
    policy: Policy,
    seed: int,
    minimum_area_mm2: float = 0.0,
) -> Prompts:
    """Draw the prompts of one case from its reference label map (z, y, x); spacing (z, y, x) in mm.

    Instances below `minimum_area_mm2` get no prompt (default: none is left out); scoring still uses the full reference.
    """
    spacing_yx = (float(spacing[1]), float(spacing[2]))
    boxes = []
    for z in np.flatnonzero(np.any(label, axis=(1, 2))):
        for instance in instances_in(label[z], int(z), structures):
            area = int(np.count_nonzero(instance.mask))
            if area * spacing_yx[0] * spacing_yx[1] < minimum_area_mm2:
                continue
            rng = generator_from(seed, "prompt", case, int(z), instance.structure, instance.number)
            box = grow(instance.tight, policy.margins_mm(rng), spacing_yx, label.shape[1:])
            boxes.append(BoxPrompt(int(z), instance.structure, instance.number, *box, area))
    return Prompts(case, tuple(boxes))
