import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.store import held
from gtvbench.bench.privacy.policy import is_shareable
from gtvbench.bench.processes import recorder

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

ARM = "learned-threshold.ct-only"


@pytest.mark.usefixtures("with_plugins")
def test_epochs_and_slices_take_the_time_that_a_method_takes(execute: Execute) -> None:
    start = time.perf_counter()
    outcome, run = execute(["learned-threshold", "sleeper"])
    whole = time.perf_counter() - start
    assert outcome.exit_code == 0
    epochs = pd.read_csv(run.store.arm_folder(ARM) / "fit" / "epochs.csv")
    assert epochs["epoch"].tolist() == [0, 1, 2, 3]
    assert (epochs["seconds"] >= 0.1).all() and epochs["seconds"].sum() < whole
    arm = next(arm for arm in json.loads((run.folder / "arms.json").read_text()) if arm["arm"] == ARM)
    assert arm["status"] == "complete" and arm["best_epoch"] == 3 and arm["peak_host_bytes"] > 1e6
    timing = pd.read_parquet(run.store.arm_folder("sleeper.ct-only") / "timing.parquet")
    assert set(timing["stage"]) == {"load", "warmup", "throughput", "encode", "decode", "case"}
    encode = timing[timing["stage"] == "encode"]
    assert len(encode) == sum(len(run.prompts[case].slices) for case in run.cohort.cases("test"))
    # A sleep never ends early; how late it ends is the machine's affair.
    assert encode["seconds"].min() >= 0.05 and encode["seconds"].sum() < whole
    assert timing.loc[timing["stage"] == "decode", "seconds"].median() < encode["seconds"].median()


BROKEN = {
    "crash": ("crashed", "SIGABRT"),
    "hang": ("timeout", "stopped after 4.5 s, twice"),  # three times the limit: a first call may take longer
    "shape": ("crashed", "instead of a label map"),
    "label": ("crashed", "unknown label values [77]"),
    "raise": ("crashed", "ValueError: no luck"),
    "nothing": ("crashed", "returned NoneType instead of a label map"),
}


@pytest.mark.usefixtures("with_plugins")
def test_broken_methods_leave_rows_and_the_others_standing(execute: Execute) -> None:
    methods = {how: {"method": "broken", "how": how} for how in BROKEN}
    outcome, run = execute([*BROKEN, "box-fill"], methods=methods, timing={"case-timeout-s": 1.5})
    assert outcome.exit_code == 3
    failures = json.loads((run.folder / "failures.json").read_text())
    table = pd.read_parquet(run.folder / "scores.parquet")
    dsc = table[(table["metric"] == "dsc") & (table["scope"] == "volume") & table["value"].notna()]
    for how, (status, message) in BROKEN.items():
        own = [failure for failure in failures if failure["arm"] == f"{how}.ct-only"]
        assert [failure["case"] for failure in own] == run.cohort.cases("test")
        assert all(failure["status"] == status and message in failure["message"] for failure in own)
        assert set(dsc.loc[dsc["arm"] == f"{how}.ct-only", "value"]) == {0.0}
    assert (dsc.loc[dsc["arm"] == "box-fill", "value"] > 0).all()
    arms = {arm["arm"]: arm["status"] for arm in json.loads((run.folder / "arms.json").read_text())}
    assert arms == {f"{how}.ct-only": "failed" for how in BROKEN} | {"box-fill": "complete"}


@pytest.mark.usefixtures("with_plugins")
@pytest.mark.parametrize("how", ["crash", "hang", "grow"])
def test_one_deadly_case_of_many_costs_itself_alone(execute: Execute, how: str) -> None:
    split = {"counts": {"test": 4}}
    (first, deadly, *_), methods = _cases(execute, split), {}
    for name, case in (("first", first), ("second", deadly)):
        methods[name] = {"method": "broken", "how": how, "case": case}
    limits = {"engine": {"memory": "0.9GB"}} if how == "grow" else {"timing": {"case-timeout-s": 1.5}}
    outcome, run = execute([*methods], methods=methods, split=split, **limits)
    assert outcome.exit_code == 3
    status = "timeout" if how == "hang" else "crashed"
    failed = [(f["step"], f["arm"], f["case"], f["status"]) for f in outcome.failures]
    assert failed == [("predict", "first.ct-only", first, status), ("predict", "second.ct-only", deadly, status)]
    assert all("twice" in failure["message"] for failure in outcome.failures)
    assert how != "grow" or "GB of memory and may take 0.9 GB" in outcome.failures[0]["message"]
    for name in methods:
        assert len(list((run.store.arm_folder(f"{name}.ct-only") / "predictions").iterdir())) == 3


def _cases(execute: Execute, split: dict[str, Any]) -> list[str]:
    return execute(["box-fill"], folder="cases", split=split)[1].cohort.cases("test")


@pytest.mark.usefixtures("with_plugins")
def test_a_case_that_dies_once_is_predicted_at_the_second_attempt(execute: Execute, tmp_path: Path) -> None:
    methods = {"broken": {"how": "crash", "once": str(tmp_path / "once")}}
    outcome, _ = execute(["broken"], methods=methods)
    assert outcome.exit_code == 0 and outcome.computed["predict"] == 2


@pytest.mark.usefixtures("with_plugins")
def test_a_method_that_cannot_be_loaded_fails_with_all_its_cases_at_the_step_of_that_name(execute: Execute) -> None:
    outcome, _ = execute(["broken"], methods={"broken": {"how": "load"}})
    (failure,) = outcome.failures
    assert (failure["step"], failure["case"], failure["status"]) == ("load", None, "crashed")
    assert "no such weights" in failure["message"]


@pytest.mark.usefixtures("with_plugins")
def test_every_generator_of_a_method_is_seeded_whatever_the_device_is_called(execute: Execute) -> None:
    predicted = []
    for folder, device, seed in (("one", "cpu", 11), ("two", "auto", 11), ("three", "cpu", 12)):
        _, run = execute(["dice"], folder=folder, device=device, seed=seed)
        files = sorted((run.store.arm_folder("dice.ct-only") / "predictions").iterdir())
        predicted.append([read_volume(path).array for path in files])
    assert all(np.array_equal(one, two) for one, two in zip(*predicted[:2], strict=True))
    assert not any(np.array_equal(one, three) for one, three in zip(predicted[0], predicted[2], strict=True))


@pytest.mark.usefixtures("with_plugins")
def test_what_is_drawn_for_a_case_does_not_depend_on_the_cases_before_it(execute: Execute) -> None:
    _, run = execute(["dice"])
    first, last = run.cohort.cases("test")
    (run.folder / "steps" / "predict" / "dice.ct-only" / f"{last}.json").unlink()
    before = read_volume(run.store.prediction("dice.ct-only", last)).array
    outcome, _ = execute(["dice"])
    assert outcome.computed["predict"] == 1
    np.testing.assert_array_equal(read_volume(run.store.prediction("dice.ct-only", last)).array, before)
    assert not np.array_equal(read_volume(run.store.prediction("dice.ct-only", first)).array, before)


def test_torch_is_seeded_at_its_import_whoever_looked_for_it_before(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("seeds = []\ndef manual_seed(seed):\n    seeds.append(seed)\n")
    code = (
        "import importlib.util, sys\nfrom gtvbench.bench.processes.arm import seed_everything\n"
        "seed_everything(5)\nseed_everything(6)\nassert 'torch' not in sys.modules\n"
        "assert importlib.util.find_spec('torch')\nfrom torch import seeds\nseed_everything(7)\nprint(seeds)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[6, 7]", done.stderr


@pytest.mark.usefixtures("with_plugins")
def test_an_error_of_a_methods_own_kind_costs_its_cases_alone(execute: Execute) -> None:
    outcome, _ = execute(["broken", "box-fill"], methods={"broken": {"how": "odd"}})
    assert [failure["message"] for failure in outcome.failures] == ["it is odd, 3 times"] * 2
    assert outcome.computed["predict"] == 2


def test_a_job_that_was_left_behind_is_waited_for(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom gtvbench.bench.files.store import held\n"
    code += "with held(Path(sys.argv[1]), 'arm'):\n    pass"
    command = [sys.executable, "-c", code, str(tmp_path / "arm")]
    with ExitStack() as lock:
        lock.enter_context(held(tmp_path / "arm", "arm"))
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
            assert other.stderr is not None
            assert "waiting for a job that works on arm already" in other.stderr.readline()
            assert other.poll() is None
            lock.close()
    assert other.returncode == 0


@pytest.mark.usefixtures("with_plugins")
def test_a_change_of_prompts_leaves_a_method_alone_that_sees_none(execute: Execute) -> None:
    execute(["learned-threshold", "box-fill"], methods={"learned-threshold": {"epochs": 1, "seconds": 0.0}})
    changed = {"prompts": {"policy": "tight"}, "methods": {"learned-threshold": {"epochs": 1, "seconds": 0.0}}}
    outcome, _ = execute(["learned-threshold", "box-fill"], **changed)
    assert (outcome.computed["fit"], outcome.computed["predict"]) == (0, 2)
    assert outcome.computed["score"] == 4  # the slices that had a prompt are others now


def test_an_epoch_resumed_in_its_middle_counts_all_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, origin, told = [100.0], {"device_name": "cpu", "host": "a"}, list[Any]()
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: now[0])
    first = recorder.EpochTable(tmp_path, told.append, 2, origin)
    now[0] += 20
    first.saved()
    now[0] += 5  # lost with the kill, and computed again
    second = recorder.EpochTable(tmp_path, told.append, 2, origin | {"host": "b"})
    now[0] += 3
    second.ready()
    now[0] += 7
    second.epoch(0, 1.0, 2.0)
    third = recorder.EpochTable(tmp_path, told.append, 2, origin)
    now[0] += 11
    third.epoch(1, 1.0, 2.0)
    table = pd.read_csv(tmp_path / "epochs.csv")
    assert table["seconds"].tolist() == [27, 11] and second.preparation_seconds == 3
    assert table["host"].tolist() == ["several", "a"] and [event.epoch for event in told] == [0, 1]


STUDY = {
    "study": "small",
    "seed": 11,
    "dataset": {"source": "phantom", "patients": 4, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "split": {"counts": {"train": 1, "validation": 1, "test": 2}},
    "methods": {"learned-threshold": {"seconds": 0.0}},
}

#: What is not published any more (a pattern of its path), at which time of asking, and who dies there: the process that
#: publishes it or, where that is the arm's worker, the run that started it. One after the other, on one run folder.
KILLS = {
    "an epoch": (r"fit\.work/epochs\.csv", 3, "itself"),
    "a fit": (r"ct-only/fit$", 1, "parent"),
    "the record of a fit": (r"steps/fit/", 1, "itself"),
    "a prediction": (r"predictions/.*\.nii\.gz", 2, "parent"),
    "the record of a prediction": (r"steps/predict/learned", 1, "itself"),
    "the record of scores": (r"steps/score/learned", 1, "itself"),
    "the table of scores": (r"scores\.parquet", 1, "itself"),
}


def run_study(folder: Path, out: str, kill: tuple[str, int, str] | None = None) -> int:
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", "run", "study.yaml"]
    command += ["--methods", "box-fill,learned-threshold", "--out", out, "--log", "quiet", "--no-report"]
    environment = os.environ | ({"GTVBENCH_TEST_KILL": " ".join(map(str, kill))} if kill else {})
    with (folder / "log.txt").open("ab") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, timeout=300, check=False)
    return done.returncode


def _holds_lock(process: psutil.Process, folder: Path) -> bool:
    return any(path == str(folder / ".lock") for path in _open_files(process))


def _open_files(process: psutil.Process) -> list[str]:
    folder = Path(f"/proc/{process.pid}/fd")
    found = []
    with suppress(OSError):
        for link in folder.iterdir():
            with suppress(OSError):
                found.append(str(link.readlink()))
    return found


def workers_on(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            running = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if running and "gtvbench.bench.processes.worker" in line and _holds_lock(process, folder):
            found.append(process)
    return found


def finished_steps(run: Path) -> dict[str, int]:
    """When each record was written; without contours, which a success draws again after a failure."""
    records = [path for path in (run / "steps").rglob("[!.]*.json") if "contours" not in path.parts]
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in records}


@pytest.mark.usefixtures("with_plugins")
def test_a_kill_at_any_point_loses_nothing_finished_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert run_study(tmp_path, "whole") == 0, (tmp_path / "log.txt").read_text()
    run, kept, epochs = tmp_path / "killed", {}, ""
    for point, (what, times, victim) in KILLS.items():
        code = run_study(tmp_path, "killed", (what, times, victim))
        # A run whose worker died goes on: it reports the loss and tries the cases that are left.
        assert code == (3 if victim == "itself" and point not in list(KILLS)[-2:] else -9), point
        gone = time.monotonic() + 30
        while workers_on(run) and time.monotonic() < gone:
            time.sleep(0.05)
        assert workers_on(run) == [], f"{point}: a worker outlived its run"
        told = [path for path in run.rglob("*") if path.is_file() and is_shareable(str(path.relative_to(run)))]
        assert not [path for path in told if str(tmp_path).encode() in path.read_bytes()], f"{point}: a path is told"
        now = finished_steps(run)
        assert [name for name, stamp in kept.items() if now.get(name) != stamp] == [], f"computed again after {point}"
        kept = now
        if point == "an epoch":
            epochs = (run / "arms" / ARM / "fit.work" / "epochs.csv").read_text()
        if point == "a fit":
            text = (run / "arms" / ARM / "fit.work" / "epochs.csv").read_text()
            assert epochs.count("\n") == 3 and text.count("\n") == 5 and text.startswith(epochs), "it began anew"
    assert run_study(tmp_path, "killed") == 0, (tmp_path / "log.txt").read_text()
    one, other = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(one, other)
    assert not [path for path in run.rglob(".*") if path.name.startswith((".part-", ".old-"))]
