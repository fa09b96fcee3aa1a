"""A method cannot gain from what it must not know, nor lose by how a file happens to be written."""

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
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.run.plan import Ready
from gtvbench.datasets.phantom.source import Phantom

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

STRUCTURES = {"GTV-T": 1, "GTV-N": 2}
NNUNET = {"epochs": 1, "iterations": 2, "validation-iterations": 1, "foreground-voxels": 20_000, "mirroring": False}
ZERO_SHOT = "litemedsam-zero-shot"
PROMPTED = ["box-ellipse", ZERO_SHOT]
TIGHT = {
    "methods": {ZERO_SHOT: {"image-size": 128, "backend": "torch", "fusions": ["multimodal"]}},
    "prompts": {"policy": "tight"},
}


def cases(patients: int, **options: Any) -> list[SourceCase]:
    options = {"patients": patients, "shape": [12, 64, 64], "spacing": [8, 3, 3], **options}
    source = Phantom(Phantom.Options.model_validate(options), Path(), structures_from(STRUCTURES), 3)
    return [source.read(entry) for entry in source.entries()]


def dataset(path: str, **split: list[str]) -> dict[str, Any]:
    """The cases in a folder; all are test cases unless `split` says otherwise."""
    images = {name: f"{name}.nii.gz" for name in ("CT", "PET", "T1w", "T2w")}
    return {
        "dataset": {"source": "folders", "path": path, "images": images, "masks": [{"file": "label.nii.gz"}]},
        "split": {"lists": split or {"test": ["phantom-000", "phantom-001"]}},
    }


def dsc(run: Ready) -> pd.DataFrame:
    table = pd.read_parquet(run.folder / "scores.parquet")
    chosen = table[(table["metric"] == "dsc") & (table["scope"] == "volume")].dropna(subset="value")
    return chosen.set_index(["arm", "case", "structure"])["value"].sort_index().to_frame()


def predictions(run: Ready) -> dict[str, str]:
    files = sorted((run.folder / "arms").glob("*/predictions/*.nii.gz"))
    assert files
    return {f"{path.parent.parent.name}/{path.name}": digest_file(path) for path in files}


@pytest.mark.usefixtures("with_plugins")
def test_noise_for_test_references_leaves_unprompted_predictions_as_they_are(execute: Execute, tmp_path: Path) -> None:
    everyone = cases(4)
    split = {"train": [case.name for case in everyone[:2]], "validation": [everyone[2].name]}
    split["test"] = [everyone[3].name]
    for case in everyone:
        write_folder(case, tmp_path / "honest")
        if case.name in split["test"]:
            label = np.random.default_rng(0).integers(0, 3, case.label.shape).astype(np.uint8)
            case = replace(case, label=label)
        write_folder(case, tmp_path / "noise")
    methods = {"nnunet": NNUNET, "learned-threshold": {"seconds": 0.0}}
    _, honest = execute(["learned-threshold", "nnunet"], "one", methods=methods, **dataset("honest", **split))
    _, noise = execute(["learned-threshold", "nnunet"], "two", methods=methods, **dataset("noise", **split))
    assert predictions(honest) == predictions(noise) and len(predictions(honest)) == 2
    assert not dsc(honest).equals(dsc(noise))


@pytest.fixture(scope="module")
def honest(execute_in: Execute, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Two patients, prompted with tight boxes."""
    base = tmp_path_factory.mktemp("honest")
    for case in cases(2):
        write_folder(case, base / "data")
    outcome, run = execute_in(base, PROMPTED, **TIGHT, **dataset("data"))
    assert outcome.exit_code == 0
    return run


def test_images_swapped_between_patients_drop_scores_to_the_box(
    honest: Ready, execute: Execute, tmp_path: Path
) -> None:
    one, other = cases(2)
    write_folder(replace(one, images=other.images), tmp_path / "data")
    write_folder(replace(other, images=one.images), tmp_path / "data")
    _, swapped = execute(PROMPTED, **TIGHT, **dataset("data"))
    before, after = (dsc(run)["value"].groupby("arm").mean() for run in (honest, swapped))
    name = f"{ZERO_SHOT}.multimodal"
    assert before["box-ellipse"] == after["box-ellipse"]
    assert after[name] < before[name] - 0.05
    # With wide random margins a network that learned how wide they are beats the inscribed ellipse without looking at
    # the image: it draws a smaller one. So the level of the box is where the box is tight.
    assert after[name] <= after["box-ellipse"]


def test_turned_copies_score_exactly_the_same_and_are_answered_on_their_grid(
    honest: Ready, execute: Execute, tmp_path: Path
) -> None:
    turns = [Reorientation((0, 1, 2), (True, False, True)), Reorientation((2, 0, 1), (False, True, False))]
    for case, turn in zip(cases(2), turns, strict=True):
        write_folder(case, tmp_path / "straight")
        write_folder(case, tmp_path / "turned", turn)
    _, turned = execute(PROMPTED, "tight", **TIGHT, **dataset("turned"))
    pd.testing.assert_frame_equal(dsc(honest), dsc(turned), check_exact=True)
    for case, turn in zip(cases(2), turns, strict=True):
        file = read_volume(turned.store.prediction(f"{ZERO_SHOT}.multimodal", case.name))
        straight = read_volume(honest.store.prediction(f"{ZERO_SHOT}.multimodal", case.name))
        np.testing.assert_array_equal(file.array, turn.apply(straight.array))
        assert file.grid.differences(read_volume(tmp_path / "turned" / case.name / "label.nii.gz").grid) == []
    # Random margins are drawn for the patient, however the file lies.
    runs = [execute(["box-ellipse"], f"random {name}", **dataset(name))[1] for name in ("straight", "turned")]
    pd.testing.assert_frame_equal(dsc(runs[0]), dsc(runs[1]), check_exact=True)


def test_oblique_copies_of_a_phantom_score_the_same_to_interpolation_error(execute: Execute, tmp_path: Path) -> None:
    # Small margins: the boxes of a resampled reference are other boxes, with other random margins.
    for case in cases(2, shape=[24, 64, 64], spacing=[4, 3, 3]):
        write_folder(case, tmp_path / "straight")
        write_folder(oblique(case, 10.0, "z"), tmp_path / "oblique")
    changes = {"prompts": {"policy": "fixed-margin(3)"}}
    _, straight = execute(["box-ellipse"], "one", **changes, **dataset("straight"))
    _, turned = execute(["box-ellipse"], "two", **changes, **dataset("oblique"))
    difference = (dsc(straight)["value"] - dsc(turned)["value"]).abs()
    assert difference.mean() < 0.05
