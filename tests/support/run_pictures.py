"""Pictures and contours for a synthetic run folder, made by the bench's own functions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import draw_prompts, policy_from
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.store import Store, write_atomically
from gtvbench.bench.run import picture_steps

GRID = Grid((24, 64, 64), (4.0, 3.0, 2.5), (-80.0, -96.0, -48.0))
UNUSABLE = ("missing_output", "crashed", "timeout", "geometry_mismatch")
MODALITIES = ("CT", "PET", "T1w", "T2w")


def add_pictures(folder: Path, writer: Any) -> Path:
    """Write pictures/ and arms/*/contours/ for a run that a RunWriter has written; no volume stays behind."""
    store = Store(folder)
    structures = structures_from(writer.structures)
    rng = np.random.default_rng(3)
    for case in writer.cases:
        reference = _label(case, writer, shift=0)
        prompts = draw_prompts(case, reference, GRID.spacing, structures, policy_from("fixed-margin(6)"), 1)
        crop = picture_steps.crop_around(reference, prompts, structures, GRID)
        images = _images(store.case_folder(case), case, reference, rng)
        record = picture_steps.case_record(GRID, crop, reference, prompts, structures, images.modalities)
        write_atomically(store.pictures(case), picture_steps.pack(record, crop, images))
        for number, arm in enumerate(writer.arms):
            status = _status(writer, arm["arm"], case)
            prediction = None if status in UNUSABLE else _label(case, writer, shift=1 + number % 3)
            drawn = picture_steps.contour_record(
                prediction, reference, crop, structures, status if prediction is None else None
            )
            write_atomically(store.contours(arm["arm"], case), json.dumps(drawn))
    shutil.rmtree(folder / "cases")
    return folder


def _status(writer: Any, arm: str, case: str) -> str:
    rows = writer.scores[(writer.scores["arm"] == arm) & (writer.scores["case"] == case)]
    return str(rows["status"].iloc[0])


def _label(case: str, writer: Any, shift: int) -> npt.NDArray[np.uint8]:
    """Balls, one a structure that the case has, moved by `shift` voxels."""
    z, y, x = np.indices(GRID.shape)
    label = np.zeros(GRID.shape, np.uint8)
    for structure, value in writer.structures.items():
        if (case, structure) not in writer.absent:
            centre = (11 + shift, 30 - 3 * shift, 16 + 14 * value)
            distance = ((z - centre[0]) / 4) ** 2 + ((y - centre[1]) / 6) ** 2 + ((x - centre[2]) / 5) ** 2
            label[distance <= 1] = value
    return label


def _images(folder: Path, case: str, reference: npt.NDArray[np.uint8], rng: np.random.Generator) -> Images:
    folder.mkdir(parents=True)
    for number, modality in enumerate(MODALITIES):
        volume = rng.integers(40, 90, GRID.shape) + 30 * number + 60 * (reference > 0)
        np.save(folder / f"{modality}.uint8.npy", volume.astype(np.uint8))
    (folder / "case.json").write_text(json.dumps({"modalities": MODALITIES, "grid": GRID.as_dict()}))
    return Images(case, folder)
