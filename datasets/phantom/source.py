"""The built-in synthetic cohort: a procedural neck with tumours, and look-alikes that only their site tells apart.

Images are painted shape by shape with partial volume, then blurred, biased and made noisy as each modality is: CT noise
of 12 HU, PET of 6 mm full width at half maximum with noise growing with the square root of uptake, Rician MR with a
bias field. A patient depends on the cohort's seed and its own name, never on the others or on the study's seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator
from scipy import ndimage

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.digest import generator_from
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import MODALITIES, MR
from gtvbench.bench.core.geometry import Grid, canonical
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.base import CaseEntry, SourceOptions
from gtvbench.datasets.phantom.anatomy import AIR, Anatomy, draw_anatomy
from gtvbench.datasets.phantom.lesions import Lesion, draw_lesions
from gtvbench.datasets.phantom.shapes import Point, Shape, Space, Waves, coverage

TARGETS = ("GTV-T", "GTV-N")
PET_FWHM_MM = 6.0
CT_NOISE_HU = 12.0
_FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
_SLAB_VOXELS = 3_000_000  # painted at once: bounds memory on large grids
_SMALLEST_EXTENT_MM = 60.0

Modality = Literal["CT", "PET", "T1w", "T2w"]
Volumes = dict[str, npt.NDArray[np.float32]]


class PhantomOptions(SourceOptions):
    """Source `phantom`: made-up head-and-neck patients."""

    patients: int = Field(16, ge=1, le=100_000)
    """Number of patients."""
    shape: tuple[int, int, int] = (24, 64, 64)
    """Size of the grid in voxels: z, y, x."""
    spacing: tuple[float, float, float] = (4.0, 3.0, 3.0)
    """Size of a voxel in mm: z, y, x."""
    modalities: tuple[Modality, ...] = MODALITIES  # type: ignore[assignment]
    """Modalities that are made. CT cannot be left out."""
    noise: float = Field(1.0, ge=0, le=10)
    """Factor on the noise of all images."""
    seed: int = 0
    """Another number makes other patients."""

    @field_validator("shape")
    @classmethod
    def _has_voxels(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(shape) < 1:
            raise ValueError("every side has at least one voxel")
        return shape

    @field_validator("spacing")
    @classmethod
    def _is_length(cls, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 < s < 100 for s in spacing):
            raise ValueError("spacing is in mm, between 0 and 100")
        return spacing

    @field_validator("modalities")
    @classmethod
    def _has_ct(cls, modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if "CT" not in modalities:
            raise ValueError("CT carries the reference grid and cannot be left out")
        return tuple(m for m in ("CT", "PET", "T1w", "T2w") if m in modalities)


@dataclass(frozen=True)
class Patient:
    """What a phantom patient is made of, before it is rendered."""

    name: str
    space: Space
    anatomy: Anatomy
    lesions: tuple[Lesion, ...]


class Phantom:
    """A procedural head-and-neck cohort: CT, PET, T1w and T2w with one GTV-T and none to three GTV-N a patient."""

    Options: ClassVar[type[SourceOptions]] = PhantomOptions
    description: ClassVar[str] = "synthetic head-and-neck patients (CT, PET, T1w, T2w), made up on the fly"
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = True

    def __init__(self, options: PhantomOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        self._options = options
        self._values = {s.name: s.value for s in structures}
        unknown = sorted(set(self._values) - set(TARGETS))
        if unknown or not self._values:
            raise StudyError(
                f"the phantom has no structure {', '.join(unknown)}",
                remedy=f"a study of the phantom names {' or '.join(TARGETS)} (or both) under 'structures'",
            )
        extent = [n * s for n, s in zip(options.shape[1:], options.spacing[1:], strict=True)]
        if min(extent) < _SMALLEST_EXTENT_MM:
            raise StudyError(
                f"the phantom's slices are {extent[0]:g} x {extent[1]:g} mm, too small to hold a neck's middle",
                remedy=f"let shape times spacing be at least {_SMALLEST_EXTENT_MM:g} mm in y and x",
            )

    def entries(self) -> list[CaseEntry]:
        """All patients, phantom-000 and on."""
        identity = self._options.model_dump(mode="json", exclude={"patients"})
        width = max(3, len(str(self._options.patients - 1)))
        names = [f"phantom-{number:0{width}d}" for number in range(self._options.patients)]
        return [CaseEntry(name, name, identity) for name in names]

    def modalities(self) -> tuple[str, ...]:
        """The modalities chosen."""
        return self._options.modalities

    def patient(self, name: str) -> Patient:
        """Anatomy and lesions of a patient, for inspection and tests."""
        options = self._options
        rng = generator_from(options.seed, "phantom", name)
        space = _stand(rng, options.shape, options.spacing)
        half = [n * s / 2 for n, s in zip(options.shape, options.spacing, strict=True)]

        def inside(centre: Point, margin: float) -> bool:
            world = space.to_world(centre)
            return all(abs(w) <= max(h - margin, 0.1 * h) for w, h in zip(world, half, strict=True))

        return Patient(name, space, draw_anatomy(rng), draw_lesions(rng, inside))

    def read(self, entry: CaseEntry) -> SourceCase:
        """Render one patient; about 0.2 s on the default grid."""
        options = self._options
        patient = self.patient(entry.name)
        images, label = _render(patient, options.modalities, self._values)
        if not label.any():
            raise DataError(
                "the phantom's grid is too coarse or too small to show its tumour",
                case=entry.name,
                remedy="choose a smaller spacing or a larger shape",
            )
        for modality in options.modalities:
            names = (options.seed, "phantom", entry.name, modality)
            images[modality] = _acquire(images[modality], modality, patient.space, options.noise, names)
        origin = [-(n - 1) / 2 * s for n, s in zip(options.shape, options.spacing, strict=True)]
        grid = Grid(options.shape, options.spacing, (origin[2], origin[1], origin[0]))
        return SourceCase(
            entry.name, entry.patient, grid, images, label, grid, canonical(grid), dict.fromkeys(images, 1.0)
        )

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Nothing: the cohort is made as it should be."""
        return []


def _stand(rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Space:
    """How a patient lies in the scanner: scaled by up to 8 %, tilted by a few degrees, shifted by up to 9 mm."""
    scale = rng.uniform(0.94, 1.08) * np.exp(rng.normal(0, 0.02, 3))
    matrix = np.eye(3)
    for angle, (i, j) in zip(np.deg2rad(rng.normal(0, 2.5, 3).clip(-6, 6)), ((0, 1), (0, 2), (1, 2)), strict=True):
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return Space(shape, spacing, matrix / scale[:, None], rng.uniform(-9, 9, 3))


def _render(
    patient: Patient, modalities: Sequence[str], values: Mapping[str, int]
) -> tuple[Volumes, npt.NDArray[np.uint8]]:
    """Noise-free volumes and the label map; slab by slab, and equal however large the slabs are."""
    shape = patient.space.shape
    images = {m: np.full(shape, AIR.values()[m], np.float32) for m in modalities}
    label = np.zeros(shape, np.uint8)
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    textures = _textures(patient.name)
    for first in range(0, shape[0], step):
        count = min(step, shape[0] - first)
        space = Space(shape, patient.space.spacing, patient.space.matrix, patient.space.shift, first, count)
        slab = {m: image[first : first + count] for m, image in images.items()}
        _paint_slab(patient, space, slab, label[first : first + count], values, textures)
    return images, _largest_parts(label, values)


def _paint_slab(
    patient: Patient,
    space: Space,
    slab: Volumes,
    label: npt.NDArray[np.uint8],
    values: Mapping[str, int],
    textures: tuple[Waves, Waves],
) -> None:
    for shape, tissue in patient.anatomy.soft:
        _paint(slab, space, shape, tissue.values())
    _mottle(slab, space, textures)
    for lesion in reversed(patient.lesions):  # GTV-T last: where two meet, it lies on top
        _paint_lesion(slab, space, lesion)
    air, *bones = patient.anatomy.hard
    _paint(slab, space, _airway_left(patient), air[1].values())
    for shape, tissue in bones:
        _paint(slab, space, shape, tissue.values())
    for lesion in reversed(patient.lesions):
        if lesion.kind in values:
            _mark(label, space, lesion.shape, values[lesion.kind])
    _mark(label, space, patient.anatomy.bone, 0)


def _mark(label: npt.NDArray[np.uint8], space: Space, shape: Shape, value: int) -> None:
    """A voxel belongs to the shape that fills at least half of it."""
    found = coverage(shape, space)
    if found is not None:
        label[found[0]][found[1] >= 0.5] = value


def _airway_left(patient: Patient) -> Shape:
    """The airway that the tumour leaves open."""
    airway, tumours = patient.anatomy.airway, [s.shape for s in patient.lesions]
    field = airway.field
    return Shape(
        lambda z, y, x: np.maximum.reduce([field(z, y, x), *(-t.field(z, y, x) for t in tumours)]),
        airway.low,
        airway.high,
    )


def _paint(slab: Volumes, space: Space, shape: Shape, values: Mapping[str, float]) -> None:
    found = coverage(shape, space)
    if found is None:
        return
    box, share = found
    for modality, volume in slab.items():
        part = volume[box]
        part += share * (np.float32(values[modality]) - part)


def _paint_lesion(slab: Volumes, space: Space, lesion: Lesion) -> None:
    found = coverage(lesion.shape, space)
    if found is None:
        return
    box, share = found
    starts, stops = [s.start for s in box], [s.stop for s in box]
    uneven = lesion.texture(*space.coordinates(starts, stops))
    for modality, value in lesion.tissue.values().items():
        if modality in slab:
            part = slab[modality][box]
            inside = value + 5 * uneven if modality == "CT" else value * (1 + 0.12 * uneven)
            part += share * (inside - part)
    if lesion.core is not None:
        _paint(slab, space, lesion.core[0], lesion.core[1].values())


def _mottle(slab: Volumes, space: Space, textures: tuple[Waves, Waves]) -> None:
    """Uneven soft tissue: fine texture in CT and MR, coarse in PET."""
    fine, coarse = (t(*space.coordinates([0, 0, 0], space.slab_shape)) for t in textures)
    for modality, volume in slab.items():
        if modality == "CT":
            volume += np.float32(6.0) * fine * (volume > -500)
        else:
            volume *= 1 + np.float32(0.15 if modality == "PET" else 0.06) * (coarse if modality == "PET" else fine)


def _textures(name: str) -> tuple[Waves, Waves]:
    rng = generator_from("phantom-texture", name)
    return Waves.draw(rng, 8.0, 22.0), Waves.draw(rng, 25.0, 60.0)


def _largest_parts(label: npt.NDArray[np.uint8], values: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """Drop crumbs: of GTV-T only the largest connected part stays."""
    primary = values.get("GTV-T")
    if primary is None:
        return label
    parts, count = ndimage.label(label == primary, structure=np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        label[(parts > 0) & (parts != sizes.argmax())] = 0
    return label


def _acquire(
    volume: npt.NDArray[np.float32], modality: str, space: Space, noise: float, names: tuple[object, ...]
) -> npt.NDArray[np.float32]:
    """Blur, bias and noise of a scanner; `names` seed each slice's noise, so it does not depend on its neighbours."""
    sigma_pet = [PET_FWHM_MM * _FWHM_TO_SIGMA / s for s in space.spacing]
    if modality == "PET":
        ndimage.gaussian_filter(volume, sigma_pet, output=volume, mode="nearest")
    grain = np.stack(
        [generator_from(*names, z).standard_normal(space.shape[1:], np.float32) for z in range(space.shape[0])]
    )
    if modality == "CT":
        volume += np.float32(CT_NOISE_HU * noise) * _smoothed(grain, [0.0, 0.6, 0.6])
        np.maximum(volume, -1024, out=volume)
    elif modality == "PET":
        amount = np.float32(0.16 * noise) * np.sqrt(np.maximum(volume, 0) + np.float32(0.05))
        volume += amount * _smoothed(grain, [0.7 * s for s in sigma_pet])
        np.maximum(volume, 0, out=volume)
    elif modality in MR:
        _as_mr(volume, space, noise, names, grain)
    return volume


def _smoothed(grain: npt.NDArray[np.float32], sigma: Sequence[float]) -> npt.NDArray[np.float32]:
    """Correlated noise of unit standard deviation."""
    out = ndimage.gaussian_filter(grain, sigma, mode="wrap")
    smooth: npt.NDArray[np.float32] = out / np.float32(max(float(out.std()), 1e-6))
    return smooth


def _as_mr(
    volume: npt.NDArray[np.float32],
    space: Space,
    noise: float,
    names: tuple[object, ...],
    grain: npt.NDArray[np.float32],
) -> None:
    """Coil bias of +- 15 % and Rician noise, in place."""
    rng = generator_from(*names, "bias")
    gain, bias = rng.uniform(0.7, 1.4), Waves.draw(rng, 220.0, 420.0, 4)
    for z in range(space.shape[0]):
        axes = space.world_axes([z, 0, 0], [z + 1, *space.shape[1:]])
        field = bias(axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])[0]
        other = generator_from(*names, z, "imaginary").standard_normal(space.shape[1:], np.float32)
        signal = volume[z] * np.exp(np.float32(0.15) * field)
        level = np.float32(14.0 * noise)
        volume[z] = np.float32(gain) * np.hypot(signal + level * grain[z], level * other)
