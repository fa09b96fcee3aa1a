"""A method cannot gain from what it must not know, nor lose by how a file happens to be written."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from phantom_files import oblique, write_folder

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.geometry import Reorientation
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.phantom.source import Phantom

Execute = Any  # the fixture of conftest.py: execute(methods, folder, base, **changes) -> (outcome, run)

STRUCTURES = {"GTV-T": 1, "GTV-N": 2}
NAMES = [f"phantom-{i:03d}" for i in range(5)]
LISTS = {"train": NAMES[:2], "validation": NAMES[2:3], "test": NAMES[3:]}
NNUNET = {
    "epochs": 1, "iterations": 2, "validation-iterations": 1, "foreground-voxels": 20_000, "mirroring": False,
}  # fmt: skip
ZERO_SHOT = {"image-size": 128, "backend": "torch", "fusions": ["multimodal"]}


def cases(**options: Any) -> Iterator[SourceCase]:
    chosen = Phantom.Options.model_validate({"patients": 5, "shape": [12, 64, 64], "spacing": [8, 3, 3], **options})
    source = Phantom(chosen, Path(), structures_from(STRUCTURES), 3)
    for entry in source.entries():
        yield source.read(entry)


def dataset(path: str) -> dict[str, Any]:
    images = {name: f"{name}.nii.gz" for name in ("CT", "PET", "T1w", "T2w")}
    return {
        "dataset": {"source": "folders", "path": path, "images": images, "masks": [{"file": "label.nii.gz"}]},
        "split": {"lists": LISTS},
    }


def dsc(run: Any) -> pd.DataFrame:
    table = pd.read_parquet(run.folder / "scores.parquet")
    chosen = table[(table["metric"] == "dsc") & (table["scope"] == "volume")].dropna(subset="value")
    return chosen.set_index(["arm", "case", "structure"])["value"].sort_index().to_frame()


def predictions(run: Any) -> dict[str, str]:
    files = sorted((run.folder / "arms").glob("*/predictions/*.nii.gz"))
    assert files
    return {f"{path.parent.parent.name}/{path.name}": digest_file(path) for path in files}


@pytest.mark.usefixtures("with_plugins")
def test_noise_for_test_references_leaves_unprompted_predictions_byte_identical(
    execute: Execute, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for case in cases():
        write_folder(case, tmp_path / "honest")
        if case.name in LISTS["test"]:
            case = replace(case, label=rng.integers(0, 3, case.label.shape).astype(np.uint8))
        write_folder(case, tmp_path / "noise")
    methods = {"nnunet": NNUNET}
    _, honest = execute(["learned-threshold", "nnunet"], "one", methods=methods, **dataset("honest"))
    _, noise = execute(["learned-threshold", "nnunet"], "two", methods=methods, **dataset("noise"))
    assert predictions(honest) == predictions(noise) and len(predictions(honest)) == 2 * 2
    assert not dsc(honest).equals(dsc(noise))


def test_images_swapped_between_patients_drop_prompted_arms_to_the_box(execute: Execute, tmp_path: Path) -> None:
    everyone = list(cases())
    for case, other in zip(everyone, everyone[-1:] + everyone[:-1], strict=True):
        write_folder(case, tmp_path / "honest")
        write_folder(replace(case, images=other.images), tmp_path / "swapped")
    methods = {"litemedsam-zero-shot": ZERO_SHOT}
    arms, name = ["box-ellipse", "litemedsam-zero-shot"], "litemedsam-zero-shot.multimodal"
    means = {}
    for folder in ("honest", "swapped"):
        for policy in ("random-margin(0, 20)", "tight"):
            changes = {"methods": methods, "prompts": {"policy": policy}}
            _, run = execute(arms, f"{folder}-{policy[:5]}", **changes, **dataset(folder))
            means[folder, policy[:5]] = dsc(run)["value"].groupby("arm").mean()
    for policy in ("rando", "tight"):
        assert means["honest", policy]["box-ellipse"] == means["swapped", policy]["box-ellipse"]
        assert means["swapped", policy][name] < means["honest", policy][name] - 0.05
    # With wide random margins a network that learned how wide they are beats the inscribed ellipse without looking at
    # the image: it draws a smaller one. So the level of the box is where the box is tight.
    assert means["swapped", "tight"][name] <= means["swapped", "tight"]["box-ellipse"]


def test_flipped_copies_of_a_phantom_score_the_same_exactly(execute: Execute, tmp_path: Path) -> None:
    turns = [Reorientation((0, 1, 2), (True, False, True)), Reorientation((2, 0, 1), (False, True, False))]
    for number, case in enumerate(cases()):
        write_folder(case, tmp_path / "straight")
        write_folder(case, tmp_path / "turned", turns[number % 2])
    methods = {"litemedsam-zero-shot": ZERO_SHOT}
    _, straight = execute(["box-ellipse", "litemedsam-zero-shot"], "one", methods=methods, **dataset("straight"))
    _, turned = execute(["box-ellipse", "litemedsam-zero-shot"], "two", methods=methods, **dataset("turned"))
    pd.testing.assert_frame_equal(dsc(straight), dsc(turned), check_exact=True)
    assert predictions(straight) != predictions(turned)  # for they lie on other grids


def test_oblique_copies_of_a_phantom_score_the_same_to_interpolation_error(execute: Execute, tmp_path: Path) -> None:
    # Small margins: the boxes of a resampled reference are other boxes, with other random margins.
    for case in cases(shape=[24, 64, 64], spacing=[4, 3, 3]):
        write_folder(case, tmp_path / "straight")
        write_folder(oblique(case, 10.0, "z"), tmp_path / "oblique")
    changes = {"prompts": {"policy": "fixed-margin(3)"}}
    _, straight = execute(["box-ellipse"], "one", **changes, **dataset("straight"))
    _, turned = execute(["box-ellipse"], "two", **changes, **dataset("oblique"))
    difference = (dsc(straight)["value"] - dsc(turned)["value"]).abs()
    assert difference.mean() < 0.05
