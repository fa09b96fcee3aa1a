import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gtvbench.bench.core.errors import DigestError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files import nifti

Execute = Any  # the fixture of conftest.py: execute(methods, folder, base, **changes) -> (outcome, run)

BOTH = ["box-fill", "box-ellipse"]


def scores(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "scores.parquet")


def mean_dsc(run: Path, arm: str) -> float:
    table = scores(run)
    chosen = (table["arm"] == arm) & (table["metric"] == "dsc") & (table["scope"] == "volume")
    return float(table.loc[chosen, "value"].mean())


def test_a_run_leaves_every_table_and_scores_every_test_case(execute: Execute) -> None:
    outcome, run = execute(BOTH, page=True)
    assert outcome.exit_code == 0
    table = scores(run.folder)
    assert set(table["arm"]) == set(BOTH)
    assert set(table["case"]) == set(run.cohort.cases("test")) and len(set(table["case"])) == 2
    assert len(table) == 2 * 2 * 2 * 2 * 8  # arms, cases, structures, scopes, metrics
    for name in ("study.yaml", "provenance.json", "arms.json", "failures.json", "split.json", "prompts.parquet"):
        assert (run.folder / name).stat().st_size > 0
    assert outcome.report.read_text().startswith("<!")
    assert 0.2 < mean_dsc(run.folder, "box-fill") < mean_dsc(run.folder, "box-ellipse") < 0.95


def test_a_finished_run_computes_nothing_again(execute: Execute) -> None:
    execute(BOTH, page=True)
    outcome, run = execute(BOTH, page=True)
    assert set(outcome.computed.values()) == {0}
    assert len(scores(run.folder)) == 2 * 2 * 2 * 2 * 8


def test_only_what_a_change_touches_is_computed_again(execute: Execute) -> None:
    execute(BOTH, page=True)
    outcome, _ = execute(BOTH, page=True, scoring={"nsd-tolerance-mm": 3.0})
    assert outcome.computed == {"prepare": 0, "fit": 0, "predict": 0, "score": 4, "pictures": 0, "report": 1}
    outcome, _ = execute(BOTH, page=True, scoring={"nsd-tolerance-mm": 3.0}, prompts={"policy": "tight"})
    assert outcome.computed == {"prepare": 0, "fit": 0, "predict": 4, "score": 4, "pictures": 6, "report": 1}


def test_a_prediction_that_was_tampered_with_is_not_scored(execute: Execute) -> None:
    _, run = execute(["box-fill"])
    case = run.cohort.cases("test")[0]
    path = run.store.prediction("box-fill", case)
    other = run.store.prediction("box-fill", run.cohort.cases("test")[1])
    data = other.read_bytes()
    path.write_bytes(data[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    (run.folder / "steps" / "score" / "box-fill" / f"{case}.json").unlink()
    with pytest.raises(DigestError, match=case):
        execute(["box-fill"])


def test_a_record_of_other_prompts_is_not_scored(execute: Execute) -> None:
    _, run = execute(["box-fill"])
    case = run.cohort.cases("test")[0]
    path = run.folder / "steps" / "predict" / "box-fill" / f"{case}.json"
    record = json.loads(path.read_text())
    record["digests"]["prompts"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(DigestError, match="other data, prompts or weights"):
        execute(["box-fill"])


def test_one_method_under_two_names_scores_identically(execute: Execute) -> None:
    _, run = execute(["a", "b"], methods={"a": {"method": "box-ellipse"}, "b": {"method": "box-ellipse"}})
    table = scores(run.folder).drop(columns="method")
    a, b = (table[table["arm"] == arm].drop(columns="arm").reset_index(drop=True) for arm in ("a", "b"))
    pd.testing.assert_frame_equal(a, b)


def test_predictions_lie_on_the_grid_of_the_reference_file(execute: Execute) -> None:
    _, run = execute(["box-fill"])
    for case in run.cohort.cases("test"):
        volume = nifti.read_volume(run.store.prediction("box-fill", case))
        assert volume.grid.differences(Grid.from_dict(run.prepared[case].meta["original"])) == []


def masks(run: Any, folder: Path, skip: str | None = None) -> None:
    """Write the references as if they were masks made elsewhere."""
    for case in run.cohort.cases("test"):
        if case != skip:
            grid = Grid.from_dict(run.prepared[case].meta["grid"])
            nifti.write_volume(np.load(run.store.reference(case)), grid, folder / f"{case}.nii.gz")


def test_masks_made_elsewhere_take_part(execute: Execute, tmp_path: Path) -> None:
    _, run = execute(["box-fill"])
    masks(run, tmp_path / "masks")
    methods = {"theirs": {"method": "predictions", "folder": "masks"}}
    outcome, run = execute(["box-fill", "theirs"], methods=methods)
    assert outcome.exit_code == 0
    assert mean_dsc(run.folder, "theirs") == 1.0
    again, _ = execute(["box-fill", "theirs"], methods=methods)
    assert set(again.computed.values()) == {0}


def test_a_failed_case_is_a_row_is_tried_again_and_costs_nothing_else(execute: Execute, tmp_path: Path) -> None:
    _, run = execute(["box-fill"])
    missing = run.cohort.cases("test")[0]
    masks(run, tmp_path / "masks", skip=missing)
    methods = {"theirs": {"method": "predictions", "folder": "masks"}}
    outcome, run = execute(["box-fill", "theirs"], methods=methods)
    assert outcome.exit_code == 3
    table = scores(run.folder)
    rows = table[(table["arm"] == "theirs") & (table["case"] == missing) & (table["metric"] == "dsc")]
    assert set(rows["status"]) == {"crashed"} and set(rows["value"].dropna()) == {0.0}
    (failure,) = json.loads((run.folder / "failures.json").read_text())
    assert failure["case"] == missing and "image file not found" in failure["message"]
    masks(run, tmp_path / "masks")
    outcome, run = execute(["box-fill", "theirs"], methods=methods)
    assert outcome.exit_code == 0 and outcome.computed["predict"] == 1
    assert json.loads((run.folder / "failures.json").read_text()) == []


def test_a_mask_on_another_grid_is_a_failed_row_that_says_so(execute: Execute, tmp_path: Path) -> None:
    _, run = execute(["box-fill"])
    masks(run, tmp_path / "masks")
    case = run.cohort.cases("test")[0]
    path = tmp_path / "masks" / f"{case}.nii.gz"
    volume = nifti.read_volume(path)
    shifted = Grid(volume.grid.shape, volume.grid.spacing, (5.0, 5.0, 5.0), volume.grid.direction)
    nifti.write_volume(volume.array, shifted, path)
    outcome, run = execute(["theirs"], methods={"theirs": {"method": "predictions", "folder": "masks"}})
    assert outcome.exit_code == 3
    assert "origin differs" in json.loads((run.folder / "failures.json").read_text())[0]["message"]


def test_images_do_not_lead_to_the_reference(execute: Execute) -> None:
    _, run = execute(["box-fill"])
    for case in run.cohort.cases("test"):
        names = sorted(path.name for path in run.store.case_folder(case).iterdir())
        assert not [name for name in names if "label" in name or "reference" in name or "mask" in name]
        assert "reference" not in json.dumps(json.loads((run.store.case_folder(case) / "case.json").read_text()))


def test_an_unwhole_prediction_is_made_again(execute: Execute) -> None:
    _, run = execute(["box-fill"])
    before = scores(run.folder)
    path = run.store.prediction("box-fill", run.cohort.cases("test")[0])
    path.write_bytes(path.read_bytes()[:100])
    shutil.rmtree(run.folder / "cases" / run.cohort.cases("test")[1])
    outcome, run = execute(["box-fill"])
    assert outcome.computed == {"prepare": 1, "fit": 0, "predict": 1, "score": 0, "pictures": 0, "report": 0}
    pd.testing.assert_frame_equal(scores(run.folder), before)
