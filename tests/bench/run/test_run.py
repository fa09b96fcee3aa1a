import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gtvbench.bench.core.errors import DataError, DigestError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files import nifti
from gtvbench.bench.run import run as running
from gtvbench.bench.run.case_steps import make_ready
from gtvbench.bench.run.dry_run import plan_jobs

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)
Run = Any  # `finished` of conftest.py: a finished run of both reference arms, that `execute` goes on with

BOTH = ["box-fill", "box-ellipse"]


def scores(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "scores.parquet")


def mean_dsc(run: Path, arm: str) -> float:
    table = scores(run)
    chosen = (table["arm"] == arm) & (table["metric"] == "dsc") & (table["scope"] == "volume")
    return float(table.loc[chosen, "value"].mean())


def test_a_run_leaves_every_table_and_scores_every_test_case(finished: Run) -> None:
    table = scores(finished.folder)
    assert set(table["arm"]) == set(BOTH)
    assert set(table["case"]) == set(finished.cohort.cases("test")) and len(set(table["case"])) == 2
    assert len(table) == 2 * 2 * 2 * 2 * 8  # arms, cases, structures, scopes, metrics
    for name in ("study.yaml", "provenance.json", "arms.json", "failures.json", "split.json", "prompts.parquet"):
        assert (finished.folder / name).stat().st_size > 0
    assert 0.2 < mean_dsc(finished.folder, "box-fill") < mean_dsc(finished.folder, "box-ellipse") < 0.95
    for case in finished.cohort.cases("test"):  # what a method may read does not lead to the reference
        names = [path.name for path in finished.store.case_folder(case).iterdir()]
        assert not [name for name in names if "label" in name or "reference" in name or "mask" in name]
        assert "reference" not in (finished.store.case_folder(case) / "case.json").read_text()


def test_only_what_a_change_touches_is_computed_again(finished: Run, execute: Execute) -> None:
    nothing = {"prepare": 0, "fit": 0, "predict": 0, "score": 0, "pictures": 0, "report": 0}
    outcome, _ = execute(BOTH, page=True)
    assert outcome.exit_code == 0 and outcome.computed == nothing | {"report": 1}
    assert outcome.report.read_text().startswith("<!")
    outcome, run = execute(BOTH, page=True)
    assert outcome.computed == nothing and len(scores(run.folder)) == 2 * 2 * 2 * 2 * 8
    outcome, _ = execute(BOTH, page=True, scoring={"nsd-tolerance-mm": 3.0})
    assert outcome.computed == nothing | {"score": 4, "report": 1}
    outcome, _ = execute(BOTH, scoring={"nsd-tolerance-mm": 3.0}, prompts={"policy": "tight"})
    assert outcome.computed == nothing | {"predict": 4, "score": 4, "pictures": 6}


def test_a_prediction_that_was_tampered_with_is_not_scored(finished: Run, execute: Execute) -> None:
    case, other = finished.cohort.cases("test")
    path = finished.store.prediction("box-fill", case)
    data = finished.store.prediction("box-fill", other).read_bytes()
    path.write_bytes(data[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    (finished.folder / "steps" / "score" / "box-fill" / f"{case}.json").unlink()
    with pytest.raises(DigestError, match=case):
        execute(["box-fill"])


def test_predictions_are_scored_side_by_side_and_a_scorer_that_dies_is_told(
    finished: Run, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished.folder / "scores.parquet").read_bytes()
    two = {"preparation": {"workers": 2}}
    for folder in (finished.folder / "steps" / "score", finished.folder / "steps" / "contours"):
        shutil.rmtree(folder)
    outcome, _ = execute(BOTH, **two)
    assert outcome.computed["score"] == 4 and outcome.computed["pictures"] == 4
    assert (finished.folder / "scores.parquet").read_bytes() == before

    shutil.rmtree(finished.folder / "steps" / "score")
    killer = "import os, sys\nif 'gtvbench.bench.processes.worker' in sys.orig_argv:\n"
    killer += (
        "    sys.addaudithook(lambda event, args: event == 'os.rename' and '/scores/' in str(args[1]) and os.abort())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(killer)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(DataError, match=r"could not be scored: box-fill, .*SIGABRT, twice"):
            execute(BOTH, **two)
    outcome, _ = execute(BOTH, **two)
    assert outcome.computed["score"] == 4 and (finished.folder / "scores.parquet").read_bytes() == before


def test_a_training_on_other_images_than_were_planned_is_refused(
    execute: Execute, with_plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwritten(*arguments: Any, **options: Any) -> Any:
        ready, pictures = make_ready(*arguments, **options)
        meta = ready.store.case_folder(ready.cohort.cases("train")[0]) / "case.json"  # as by a job of a lost run
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"digest": "0" * 64}))
        return ready, pictures

    monkeypatch.setattr(running, "make_ready", overwritten)
    outcome, _ = execute(["learned-threshold"])
    assert outcome.exit_code == 3
    assert [(f["step"], f["message"].split("\n")[0]) for f in outcome.failures] == [
        ("fit", "the prepared images are not those that the run planned with")
    ]


def test_a_record_of_other_prompts_is_not_scored(finished: Run, execute: Execute) -> None:
    path = finished.folder / "steps" / "predict" / "box-fill" / f"{finished.cohort.cases('test')[0]}.json"
    record = json.loads(path.read_text())
    record["digests"]["prompts"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(DigestError, match="other data, prompts or weights"):
        execute(["box-fill"])


def test_what_is_missing_or_not_whole_is_made_again(finished: Run, execute: Execute) -> None:
    before = scores(finished.folder)
    first, second = finished.cohort.cases("test")
    path = finished.store.prediction("box-fill", first)
    path.write_bytes(path.read_bytes()[:100])
    finished.store.contours("box-ellipse", first).unlink()
    shutil.rmtree(finished.store.case_folder(second))
    outcome, run = execute(BOTH)
    assert outcome.computed == {"prepare": 1, "fit": 0, "predict": 1, "score": 0, "pictures": 1, "report": 0}
    pd.testing.assert_frame_equal(scores(run.folder), before)


def test_masks_made_elsewhere_take_part_and_failed_ones_are_tried_again(
    finished: Run, execute: Execute, tmp_path: Path
) -> None:
    missing, shifted = finished.cohort.cases("test")
    methods = {"theirs": {"method": "predictions", "folder": "masks"}}

    def write(case: str, origin: tuple[float, float, float] | None = None) -> None:
        grid = Grid.from_dict(finished.prepared[case].meta["grid"])
        grid = Grid(grid.shape, grid.spacing, origin or grid.origin, grid.direction)
        nifti.write_volume(np.load(finished.store.reference(case)), grid, tmp_path / "masks" / f"{case}.nii.gz")

    write(shifted, (5.0, 5.0, 5.0))
    outcome, run = execute(["box-fill", "theirs"], methods=methods)
    assert outcome.exit_code == 3
    table = scores(run.folder)
    rows = table[(table["arm"] == "theirs") & (table["metric"] == "dsc")]
    assert set(rows["status"]) == {"crashed"} and set(rows["value"].dropna()) == {0.0}
    failures = {row["case"]: row["message"] for row in json.loads((run.folder / "failures.json").read_text())}
    assert failures.keys() == {missing, shifted}
    assert "image file not found" in failures[missing] and "origin differs" in failures[shifted]
    lost = json.loads(run.store.contours("theirs", missing).read_text())
    assert lost["status"] == "crashed" and lost["structures"] == {}

    write(missing)
    write(shifted)
    outcome, run = execute(["box-fill", "theirs"], methods=methods)
    assert outcome.exit_code == 0
    assert outcome.computed == {"prepare": 0, "fit": 0, "predict": 2, "score": 2, "pictures": 2, "report": 0}
    assert json.loads((run.folder / "failures.json").read_text()) == []
    assert mean_dsc(run.folder, "theirs") == 1.0
    found = json.loads(run.store.contours("theirs", missing).read_text())
    assert found["status"] is None and set(found["structures"]["GTV-T"]["dsc"]) <= {None, 1.0}
    again, _ = execute(["box-fill", "theirs"], methods=methods)
    assert set(again.computed.values()) == {0}


@pytest.mark.usefixtures("with_plugins")
def test_a_dry_run_tells_what_is_missing_and_takes_the_time_from_former_runs(execute: Execute, tmp_path: Path) -> None:
    methods = {"learned-threshold": {"epochs": 4, "seconds": 0.1}}
    study = execute(["box-fill"], folder="first", methods=methods)[1].study
    names = ["learned-threshold", "box-fill"]
    told = plan_jobs(study, tmp_path, tmp_path / "run", names)
    assert [(job.name, job.after, job.what) for job in told] == [
        ("prepare", "", "4 of 4 patients"),
        ("fit learned-threshold.ct-only", "prepare", "train, 4 epochs"),
        ("predict learned-threshold.ct-only", "fit learned-threshold.ct-only", "2 cases"),
        ("predict box-fill", "prepare", "2 cases"),
    ]
    assert not (tmp_path / "run").exists()
    assert [job.seconds is not None for job in told] == [False, False, False, True] and told[3].by.startswith("first, ")
    execute(names, methods=methods)
    assert {job.what for job in plan_jobs(study, tmp_path, tmp_path / "run", names)} == {"done"}
    other = plan_jobs(study.model_copy(update={"seed": 5}), tmp_path, tmp_path / "other", names)
    fit, predict = other[1:3]
    assert fit.seconds and fit.seconds >= 0.4 and fit.by.startswith("run, ")
    assert predict.seconds and predict.seconds >= 0.2
