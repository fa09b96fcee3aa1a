"""Lesions and inputs at the edge of what there is, through the whole run: nothing crashes, nothing is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import to_image, write_volume

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

Label = npt.NDArray[np.uint8]
SHAPE = (6, 40, 48)
GRID = Grid(SHAPE, (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
IMAGES = ("CT", "PET", "T1w", "T2w")
DATASET = {
    "source": "folders",
    "path": "data",
    "images": {m: f"{m}.nii.gz" for m in IMAGES},
    "masks": [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
}
ZERO_SHOT = {"image-size": 32, "backend": "torch", "fusions": ["multimodal"]}


def sphere() -> Label:
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 10:18, 12:20] = 1
    return label


def write_cohort(folder: Path, labels: dict[str, Label]) -> None:
    rng = np.random.default_rng(0)
    for name, label in labels.items():
        for modality in IMAGES:
            volume = rng.normal(0, 10, SHAPE) + 60 * (label > 0)
            write_volume(volume.astype(np.float32), GRID, folder / "data" / name / f"{modality}.nii.gz")
        write_volume(label, GRID, folder / "data" / name / "label.nii.gz")


def corner() -> Label:
    """T in the first corner of the volume, N in the last."""
    label = np.zeros(SHAPE, np.uint8)
    label[:2, :9, :7] = 1
    label[-2:, -8:, -9:] = 2
    return label


def touching() -> Label:
    """T and N share a face, and N is two instances in one slice."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 10:18, 12:20] = 1
    label[2:4, 10:18, 20:28] = 2
    label[2, 30:34, 30:36] = 2
    return label


def single_slice() -> Label:
    label = np.zeros(SHAPE, np.uint8)
    label[3, 5:17, 20:30] = 1
    label[0, 25:31, 5:13] = 2
    return label


def one_pixel() -> Label:
    label = np.zeros(SHAPE, np.uint8)
    label[2, 20, 20] = 1
    label[5, 39, 47] = 2
    return label


EDGES = {make.__name__: make for make in (corner, touching, single_slice, one_pixel)}


def test_lesions_at_the_edge_are_prompted_and_scored(execute: Execute, random_weights: Path, tmp_path: Path) -> None:
    labels = {name: make() for name, make in EDGES.items()}
    write_cohort(tmp_path, labels)
    methods = {"litemedsam-zero-shot": {"weights": str(random_weights), **ZERO_SHOT}}
    changes = {"dataset": DATASET, "split": {"lists": {"test": list(EDGES)}}, "methods": methods}
    outcome, run = execute(["box-fill", "litemedsam-zero-shot"], prompts={"policy": "tight"}, **changes)
    assert outcome.exit_code == 0
    table = pd.read_parquet(run.folder / "scores.parquet")
    assert set(table["status"]) <= {"ok", "pred_empty"} and np.isfinite(table["value"]).all()
    whole = table[(table["metric"] == "dsc") & (table["scope"] == "volume") & (table["arm"] == "box-fill")]
    # Every lesion here is a rectangle in its slice, so that the tight box is the lesion: prompts, predictions and
    # scores must agree to the voxel.
    assert len(whole) == 4 * 2 and set(whole["value"]) == {1.0}
    for case, label in labels.items():
        assert {(r["structure"], r["slice"]) for r in run.prompts[case].rows()} == {
            (int(value), int(z)) for value in (1, 2) for z in np.flatnonzero((label == value).any(axis=(1, 2)))
        }, case


def test_every_bad_case_is_named_before_any_arm_starts(execute: Execute, tmp_path: Path) -> None:
    write_cohort(tmp_path, dict.fromkeys("abc", sphere()))
    data = tmp_path / "data"
    broken = np.zeros(SHAPE, np.float32)
    broken[1, 2, 3] = np.nan
    sitk.WriteImage(to_image(broken, GRID), str(data / "a" / "PET.nii.gz"))  # write_volume refuses NaN
    whole = (data / "b" / "T1w.nii.gz").read_bytes()
    (data / "b" / "T1w.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_volume(np.zeros(SHAPE, np.uint8), GRID, data / "c" / "label.nii.gz")
    split = {"lists": {"train": ["a"], "validation": ["b"], "test": ["c"]}}
    with pytest.raises(DataError, match="3 of 3 cases cannot be used") as caught:
        execute(["box-fill"], dataset=DATASET, split=split)
    for word in ("PET.nii.gz", "NaN", "T1w.nii.gz", "the reference label map is empty"):
        assert word in str(caught.value)
    assert not list(tmp_path.glob("run/arms/*"))


def test_notes_that_cases_share_are_told_once() -> None:
    assert gathered_notes({"a": ["odd", "cropped"], "b": ["cropped"], "c": []}) == [
        "a: odd",
        "cropped (in 2 of 3 cases)",
    ]
