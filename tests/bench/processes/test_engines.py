"""Engines: the same scores from each, and what a lost worker or coordinator costs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml
from distributed import LocalCluster

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.processes import dask_engine
from gtvbench.bench.processes.dask_engine import _written, seconds_of
from gtvbench.bench.run import case_steps
from gtvbench.bench.study.file import EngineOptions

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

ARM = "learned-threshold.ct-only"
METHODS = {"learned-threshold": {"epochs": 6, "seconds": 0.3}, "again": {"method": "learned-threshold", "seconds": 0.0}}


@pytest.fixture
def cluster(with_plugins: Path) -> Iterator[LocalCluster]:
    """Two Dask workers of one thread each, in processes of their own."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as found:  # type: ignore[no-untyped-call]
        yield found


def engine(cluster: LocalCluster) -> dict[str, Any]:
    return {"kind": "dask", "address": cluster.scheduler_address}


def test_a_cluster_gives_the_scores_of_this_machine(
    execute: Execute, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*METHODS, "box-fill"]
    here, _ = execute(names, folder="here", methods=METHODS)
    with monkeypatch.context() as patch:
        patch.setattr(case_steps, "SMALL_BYTES", 0)  # or so few patients would be read here
        there, run = execute(names, folder="there", methods=METHODS, engine=engine(cluster))
    assert (here.exit_code, there.exit_code) == (0, 0)
    assert here.computed == there.computed and there.computed["prepare"] == 4
    one, two = (pd.read_parquet(run.folder.parent / name / "scores.parquet") for name in ("here", "there"))
    pd.testing.assert_frame_equal(one, two)
    arms = {arm["arm"]: arm for arm in json.loads((run.folder / "arms.json").read_text())}
    assert arms[ARM]["fit_peak_host_bytes"] > 1e6 and arms[ARM]["status"] == "complete"
    assert "address" not in (run.folder / "study.yaml").read_text()
    again, _ = execute(names, folder="there", methods=METHODS, engine=engine(cluster))
    assert not any(again.computed.values())


def test_failures_come_back_from_a_cluster_as_from_here(execute: Execute, cluster: LocalCluster) -> None:
    outcome, run = execute(["broken"], methods={"broken": {"how": "crash"}}, engine=engine(cluster))
    assert outcome.exit_code == 3
    assert [failure["case"] for failure in outcome.failures] == run.cohort.cases("test")
    assert all("SIGABRT" in failure["message"] for failure in outcome.failures)


def test_a_lost_worker_costs_what_came_after_the_last_checkpoint(
    tmp_path: Path, execute: Execute, cluster: LocalCluster
) -> None:
    epochs, at_death = tmp_path / "run" / "arms" / ARM / "fit.work" / "epochs.csv", list[str]()

    def kill_once() -> None:
        while not (epochs.exists() and epochs.read_text().count("\n") >= 3):
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if any("gtvbench.bench.processes.worker" in part for part in process.cmdline()):
                    at_death.append(epochs.read_text())
                    os.kill(process.ppid(), signal.SIGKILL)  # the Dask worker; its child dies with it
                    return

    thread = threading.Thread(target=kill_once)
    thread.start()
    outcome, run = execute(["learned-threshold"], methods=METHODS, engine=engine(cluster))
    thread.join()
    assert outcome.exit_code == 0 and outcome.computed["fit"] == 1
    whole = (run.store.arm_folder(ARM) / "fit" / "epochs.csv").read_text()
    known = at_death[0].splitlines(keepends=True)[:-1]  # the last epoch may have had no checkpoint yet
    assert whole.count("\n") == 7 and whole.startswith("".join(known)), "it began anew"


def test_a_coordinator_that_is_killed_leaves_no_two_writers(tmp_path: Path, cluster: LocalCluster) -> None:
    study = {
        "study": "small", "seed": 11, "structures": {"GTV-T": 1, "GTV-N": 2}, "engine": engine(cluster),
        "dataset": {"source": "phantom", "patients": 4, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
        "split": {"counts": {"train": 1, "validation": 1, "test": 2}}, "methods": METHODS,
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", "run", "study.yaml"]
    command += ["--methods", "learned-threshold", "--out", "run", "--log", "quiet", "--no-report"]
    epochs = tmp_path / "run" / "arms" / ARM / "fit.work" / "epochs.csv"
    with (tmp_path / "log.txt").open("wb") as log:
        first = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        while not epochs.exists() and first.poll() is None:
            time.sleep(0.02)
        first.kill()
        first.wait()
        second = subprocess.run(command, cwd=tmp_path, stdout=log, stderr=log, timeout=120, check=False)
    assert second.returncode == 0, (tmp_path / "log.txt").read_text()
    table = pd.read_csv(tmp_path / "run" / "arms" / ARM / "fit" / "epochs.csv")
    assert table["epoch"].tolist() == list(range(6))


def test_two_gpus_take_an_arm_each(execute: Execute, with_plugins: Path) -> None:
    methods = {name: {"method": "sleeper"} for name in ("a", "b", "c")}
    outcome, run = execute([*methods], methods=methods, engine={"gpus": [3, 5]}, page=True)
    assert outcome.exit_code == 0
    texts = {name: (run.store.arm_folder(f"{name}.ct-only") / "log.txt").read_text() for name in methods}
    assert {text.split()[-1] for text in texts.values()} == {"3", "5"}
    assert "Arms could run side by side" in outcome.report.read_text()
    assert [arm["arm"] for arm in json.loads((run.folder / "arms.json").read_text())] == [
        f"{n}.ct-only" for n in methods
    ]


def test_gpus_are_dealt_out_in_groups_that_train_together(execute: Execute, with_plugins: Path) -> None:
    methods = {name: {"method": "sleeper"} for name in ("a", "b", "c")}
    for gpus, expected in (([3, 5, 6, 7], {"3,5", "6,7"}), ([4, 2], {"4,2"})):
        engine = {"gpus": gpus, "gpus-per-fit": 2}
        outcome, run = execute([*methods], folder=f"on{len(gpus)}", methods=methods, engine=engine)
        assert outcome.exit_code == 0
        assert {(run.store.arm_folder(f"{n}.ct-only") / "log.txt").read_text().split()[-1] for n in "abc"} == expected


def test_two_processes_train_one_arm_and_one_that_is_killed_ends_both(execute: Execute, random_weights: Path) -> None:
    options = {"weights": str(random_weights), "image-size": 32, "backend": "torch", "train": "decoder", "epochs": 2}
    arm = "litemedsam-fine-tuned"
    study: dict[str, Any] = {
        "methods": {arm: options | {"fusions": ["ct-only"]}}, "engine": {"gpus-per-fit": 2}, "device": "cpu",
    }  # fmt: skip

    def killed(which: str) -> str:
        """What is said of a run in which the second rank, or the first with all that the arm does, was killed."""
        ranks = list[psutil.Process]()

        def kill() -> None:
            deadline = time.monotonic() + 60
            while not ranks and time.monotonic() < deadline:
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        if "spawn_main" in " ".join(process.cmdline()) and process.cpu_times().user > 1:
                            ranks.append(process)
                            (process if which == "second" else process.parent()).kill()  # type: ignore[union-attr]
                time.sleep(0.1)

        thread = threading.Thread(target=kill)
        thread.start()
        outcome, _ = execute([arm], **study)
        thread.join()
        assert outcome.exit_code == 3
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                assert rank.status() == psutil.STATUS_ZOMBIE, "it outlived the others"
        return str(outcome.failures[0]["message"])

    assert "rank 1 of 2 of the fit was killed by signal 9" in killed("second")
    assert "the arm's process was killed by SIGKILL" in killed("first")
    outcome, run = execute([arm], **study)
    assert outcome.exit_code == 0
    folder = run.store.arm_folder(f"{arm}.ct-only")
    epochs = pd.read_csv(folder / "fit" / "epochs.csv")
    assert epochs["epoch"].tolist() == [0, 1] and set(epochs["device"].str[:4]) == {"2 x "}
    record = json.loads((run.folder / "steps" / "fit" / f"{arm}.ct-only.json").read_text())
    assert record["origin"]["device_name"].startswith("2 x "), record
    assert not json.loads((folder / "load.json").read_text())["origin"]["device_name"].startswith("2 x ")
    again, _ = execute([arm], **(study | {"engine": {}}))
    assert not any(again.computed.values()), "a result does not depend on the number of devices by its key"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dask"}, "either 'address' or 'cluster'"),
        ({"kind": "dask", "address": "tcp://a:1", "cluster": "slurm"}, "either 'address' or 'cluster'"),
        ({"address": "tcp://a:1"}, "belong to kind: dask"),
        ({"kind": "dask", "cluster": "slurm", "walltime": "an hour"}, "walltime"),
        ({"kind": "dask", "cluster": "slurm"}, "needs the 'walltime'"),
        ({"kind": "dask", "cluster": "pbs", "walltime": "1:00:00", "gpus-per-job": 1}, "how pbs gives a job its GPUs"),
        ({"gpus": [1, 1]}, "comes twice"),
        ({"gpus": [0, 1, 2], "gpus-per-fit": 2}, "cannot be dealt out in groups of 2"),
        ({"gpus": [0], "gpus-per-fit": 2}, "cannot be dealt out in groups of 2"),
        ({"gpus-per-fit": 0}, "gpus-per-fit"),
        ({"kind": "dask", "address": "tcp://a:1", "gpus-per-job": 1, "gpus-per-fit": 2}, "has not the 2 of a fit"),
    ],
)
def test_an_engine_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions.model_validate(options)


def test_a_scheduler_that_does_not_answer_is_named(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "PATIENCE_S", 1.0)
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        execute(["box-fill"], engine={"kind": "dask", "address": "tcp://127.0.0.1:9"})


def test_a_batch_system_that_refuses_a_job_ends_the_run(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(StudyError, match=r"\(slurm\) refused a job: sbatch: error: invalid partition"):
        execute(["box-fill"], engine={"kind": "dask", "cluster": "slurm", "queue": "nowhere", "walltime": "1:00:00"})


def test_walltimes_are_written_as_each_system_wants_them() -> None:
    assert [_written("1-02:03:04", name) for name in ("slurm", "pbs", "lsf")] == ["26:03:04", "26:03:04", "26:03"]
    assert [seconds_of(text) for text in ("00:01:00", "2:30:05", "1-00:00:00")] == [60, 9005, 86400]
