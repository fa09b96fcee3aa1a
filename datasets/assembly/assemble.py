"""Make a case of files: reference image and masks, the other modalities brought to its grid, an optional re-crop."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from gtvbench.bench.core.cases import RegistrationRecord, SourceCase
from gtvbench.bench.core.digest import generator_from
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import BACKGROUND, MODALITIES
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.pictures.checkerboards import kept_before
from gtvbench.datasets.assembly.masks import MaskFile, merged_label
from gtvbench.datasets.assembly.resample import canonicalised, image_to_grid
from gtvbench.datasets.base import SourceOptions
from gtvbench.datasets.registration.register import RegistrationOptions, register

#: Shares of the grid covered that round to the whole.
FULL_COVERAGE = 0.9999

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class CropOptions(SourceOptions):
    """A new, random crop for images that were cropped around the tumour. Each of the six faces is drawn by itself. Use
    it only on such data."""

    margin_mm: tuple[float, float] = (5.0, 50.0)
    """Least and greatest distance of a face from the bounding box of the whole reference. A face never lies outside the
    image."""
    seed: int = Field(0, ge=0)
    """Of the distances; each case and face has its own."""

    @field_validator("margin_mm")
    @classmethod
    def _is_range(cls, margin: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= margin[0] <= margin[1]:
            raise ValueError("'margin-mm' is [LOW, HIGH] with 0 <= LOW <= HIGH")
        return margin


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: `images` by modality, `reference` naming the one that carries the grid, and masks."""

    name: str
    patient: str
    images: Mapping[str, Path]
    reference: str
    masks: Sequence[MaskFile]


def assemble(
    files: CaseFiles,
    structures: Sequence[Structure],
    crop: CropOptions | None = None,
    registration: RegistrationOptions | None = None,
) -> SourceCase:
    """Read a case onto the grid of its reference modality, in canonical orientation.

    Raises DataError, naming case and file, for unreadable files, NaN, unknown label values, and grids that have nothing
    in common.
    """
    parts = CaseParts(
        files.name,
        files.patient,
        files.reference,
        {m: Part(path, partial(read_volume, path, files.name)) for m, path in files.images.items()},
        lambda grid: merged_label(files.masks, grid, structures, files.name),
    )
    return put_together(parts, crop, registration)


@dataclass(frozen=True)
class Part:
    """One modality of a case: the `file` (or folder) that errors name, how to `read` its volume, and the UID of its
    frame of reference where it is known (DICOM); two images of one frame are registered by definition."""

    file: Path
    read: Callable[[], Volume]
    frame_of_reference: str = ""


@dataclass(frozen=True)
class CaseParts:
    """One case before anything is read: `parts` by modality, the name of the one that carries the grid, and `label`,
    which makes the label map (uint8 z, y, x) on a canonical grid, with notes on what it had to decide."""

    name: str
    patient: str
    reference: str
    parts: Mapping[str, Part]
    label: Callable[[Grid], tuple[npt.NDArray[np.uint8], list[str]]]


def put_together(
    case: CaseParts, crop: CropOptions | None = None, registration: RegistrationOptions | None = None
) -> SourceCase:
    """Bring the parts of a case to the grid of its reference modality, in canonical orientation.

    `registration`: modalities that are registered to the reference first (before any crop), except those that share
    its frame of reference. One modality is held at a time beside the reference. Raises DataError as `assemble` does.
    """
    volume = case.parts[case.reference].read()
    original = volume.grid
    turned, turn = canonicalised(volume)
    grid, array = turned.grid, turned.array
    label, notes = case.label(grid)
    notes = list(notes)
    if crop is not None and label.any():
        bounds = crop_bounds(label, grid.spacing, crop, case.name)
        cut = tuple(slice(a, b) for a, b in bounds)
        label, array = np.ascontiguousarray(label[cut]), array[cut]
        original = cropped(original, _in_original(bounds, grid, turn))
        notes.append(
            f"re-cropped off-centre: each face {crop.margin_mm[0]:g} to {crop.margin_mm[1]:g} mm beyond the reference, "
            f"seed {crop.seed}"
        )
        grid = turn.apply_to_grid(original)
    whole = turned
    records: dict[str, RegistrationRecord] = {}
    images: dict[str, npt.NDArray[np.float32]] = {}
    coverage: dict[str, float] = {}
    for modality in (m for m in MODALITIES if m in case.parts):
        if modality == case.reference:
            images[modality], coverage[modality] = np.ascontiguousarray(array, np.float32), 1.0
            continue
        part = case.parts[modality]
        moving, transform = part.read(), None
        if registration is not None and modality in registration.modalities:
            transform, records[modality], told = _registered(case, modality, whole, moving, registration)
            notes += told
            if transform is not None:
                lay = _as_it_lay(moving, grid, modality, label, case.name, part.file)
                records[modality] = replace(records[modality], before=lay)
        elif _other_frame(case, modality):
            notes.append(
                f"{modality} is in another frame of reference than {case.reference}: another session, as a rule. It "
                f"lies as its headers say; 'registration: {{modalities: [{modality}]}}' would register it"
            )
        images[modality], share = image_to_grid(
            moving, grid, BACKGROUND[modality], case=case.name, file=part.file, transform=transform
        )
        coverage[modality] = 1.0 if share > FULL_COVERAGE else share
    return SourceCase(
        case.name, case.patient, grid, images, label, original, turn, coverage=coverage, notes=tuple(notes),
        registrations=records,
    )  # fmt: skip


def _other_frame(case: CaseParts, modality: str) -> bool:
    """Whether both frames of reference are known, and differ."""
    own, reference = (case.parts[name].frame_of_reference for name in (modality, case.reference))
    return bool(own and reference and own != reference)


def _registered(
    case: CaseParts, modality: str, fixed: Volume, moving: Volume, options: RegistrationOptions
) -> tuple[Any, RegistrationRecord, list[str]]:
    """The transform of a modality (None where it is not registered), what to record, and notes."""
    part = case.parts[modality]
    frame = case.parts[case.reference].frame_of_reference
    if frame and part.frame_of_reference == frame and not options.force:
        return None, RegistrationRecord({"status": "shared frame of reference"}), []
    found = register(
        fixed, moving, options, fixed_is_ct=case.reference == "CT", moving_is_ct=modality == "CT", case=case.name,
        file=part.file,
    )  # fmt: skip
    notes = [f"{modality}: {note}" for note in found.notes]
    facts = {"reference": case.reference, "by": options.by, **found.facts()}
    if not found.stages:
        return None, RegistrationRecord({"status": "kept as the headers say", **facts}), notes
    return found.transform, RegistrationRecord({"status": "registered", **facts}, found.as_file()), notes


def _as_it_lay(
    moving: Volume, grid: Grid, modality: str, label: npt.NDArray[np.uint8], case: str, file: Path
) -> dict[str, npt.NDArray[Any]]:
    """What a picture needs of an image before registration, through the middle of the reference label, or the grid."""
    voxels = np.argwhere(label)
    middle = voxels.mean(axis=0) if len(voxels) else np.asarray(grid.shape) / 2
    try:
        before = image_to_grid(moving, grid, BACKGROUND[modality], case=case, file=file)[0]
    except DataError:  # by its headers it lay elsewhere: nothing of it is in the picture
        before = None
    return kept_before(before, modality, [int(v) for v in middle], grid)


def crop_bounds(label: npt.NDArray[np.uint8], spacing: Sequence[float], crop: CropOptions, case: str) -> Bounds:
    """First and last-plus-one voxel along each axis of the re-crop of a case."""
    found = []
    for axis in range(3):
        rest = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(label.any(axis=rest))
        ends = []
        for face in ("low", "high"):
            rng = generator_from(crop.seed, "crop", case, axis, face)
            ends.append(int(np.floor(rng.uniform(*crop.margin_mm) / spacing[axis] + 0.5)))
        found.append((max(0, int(filled[0]) - ends[0]), min(label.shape[axis], int(filled[-1]) + 1 + ends[1])))
    return found[0], found[1], found[2]


def cropped(grid: Grid, bounds: Bounds) -> Grid:
    """The part of a grid between voxel bounds, at its place."""
    x, y, z = (float(v) for v in grid.world([low for low, _ in bounds]))
    (a, b), (c, d), (e, f) = bounds
    return Grid((b - a, d - c, f - e), grid.spacing, (x, y, z), grid.direction)


def patient_of(case: str, pattern: str | None) -> str:
    """The patient of a case: its name, or the first group of the `patient-regex` in it."""
    if pattern is None:
        return case
    match = re.search(pattern, case)
    if match is None or not match.groups() or not match.group(1):
        raise DataError(
            f"the case's name does not match 'patient-regex' ({pattern})",
            case=case,
            remedy="its first group must find the patient in every case's name, for example '^([^_]+)'",
        )
    return match.group(1)


def check_regex(pattern: str | None) -> str | None:
    """Validate a `patient-regex` option."""
    if pattern is None:
        return None
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"'patient-regex' is not a regular expression ({error})") from error
    if groups < 1:
        raise ValueError("'patient-regex' needs a group, for example '^([^_]+)'")
    return pattern


def check_modalities(names: Sequence[str]) -> None:
    """Raise StudyError for names that are no modality."""
    for name in names:
        if name not in MODALITIES:
            raise StudyError(f"unknown modality {name!r}", remedy=f"use one of {', '.join(MODALITIES)}")


def stamp(path: Path, base: Path) -> tuple[str, list[int]]:
    """What identifies an input file: its path below `base`, and [size, modification time in ns]."""
    state = path.stat()
    name = path.relative_to(base) if path.is_relative_to(base) else path
    return name.as_posix(), [state.st_size, state.st_mtime_ns]


def _in_original(bounds: Bounds, grid: Grid, turn: Reorientation) -> Bounds:
    """Bounds along the canonical axes as bounds along the file's own."""
    own: list[tuple[int, int]] = [(0, 0)] * 3
    for axis, (source, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        low, high = bounds[axis]
        own[source] = (grid.shape[axis] - high, grid.shape[axis] - low) if flip else (low, high)
    return own[0], own[1], own[2]
