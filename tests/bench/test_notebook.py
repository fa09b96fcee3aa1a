"""A run folder opened in a notebook: a real run of patients whose files lie in another order of axes than the grid."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from phantom_files import write_folder
from simulated import write_simulated_run

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.geometry import Reorientation
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.notebook import OpenRun, open_run
from gtvbench.bench.run.run import Run
from gtvbench.bench.study.file import Study
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions

STRUCTURES = {"GTV-T": 1, "GTV-N": 2}
ARMS = ["box-fill", "box-ellipse"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    place = tmp_path_factory.mktemp("notebook")
    options = PhantomOptions(patients=2, shape=(12, 40, 48), spacing=(8.0, 4.0, 4.0))
    source = Phantom(options, Path(), structures_from(STRUCTURES), 0)
    for entry in source.entries():
        write_folder(source.read(entry), place / "data", Reorientation((2, 0, 1), (False, True, False)))
    study = Study.model_validate(
        {
            "study": "small",
            "dataset": {
                "source": "files",
                "path": "data",
                "images": {name: f"{name}.nii.gz" for name in ("CT", "PET")},
                "masks": [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
            },
            "structures": STRUCTURES,
            "split": {"counts": {"test": 2}},
            "statistics": {"contrasts": [["box-ellipse", "box-fill"]]},
        }
    )
    assert Run(study, place, place / "run", ARMS, Display("quiet"), False).execute().exit_code == 0
    return open_run(place / "run")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("grid", ["prepared", "original"])
def test_masks_and_references_give_the_scores_of_the_table_on_both_grids(finished: OpenRun, grid: str) -> None:
    table = finished.scores_by_case.query("scope == 'volume'").set_index(["arm", "case", "structure"])["dsc"]
    assert set(finished.scores["case"]) == set(finished.cases) and finished.arms == ARMS
    for (arm, case, structure), dsc in table.items():
        value = STRUCTURES[structure]
        mask, reference = finished.prediction(arm, case, grid), finished.reference(case, grid)
        if (reference == value).any():
            assert dice(mask == value, reference == value) == pytest.approx(dsc)


def test_the_original_grid_is_that_of_the_files(finished: OpenRun) -> None:
    case = finished.cases[0]
    files = finished.folder.parent / "data" / case
    ct = finished.image(case, "CT", "original")
    np.testing.assert_array_equal(ct, read_volume(files / "CT.nii.gz").array)
    np.testing.assert_array_equal(finished.reference(case, "original"), read_volume(files / "label.nii.gz").array)
    images = finished.images(case)
    assert images.modalities == ("CT", "PET") and finished.image(case, "PET").shape == images.grid.shape == (12, 40, 48)
    assert ct.shape == images.original.shape != images.grid.shape


def test_planned_contrasts_come_first_with_their_intervals(finished: OpenRun, tmp_path: Path) -> None:
    (first,) = finished.contrasts.query("planned and structure == 'GTV-T' and metric == 'dsc'").itertuples()
    assert (first.one, first.other) == ("box-ellipse", "box-fill") and first.difference > 0
    many = open_run(write_simulated_run(tmp_path / "many", patients=30)).contrasts
    planned = many[many["planned"]]
    assert many["planned"].iloc[: len(planned)].all() and len(planned) < len(many)
    assert (planned["low"] < planned["difference"]).all() and (planned["difference"] < planned["high"]).all()


def test_timing_and_epochs_are_one_table_each(finished: OpenRun, tmp_path: Path) -> None:
    assert set(finished.timing["arm"]) == set(ARMS) and (finished.timing["seconds"] >= 0).all()
    assert finished.epochs.empty
    epochs = open_run(write_simulated_run(tmp_path / "trained", patients=4)).epochs
    assert list(epochs.columns[:4]) == ["arm", "epoch", "train_loss", "validation_loss"]
    assert set(epochs["arm"]) >= {"nnunet.multimodal", "litemedsam-fine-tuned.ct-only"}


def test_what_is_not_there_is_an_error_with_case_file_and_remedy(finished: OpenRun) -> None:
    case = finished.cases[0]
    for ask in (
        lambda: finished.images("nobody"),
        lambda: finished.image(case, "T1w"),
        lambda: finished.reference("nobody"),
        lambda: finished.prediction("nnunet", case),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        assert caught.value.case and caught.value.file and caught.value.remedy


def test_a_damaged_reference_is_an_error(finished: OpenRun, tmp_path: Path) -> None:
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    case = finished.cases[0]
    (copy / "references" / f"{case}.npy").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="the reference cannot be read"):
        open_run(copy).reference(case)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such run folder"):
        open_run(tmp_path / "none")
    (tmp_path / "run.json").write_text(json.dumps({"study": "s", "schema": 1}))
    with pytest.raises(StoreError, match="a file is missing"):
        open_run(str(tmp_path))
