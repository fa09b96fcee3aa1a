"""Patients read side by side, and those that cannot be read: bounded, resumable, the same result as one by one."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.errors import DataError, DigestError, StoreError, StudyError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import write_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.prepare.cases import prepare_key
from gtvbench.bench.prepare.check import check_study
from gtvbench.bench.prepare.crew import input_bytes, read, readers
from gtvbench.bench.prepare.patients import Task
from gtvbench.bench.processes import crew as crews
from gtvbench.bench.processes import worker
from gtvbench.bench.processes.crew import Crew, available_memory
from gtvbench.bench.processes.worker import Failure
from gtvbench.bench.study.arms import plan_arms
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import PreparationOptions, Study
from gtvbench.reports.compare.merge import merge, read_candidates

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)

SHAPE = (6, 40, 48)
GRID = Grid(SHAPE, (3.0, 2.0, 2.0))
NAMES = [f"p{n}" for n in range(6)]
DATASET = {
    "source": "folders",
    "path": "data",
    "images": {"CT": "CT.nii.gz", "PET": "PET.nii.gz"},
    "masks": [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
}
SPLIT = {"lists": {"train": NAMES[:2], "validation": NAMES[2:3], "test": NAMES[3:]}}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six small patients as files; returns the folder of their folders."""
    rng = np.random.default_rng(1)
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 10:18, 12:20] = 1
    for name in NAMES:
        for modality in ("CT", "PET"):
            volume = rng.normal(0, 10, SHAPE) + 60 * (label > 0)
            write_volume(volume.astype(np.float32), GRID, tmp_path / "data" / name / f"{modality}.nii.gz")
        write_volume(label, GRID, tmp_path / "data" / name / "label.nii.gz")
    return tmp_path / "data"


def study(**changes: Any) -> Study:
    base = {"study": "small", "dataset": DATASET, "structures": {"GTV-T": 1, "GTV-N": 2}, "split": SPLIT}
    return Study.model_validate(base | changes)


def damage(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def files(folder: Path) -> dict[str, str]:
    names = ("cases", "references", "steps/prepare", "steps/prompts", "prompts")
    paths = [p for name in names for p in sorted((folder / name).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_two_workers_leave_the_same_bytes_as_one_process(execute: Execute, cohort: Path) -> None:
    changes = {"dataset": DATASET, "split": SPLIT}
    (cohort / "p1" / "PET.nii.gz").unlink()
    for folder, workers in (("one", 1), ("two", 2)):
        outcome, run = execute(["box-fill"], folder=folder, preparation={"workers": workers}, **changes)
        assert outcome.exit_code == 3
        assert outcome.computed["prepare"] == 5
    base = run.folder.parent
    assert files(base / "one") == files(base / "two")
    for name in ("split.json", "failures.json", "scores.csv"):
        assert (base / "one" / name).read_bytes() == (base / "two" / name).read_bytes()


def test_a_bad_patient_is_left_out_of_every_arm_and_comes_back_when_repaired(execute: Execute, cohort: Path) -> None:
    changes = {"dataset": DATASET, "split": SPLIT}
    whole = damage(cohort / "p4" / "PET.nii.gz")
    outcome, run = execute(["box-fill", "box-ellipse"], page=True, **changes)
    assert outcome.exit_code == 3
    assert outcome.left_out == ("p4",)
    (failure,) = json.loads((run.folder / "failures.json").read_text())
    found = (failure["step"], failure["arm"], failure["case"], failure["status"])
    assert found == ("prepare", None, "p4", "unreadable")
    assert str(cohort) not in json.dumps(failure)
    split = json.loads((run.folder / "split.json").read_text())
    assert split["test"] == ["p3", "p4", "p5"]
    assert split["left_out"] == {"train": [], "validation": [], "test": ["p4"]}
    scored = (run.folder / "scores.csv").read_text()
    assert "p3" in scored and "p4" not in scored
    page = outcome.report.read_text()
    assert "Patients left out" in page and "p4 (test)" in page
    short = shutil.copytree(run.folder, run.folder.with_name("short"))
    (cohort / "p4" / "PET.nii.gz").write_bytes(whole)
    again, run = execute(["box-fill", "box-ellipse"], **changes)
    assert again.exit_code == 0
    assert (again.computed["prepare"], again.computed["predict"]) == (1, 2)
    assert json.loads((run.folder / "failures.json").read_text()) == []
    with pytest.raises(DigestError, match="p4"):  # runs that used different patients are not merged
        merge(read_candidates([run.folder, short]))


@pytest.mark.usefixtures("with_plugins")
def test_a_repaired_training_patient_makes_the_fit_anew(execute: Execute, cohort: Path) -> None:
    changes = {"dataset": DATASET, "split": SPLIT, "methods": {"learned-threshold": {"epochs": 1, "seconds": 0.0}}}
    whole = damage(cohort / "p0" / "CT.nii.gz")
    outcome, _ = execute(["learned-threshold", "box-fill"], **changes)
    assert outcome.computed["fit"] == 1
    (cohort / "p0" / "CT.nii.gz").write_bytes(whole)
    again, _ = execute(["learned-threshold", "box-fill"], **changes)
    assert again.exit_code == 0
    # The trained arm's three predictions are made anew; the reference arm did not depend on the patient.
    assert (again.computed["prepare"], again.computed["fit"], again.computed["predict"]) == (1, 1, 3)


def test_a_study_stops_where_told_to_or_too_little_is_left_and_keeps_the_good_ones(
    execute: Execute, cohort: Path
) -> None:
    changes = {"dataset": DATASET, "split": SPLIT}
    whole = {"p4": damage(cohort / "p4" / "PET.nii.gz")}
    with pytest.raises(DataError, match="1 of 6 cases cannot be used; nothing was trained"):
        execute(["box-fill"], preparation={"bad-patients": "stop"}, **changes)
    whole["p2"] = damage(cohort / "p2" / "PET.nii.gz")
    with pytest.raises(DataError, match="none is left of the validation set"):
        execute(["box-fill"], **changes)
    for name in ("p0", "p5"):
        whole[name] = damage(cohort / name / "PET.nii.gz")
    with pytest.raises(DataError, match="4 of 6 cases cannot be used"):
        execute(["box-fill"], dataset=DATASET, split={"lists": {"test": NAMES}})
    for name, content in whole.items():
        (cohort / name / "PET.nii.gz").write_bytes(content)
    outcome, _ = execute(["box-fill"], **changes)
    # Those that were repaired; the others lie prepared.
    assert outcome.exit_code == 0 and outcome.computed["prepare"] == 4


def test_the_check_tells_the_same_with_workers_as_without(cohort: Path) -> None:
    damage(cohort / "p1" / "CT.nii.gz")
    (cohort / "p3" / "label.nii.gz").unlink()
    found = [
        check_study(study(preparation={"workers": n}, run=["box-fill"]), cohort.parent, Display("quiet"))
        for n in (1, 2)
    ]
    assert found[0].findings == found[1].findings
    assert [f.case for f in found[0].findings if f.level == "error"] == ["p1", "p3"]


def crew_of(base: Path, **options: Any) -> tuple[Crew, list[Task]]:
    plan = study()
    cohort = open_cohort(plan, base)
    tasks = [Task(e, prepare_key(e.identity, cohort.modalities, cohort.structures)) for e in cohort.used]
    return readers(cohort.job("prepare", plan, base, base / "run"), PreparationOptions(**options)), tasks


def at_work() -> list[psutil.Process]:
    """Processes that read patients for this one."""
    found = []
    for process in psutil.Process().children():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and worker.__name__ in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def killer(stop: threading.Event, every: bool) -> None:
    """Kill readers: the first that is seen, or each."""
    while not stop.is_set():
        for process in at_work():
            with suppress(psutil.NoSuchProcess):
                process.kill()
                if not every:
                    return
        time.sleep(0.01)


@pytest.mark.parametrize("every", [False, True])
def test_a_killed_worker_costs_a_second_attempt_and_then_its_patient(cohort: Path, every: bool) -> None:
    crew, tasks = crew_of(cohort.parent, workers=2)
    tasks = tasks[:2] if every else tasks
    stop = threading.Event()
    thread = threading.Thread(target=killer, args=(stop, every))
    thread.start()
    try:
        results = {task.entry.name: found for task, found in crew.side_by_side(tasks)}
    finally:
        stop.set()
        thread.join()
    assert set(results) == {task.entry.name for task in tasks}
    assert {isinstance(found, Failure) for found in results.values()} == {every}
    if every:
        assert all("SIGKILL" in found.message for found in results.values())
    assert at_work() == []


def test_an_interrupt_ends_every_worker(cohort: Path) -> None:
    crew, tasks = crew_of(cohort.parent, workers=2)
    # A shell starts what runs in its background with the interrupt ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in crew.side_by_side(tasks * 200):
                pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert at_work() == []


def test_a_run_folder_that_cannot_be_written_ends_the_run(cohort: Path) -> None:
    (cohort.parent / "run").write_text("in the way")
    crew, tasks = crew_of(cohort.parent, workers=2)
    with pytest.raises(StoreError):
        list(read(crew, tasks))


def test_memory_bounds_the_workers_by_what_a_patient_took(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crew, tasks = crew_of(cohort.parent, memory_gb=8.0)
    monkeypatch.setattr(crews.provenance, "usable_cores", lambda: 16)
    crew._cores, crew._budget = 16, 8.0 * 2**30
    allowed = []
    for peak in (0, 2**30, 20 * 2**30):  # none measured yet: 3 GB each
        crew.pool.peak_bytes = peak
        allowed.append(crew.allowed())
    assert allowed == [2, 6, 1]
    assert crew._alone(tasks, 1 << 20) and not crew._alone(tasks, None)  # so small that no process is worth its start
    assert input_bytes({"files": {"a": [10, 1], "b": [5, 2]}}) == 15
    assert input_bytes({"shape": [2, 3, 4]}) == 48
    assert input_bytes({"series": "x"}) is None


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("1000000\n")
    (tmp_path / "job" / "memory.current").write_text("600000\n")
    (tmp_path / "job" / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    (group / "memory.max").write_text("max\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    assert available_memory(tmp_path, tmp_path / "own") == 500000
    assert available_memory(tmp_path, tmp_path / "none") > 500000


def test_a_study_without_training_patients_runs_what_does_not_train(execute: Execute, cohort: Path) -> None:
    one = {"dataset": DATASET, "split": {"lists": {"test": ["p0"]}}}
    outcome, run = execute(["box-fill", "box-ellipse"], page=True, **one)
    assert outcome.exit_code == 0
    page = outcome.report.read_text()
    assert "one patient has no interval and no test" in page
    assert "look at the interval" not in page
    where = (cohort.parent, run.cohort.modalities)
    arms = {arm.name: arm for arm in plan_arms(study(**one), *where, ["all"], run.cohort.split)}
    assert arms["box-fill"].skip is arms["box-ellipse"].skip is None
    trained = [arm for arm in arms.values() if arm.trains]
    assert trained and {arm.skip for arm in trained} == {"the split has no training patients"}
    with pytest.raises(StudyError, match="'nnunet' trains, but the split has no training patients"):
        plan_arms(study(**one), *where, ["nnunet"], run.cohort.split)


def test_an_uncompressed_volume_is_written_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    write_volume(array, GRID, tmp_path / "a.nii")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii"))), array)
