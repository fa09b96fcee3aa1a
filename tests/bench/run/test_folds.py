"""Cross-validation: every patient is tested once, by what was trained without them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.split import split_by_folds
from gtvbench.bench.export.nnunet import export_nnunet
from gtvbench.bench.run.dry_run import plan_jobs

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

ARMS = ["box-fill", "learned-threshold"]
QUICK = {"methods": {"learned-threshold": {"epochs": 2, "seconds": 0}}}
FOLDS = {"split": {"folds": 3}, **QUICK}


def test_folds_test_everybody_once_and_train_on_nobody_that_they_test() -> None:
    split = split_by_folds([f"p{n}" for n in range(11)], 4, seed=3)
    assert sorted(p for fold in split.folds for p in fold.test) == sorted(split.test)
    assert sorted(len(fold.test) for fold in split.folds) == [2, 3, 3, 3]
    for fold in split.folds:
        assert sorted(fold.train + fold.validation + fold.test) == sorted(split.test)
    assert split == split_by_folds([f"p{n}" for n in reversed(range(11))], 4, seed=3)
    assert split.digest != split_by_folds(split.test, 4, seed=4).digest
    with pytest.raises(StudyError, match="too few for 12 folds"):
        split_by_folds(split.test, 12, seed=3)


def test_a_cross_validation_is_its_folds_pooled(execute: Execute, with_plugins: Path, tmp_path: Path) -> None:
    planned = execute(["box-fill"], "first", **FOLDS)[1]
    jobs = plan_jobs(planned.study, tmp_path, tmp_path / "none", ARMS)
    assert [job.name for job in jobs if job.name.startswith("fit")] == [
        f"fit learned-threshold.ct-only/fold{n}" for n in (1, 2, 3)
    ]

    outcome, ready = execute(ARMS, page=True, **FOLDS)
    assert outcome.exit_code == 0 and outcome.computed["fit"] == 3 and outcome.computed["predict"] == 8
    scores = pd.read_parquet(ready.folder / "scores.parquet").set_index(["arm", "case", "structure", "scope", "metric"])
    assert len(scores) == 2 * 4 * 2 * 2 * 8 and scores.index.is_unique
    for number, fold in enumerate(ready.cohort.split.folds, start=1):
        single, _ = execute(["learned-threshold"], f"single{number}", split={"lists": fold.as_dict()}, **QUICK)
        assert single.exit_code == 0
        alone = pd.read_parquet(tmp_path / f"single{number}" / "scores.parquet").set_index(list(scores.index.names))
        pooled = scores.loc[alone.index]
        assert set(pooled["fold"]) == {number} and set(alone["fold"]) == {0}
        pd.testing.assert_frame_equal(pooled.drop(columns="fold"), alone.drop(columns="fold"))

    page = outcome.report.read_text()
    assert (
        "4, each tested once in a cross-validation with 3 folds" in page
        and "Patients of a fold share a network" in page
    )
    record = next(r for r in json.loads((ready.folder / "arms.json").read_text()) if r["trains"])
    assert record["folds"] == 3 and record["best_epoch"] is None

    data = export_nnunet(ready.folder, tmp_path / "raw")
    splits = json.loads((data / "splits_final.json").read_text())
    assert [(tuple(s["train"]), tuple(s["val"])) for s in splits] == [
        (fold.train, fold.validation) for fold in ready.cohort.split.folds
    ]
    assert len(list((data / "labelsTr").iterdir())) == 4 and not (data / "imagesTs").exists()


def test_what_a_fold_lost_is_done_again_and_nothing_else(execute: Execute, with_plugins: Path) -> None:
    _, ready = execute(ARMS, **FOLDS)
    before = (ready.folder / "scores.parquet").read_bytes()
    (ready.folder / "steps" / "fit" / "learned-threshold.ct-only" / "fold2.json").unlink()
    lost = ready.cohort.split.folds[1].test
    ready.store.prediction("learned-threshold.ct-only", lost[0]).unlink()
    outcome, _ = execute(ARMS, **FOLDS)
    assert outcome.computed["fit"] == 1 and outcome.computed["predict"] == 1 and outcome.exit_code == 0
    assert (ready.folder / "scores.parquet").read_bytes() == before
