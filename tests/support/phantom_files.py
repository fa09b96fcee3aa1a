"""Phantom patients as files: copies with other axes or an oblique direction, to try readers and methods on.

A copy holds the same patient at the same place, so a method must give the same answer for a flipped one and, but for
interpolation, for an oblique one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.fusion import BACKGROUND, MODALITIES
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.nifti import write_volume
from gtvbench.datasets.assembly.resample import canonicalised, image_to_grid, labels_to_grid

LABEL_FILE = "label.nii.gz"


def all_reorientations() -> list[Reorientation]:
    """The 48 ways to order and flip three axes."""
    orders = itertools.permutations(range(3))
    return [
        Reorientation((a, b, c), (f, g, h))
        for (a, b, c), (f, g, h) in itertools.product(orders, itertools.product((False, True), repeat=3))
    ]


def write_folder(case: SourceCase, folder: Path, turn: Reorientation | None = None) -> Path:
    """Write a case as `folder`/CASE/CT.nii.gz ... and label.nii.gz (the layout of `folders`); returns that folder.

    With `turn` the files hold the same voxels at the same places in another order of axes.
    """
    own = turn or Reorientation((0, 1, 2), (False, False, False))
    grid = own.apply_to_grid(case.grid)
    place = folder / case.name
    for modality, volume in case.images.items():
        write_volume(np.ascontiguousarray(own.apply(volume)), grid, place / f"{modality}.nii.gz")
    write_volume(np.ascontiguousarray(own.apply(case.label)), grid, place / LABEL_FILE)
    return place


def write_nnunet(
    cases: Iterable[SourceCase], folder: Path, structures: Sequence[Structure], test: Iterable[SourceCase] = ()
) -> Path:
    """Write cases as an nnU-Net raw dataset (imagesTr, labelsTr; `test` as imagesTs, labelsTs) and its dataset.json."""
    modalities: tuple[str, ...] = ()
    count = 0
    for part, members in (("Tr", cases), ("Ts", test)):
        for case in members:
            modalities = tuple(m for m in MODALITIES if m in case.images)
            count += part == "Tr"
            for number, modality in enumerate(modalities):
                path = folder / f"images{part}" / f"{case.name}_{number:04d}.nii.gz"
                write_volume(case.images[modality], case.grid, path)
            write_volume(case.label, case.grid, folder / f"labels{part}" / f"{case.name}.nii.gz")
    record = {
        "channel_names": {str(n): m for n, m in enumerate(modalities)},
        "labels": {"background": 0, **{s.name: s.value for s in structures}},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(record, indent=1) + "\n")
    return folder


def oblique(case: SourceCase, degrees: float, axis: str = "z") -> SourceCase:
    """A copy resampled onto a grid turned about the patient's `axis` (x, y or z), of equal spacing and centre.

    The turned grid holds the whole original one; new corners hold background. Below 45 degrees the copy is in canonical
    orientation, and stays oblique when it is read.
    """
    if not abs(degrees) < 45:
        raise StudyError(f"a copy can be turned by less than 45 degrees, not {degrees:g}")
    grid = _turned(case.grid, degrees, axis)
    images = {}
    for modality, volume in case.images.items():
        images[modality], _ = image_to_grid(
            Volume(volume, case.grid), grid, BACKGROUND[modality], case=case.name, file=Path(modality)
        )
    label, _ = labels_to_grid(Volume(case.label, case.grid), grid, case=case.name, file=Path("label"))
    _, turn = canonicalised(Volume(label, grid))
    return replace(case, grid=grid, images=images, label=label, original=grid, reorientation=turn)


def _turned(grid: Grid, degrees: float, axis: str) -> Grid:
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turn = np.eye(3)
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
    turn[i, i] = turn[j, j] = cosine
    turn[i, j], turn[j, i] = -sine, sine
    direction = turn @ grid.matrix
    centre = grid.world([(n - 1) / 2 for n in grid.shape])
    reach = np.abs((grid.corners() - centre) @ direction).max(0)[::-1]
    z, y, x = (int(np.ceil(2 * r / s - 1e-6)) for r, s in zip(reach, grid.spacing, strict=True))
    placed = Grid((z, y, x), grid.spacing, (0.0, 0.0, 0.0), tuple(float(v) for v in direction.ravel()))
    ox, oy, oz = (float(v) for v in centre - placed.world([(n - 1) / 2 for n in placed.shape]))
    return replace(placed, origin=(ox, oy, oz))
