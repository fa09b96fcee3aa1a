"""A study through a real SLURM: the scores of this machine, and a walltime that ends in the middle of a training."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from slurm import available, slurm

pytestmark = pytest.mark.skipif(available() is not None, reason=f"no SLURM here: {available()}")

STUDY: dict[str, Any] = {
    "study": "small",
    "seed": 11,
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "dataset": {"source": "phantom", "patients": 5, "shape": [12, 64, 64], "spacing": [8.0, 4.0, 4.0]},
    "split": {"counts": {"train": 2, "validation": 1, "test": 2}},
    "device": "cpu",
    "methods": {
        "litemedsam-fine-tuned": {"epochs": 1, "train": "decoder"},
        "nnunet": {"epochs": 2, "iterations": 4, "validation-iterations": 2, "configuration": "2d"},
        "nnunet-box": {"epochs": 2, "iterations": 4, "validation-iterations": 2, "configuration": "2d"},
    },
}
JOBS = {
    "kind": "dask",
    "cluster": "slurm",
    "queue": "cpu",
    "jobs": 1,
    "cores": 2,
    "memory": "8GB",
    "walltime": "1:00:00",
}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch reaches a SLURM of this machine."""
    with slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield os.environ | {"SLURM_CONF": str(conf), "PYTHON": sys.executable}


def bench(folder: Path, environment: dict[str, str], study: dict[str, Any], out: str, methods: str = "all") -> Any:
    (folder / f"{out}.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", "run", f"{out}.yaml"]
    command += ["--methods", methods, "--out", out, "--log", "plain", "--no-report"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )


def jobs(environment: dict[str, str]) -> list[str]:
    """Lines of what has ended: `sacct -c` reads the same file."""
    return (Path(environment["SLURM_CONF"]).parent / "jobs.txt").read_text().splitlines()


def test_six_arms_through_slurm_have_the_scores_of_this_machine(tmp_path: Path, scheduler: dict[str, str]) -> None:
    here = bench(tmp_path, scheduler, STUDY, "here")
    assert here.returncode == 0, here.stderr
    there = bench(tmp_path, scheduler, STUDY | {"engine": JOBS}, "there")
    assert there.returncode == 0, there.stderr
    one, two = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("here", "there"))
    pd.testing.assert_frame_equal(one, two)
    assert one["arm"].nunique() == 8
    assert jobs(scheduler)


def test_a_walltime_that_ends_is_a_resume(tmp_path: Path, scheduler: dict[str, str], plugins: Path) -> None:
    methods = {"learned-threshold": {"epochs": 50, "seconds": 1.0}}
    study = STUDY | {"methods": methods, "engine": JOBS | {"walltime": "00:01:00", "queue": "gpu", "gpus-per-job": 1}}
    environment = scheduler | {"PYTHONPATH": os.pathsep.join([str(plugins), scheduler.get("PYTHONPATH", "")])}
    before = len(jobs(scheduler))
    done = bench(tmp_path, environment, study, "walltime", "learned-threshold")
    assert done.returncode == 0, done.stderr
    assert len(jobs(scheduler)) - before >= 2, "one job was enough: no walltime ended"
    epochs = pd.read_csv(tmp_path / "walltime" / "arms" / "learned-threshold.ct-only" / "fit" / "epochs.csv")
    assert epochs["epoch"].tolist() == list(range(50))
    assert epochs["seconds"].sum() < 70, "it began anew"
