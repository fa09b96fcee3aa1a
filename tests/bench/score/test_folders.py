"""Masks from anywhere: matching, rows for what is missing or unusable, summary, real masks with published values."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from gtvbench.bench.core.errors import DataError, StoreError, StudyError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files import nifti
from gtvbench.bench.score.folders import COLUMNS, FolderScores, match, problem_lines, score_folders, summary_rows

DATA = Path(os.environ.get("GTVBENCH_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
GRID = Grid((8, 16, 16), (3.0, 1.0, 1.0), (10.0, -5.0, 2.0))
STRUCTURES = {"GTVp": 1, "GTVn": 2}
Folders = tuple[Path, Path]


def label(shift: int = 0, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Two blocks of labels 1 and 2 with a rough surface, which gzip cannot make small."""
    array = np.zeros(GRID.shape, np.uint8)
    array[2:5, 2 + shift : 8 + shift, 3:9] = 1
    array[3:6, 10:14, 3:9] = 2
    rough = np.random.default_rng(seed).random(GRID.shape) < 0.2
    array[rough] = 0
    return array


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """References a, b and c, and predictions of the same names."""
    for case in "abc":
        nifti.write_volume(label(), GRID, tmp_path / "references" / f"{case}.nii.gz")
        nifti.write_volume(label(shift=1), GRID, tmp_path / "predictions" / f"{case}.nii.gz")
    return tmp_path / "references", tmp_path / "predictions"


def status(result: FolderScores, case: str) -> set[str]:
    return set(result.scores.loc[result.scores["case"] == case, "status"])


def reason(result: FolderScores, case: str) -> str:
    (found,) = result.scores.loc[result.scores["case"] == case, "reason"].unique()
    return str(found)


# ---- the table and the summary


def test_every_score_is_a_row_beside_a_summary_that_says_how_it_was_made(folders: Folders, tmp_path: Path) -> None:
    result = score_folders(*folders, STRUCTURES, {"GTVn": 3.0}, tmp_path / "out" / "scores.csv")
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == 3 * 2 * 8
    assert set(table["status"]) == {"ok"}
    assert set(table["scope"]) == {"volume"}
    pd.testing.assert_series_equal(table["value"], result.scores["value"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == result.summary
    definition = summary["definition"]
    assert (definition["tool"], definition["percentile"]) == ("surface-distance", 95.0)
    assert definition["tolerance_mm"] == {"GTVp": 2.0, "GTVn": 3.0}
    assert definition["version"] and "diagonal" in definition["empty_policy"]
    assert summary["structures"]["GTVp"]["status"] == {"ok": 3}
    # The fields of nnU-Net's summary.
    per_case = [entry["metrics"]["1"]["Dice"] for entry in summary["metric_per_case"]]
    assert summary["mean"]["1"]["Dice"] == pytest.approx(np.mean(per_case))
    both = [summary["mean"][value]["Dice"] for value in ("1", "2")]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(both))
    assert Path(summary["metric_per_case"][0]["reference_file"]).name == "a.nii.gz"


def test_the_terminal_table_has_a_column_for_each_structure(folders: Folders) -> None:
    (folders[1] / "b.nii.gz").unlink()
    summary = score_folders(*folders, STRUCTURES).summary
    header, rows = summary_rows(summary)
    assert header == ("", "GTVp", "GTVn")
    found = {row[0].strip(): row[1:] for row in rows}
    assert (found["ok"], found["missing_output"]) == (("2", "2"), ("1", "1"))
    assert found["aggregated DSC"][0] == f"{summary['structures']['GTVp']['aggregated_dsc']:.4f}"
    assert problem_lines(summary) == ["b: missing_output, no prediction has this name"]


# ---- what is missing, extra or unusable


def test_missing_and_extra_predictions_are_rows(folders: Folders, tmp_path: Path) -> None:
    (folders[1] / "b.nii.gz").rename(folders[1] / "d.nii.gz")
    result = score_folders(*folders, STRUCTURES, out=tmp_path / "scores.csv")
    assert status(result, "b") == {"missing_output"}
    values = result.scores[(result.scores["case"] == "b") & (result.scores["structure"] == "GTVp")]
    found = dict(zip(values["metric"], values["value"], strict=True))
    assert (found["dsc"], found["nsd"]) == (0.0, 0.0)
    assert found["hd95_mm"] == found["assd_mm"] == pytest.approx(math.sqrt(24**2 + 16**2 + 16**2))
    assert status(result, "d") == {"extra"}
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table.loc[table["case"] == "d", "reason"].tolist() == ["d.nii.gz matches no reference"]
    assert {"case": "d", "status": "extra", "reason": "d.nii.gz matches no reference"} in result.summary["problems"]
    part = result.summary["structures"]["GTVp"]
    assert (part["cases"], part["present"]) == (3, 3)


@pytest.mark.parametrize("kept", [10, 0.99])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_a_truncated_prediction_is_a_row_with_the_reason(folders: Folders, suffix: str, kept: float) -> None:
    path = folders[1] / f"b{suffix}"
    (folders[1] / "b.nii.gz").unlink()
    nifti.write_volume(label(), GRID, path, compress=suffix != ".nrrd")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    result = score_folders(*folders, STRUCTURES)
    assert status(result, "b") == {"crashed"}
    assert "truncated" in reason(result, "b") or "cannot be read" in reason(result, "b")
    assert status(result, "a") == status(result, "c") == {"ok"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (Grid((8, 16, 16), (3.0, 1.0, 1.1), GRID.origin), "spacing differs by up to 0.1"),
        (Grid((8, 16, 16), GRID.spacing, (11.0, -6.0, 2.0)), "origin differs by up to 1"),
        (Grid((8, 16, 16), GRID.spacing, GRID.origin, (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)), "direction differs"),
        (Grid((8, 16, 15), GRID.spacing, GRID.origin), "size 8 x 16 x 15 against 8 x 16 x 16"),
    ],
    ids=["spacing", "origin with opposite signs", "flipped", "size"],
)
def test_a_prediction_on_another_grid_is_a_row_with_what_differs(folders: Folders, changed: Grid, words: str) -> None:
    nifti.write_volume(label()[:, :, : changed.shape[2]], changed, folders[1] / "b.nii.gz")
    result = score_folders(*folders, STRUCTURES)
    assert status(result, "b") == {"geometry_mismatch"}
    assert words in reason(result, "b")


def test_a_reference_that_cannot_be_used_is_an_error_with_case_and_file(folders: Folders) -> None:
    with pytest.raises(DataError, match=r"label values \[2\] belong to no structure") as caught:
        score_folders(*folders, {"GTVp": 1})
    assert (caught.value.case, caught.value.file) == ("a", str(folders[0] / "a.nii.gz"))
    path = folders[0] / "c.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read") as caught:
        score_folders(*folders, STRUCTURES)
    assert (caught.value.case, caught.value.file) == ("c", str(path))


def test_label_maps_are_read_where_they_hold_known_whole_numbers(folders: Folders) -> None:
    nifti.write_volume(label(shift=1).astype(np.float32), GRID, folders[1] / "a.nii.gz")
    nifti.write_volume(label().astype(np.float32) * 0.5, GRID, folders[1] / "b.nii.gz")
    odd = label().astype(np.int16)
    odd[0, 0, 0] = 300
    nifti.write_volume(odd, GRID, folders[1] / "c.nii.gz")
    result = score_folders(*folders, STRUCTURES)
    assert [status(result, case) for case in "abc"] == [{"ok"}, {"crashed"}, {"crashed"}]
    assert reason(result, "b") == "the label values are not whole numbers"
    assert "label values [300] belong to no structure" in reason(result, "c")


# ---- matching


def test_one_affix_is_overlooked_where_it_leaves_no_doubt_and_an_equal_name_goes_first() -> None:
    def paths(*names: str) -> dict[str, Path]:
        return {name: Path(f"{name}.nii.gz") for name in names}

    found = match(["77", "78_gt", "79"], paths("77_pred", "seg-78", "79"))
    assert found == {"77": Path("77_pred.nii.gz"), "78_gt": Path("seg-78.nii.gz"), "79": Path("79.nii.gz")}
    found = match(["77", "77_seg"], paths("77_seg", "77_pred"))
    assert found == {"77_seg": Path("77_seg.nii.gz"), "77": Path("77_pred.nii.gz")}


def test_formats_may_differ_and_what_could_be_one_case_is_no_match(folders: Folders) -> None:
    (folders[1] / "dataset.json").write_text("{}")
    (folders[1] / "._a.nii.gz").write_text("a file manager's")
    (folders[1] / "b.nii.gz").unlink()
    nifti.write_volume(label(), GRID, folders[1] / "b.nrrd")
    assert score_folders(*folders, STRUCTURES).summary["problems"] == []
    (folders[1] / "a.nii.gz").rename(folders[1] / "a_pred.nii.gz")
    nifti.write_volume(label(), GRID, folders[1] / "a_seg.nii.gz")
    result = score_folders(*folders, STRUCTURES)
    assert status(result, "a") == {"missing_output"}
    assert reason(result, "a_pred") == "a_pred.nii.gz matches no reference (nor could it be told from a_seg.nii.gz)"
    nifti.write_volume(label(), GRID, folders[1] / "b.nii.gz")
    with pytest.raises(DataError, match=r"two files are called 'b': b\.nii\.gz and b\.nrrd"):
        score_folders(*folders, STRUCTURES)


def test_arguments_that_make_no_sense_are_errors(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder does not exist"):
        score_folders(folders[0], tmp_path / "nowhere", STRUCTURES)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="the folder of references holds no image"):
        score_folders(tmp_path / "bare", folders[1], STRUCTURES)
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(StudyError, match="the tolerance of 'GTVp' is"):
            score_folders(*folders, STRUCTURES, tolerance)
    with pytest.raises(StudyError, match="unknown structures: GTVx"):
        score_folders(*folders, STRUCTURES, {"GTVx": 1.0})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        score_folders(*folders, STRUCTURES, out=tmp_path / "file" / "scores.csv")


# ---- real masks


@pytest.fixture(scope="module")
def published() -> tuple[FolderScores, dict[str, Any]]:
    folder = DATA / "hntsmrg_masks"
    if not folder.is_dir():
        pytest.skip(f"no real masks in {DATA} (GTVBENCH_TEST_DATA)")
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return score_folders(folder / "reference", folder / "prediction", STRUCTURES), expected


def test_the_published_aggregated_dsc_is_reproduced(published: tuple[FolderScores, dict[str, Any]]) -> None:
    result, expected = published
    found = {name: part["aggregated_dsc"] for name, part in result.summary["structures"].items()}
    assert found == pytest.approx(expected["aggregated_dsc_of_these_cases"], abs=1e-9, rel=0)


def test_the_published_dsc_of_every_pair_with_a_reference_is_reproduced(
    published: tuple[FolderScores, dict[str, Any]],
) -> None:
    result, expected = published
    wide = result.scores.pivot(index=["case", "structure"], columns="metric", values="value")
    compared = 0
    for patient in expected["per_patient"]:
        for number, name in enumerate(STRUCTURES, start=1):
            found = wide.loc[(patient["PatientID"], name)]
            assert found["tp_mm3"] == pytest.approx(patient[f"TP{number}"], abs=1e-6)
            assert found["reference_volume_ml"] == pytest.approx(patient[f"vol_gt{number}"] / 1000, abs=1e-9)
            total = found["reference_volume_ml"] + found["volume_ml"]
            assert total == pytest.approx(patient[f"vol_sum{number}"] / 1000, abs=1e-9)
            if patient[f"vol_gt{number}"] > 0:
                assert found["dsc"] == pytest.approx(patient[f"DSC{number}"], abs=1e-9, rel=0)
                compared += 1
            else:
                assert math.isnan(found["dsc"])
    assert compared == 12
