"""nnU-Net through the whole run: killed in each of its phases it goes on; its data set is nnU-Net's own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from gtvbench.adapters.nnunet import options
from gtvbench.bench.cli.conformance import conformance
from gtvbench.bench.core.errors import StoreError, StudyError
from gtvbench.bench.export.nnunet import export_nnunet
from gtvbench.bench.study.arms import plan_arms
from gtvbench.bench.study.file import Study

STUDY: dict[str, Any] = {
    "study": "nnunet",
    "seed": 4,
    "dataset": {"source": "phantom", "patients": 5, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "structures": {"GTV-T": 1, "GTV-N": 3},
    "split": {"counts": {"train": 2, "validation": 1, "test": 2}},
    "methods": {
        "nnunet-box": {
            "epochs": 3, "iterations": 3, "validation-iterations": 1, "foreground-voxels": 20_000, "mirroring": False,
        }
    },
}  # fmt: skip


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", "run", "study.yaml"]
    command += ["--methods", "nnunet-box", "--out", str(folder / out), "--log", "quiet", "--no-report"]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def processes_on(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


#: What is seen in the arm's folder once a phase has begun.
PHASES = {
    "planning": "fit.work/nnunet/preprocessed/Dataset001_gtvbench",
    "preprocessing": "fit.work/nnunet/**/planned.json",
    "training": "fit.work/nnunet/**/checkpoint_latest.pth",
    "prediction": "predictions/*.nii.gz",
}


@pytest.mark.parametrize(
    "phases", [["training", "prediction"], pytest.param(list(PHASES), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_killed_in_any_phase_it_goes_on_and_ends_the_same(tmp_path: Path, phases: list[str]) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert start(tmp_path, "whole").wait(300) == 0, (tmp_path / "log.txt").read_text()
    run = tmp_path / "killed"
    arm = run / "arms" / "nnunet-box.multimodal"
    for number, phase in enumerate(phases):
        process = start(tmp_path, "killed")
        deadline = time.monotonic() + 120
        while not list(arm.glob(PHASES[phase])):
            assert process.poll() is None and time.monotonic() < deadline, f"{phase} was never seen"
            time.sleep(0.002)
        for victim in processes_on(run) if number % 2 else [psutil.Process(process.pid)]:
            victim.kill()
        process.wait(30)
        gone = time.monotonic() + 30
        while processes_on(run) and time.monotonic() < gone:
            time.sleep(0.05)
        assert not processes_on(run), f"a process outlived the kill in {phase}"
    assert start(tmp_path, "killed").wait(300) == 0, (tmp_path / "log.txt").read_text()
    one, other = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(one, other)
    epochs = pd.read_csv(arm / "fit" / "epochs.csv")
    assert list(epochs["epoch"]) == [0, 1, 2] and (epochs["seconds"] > 0).all()
    assert not list(run.rglob("*.pth")), "resume points, which hold pickles, are gone when the fit is finished"
    check_export(run, tmp_path)


def check_export(run: Path, tmp_path: Path) -> None:
    """The exported data set passes nnU-Net's own integrity check and holds what the run prepared."""
    folder = export_nnunet(run, tmp_path / "raw", 7, boxes="per-structure")
    assert folder.name == "Dataset007_Nnunet"
    with pytest.raises(StudyError, match="the data set exists"):
        export_nnunet(run, tmp_path / "raw", 7)
    description = json.loads((folder / "dataset.json").read_text())
    assert list(description["channel_names"].values()) == ["CT", "PET", "T1w", "T2w", "noNorm", "noNorm"]
    assert description["labels"] == {"background": 0, "GTV-T": 1, "GTV-N": 2}
    assert len(list((folder / "imagesTr").iterdir())) == 3 * 6 and len(list((folder / "imagesTs").iterdir())) == 2 * 6
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert len(fold["train"]) == 2 and len(fold["val"]) == 1
    code = "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as v; v({!r}, 1)"
    variables = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__': exec({code.format(str(folder))!r})"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    case = fold["val"][0]
    image = run / "cases" / case / "CT.nii"
    assert (folder / "imagesTr" / f"{case}_0000.nii").stat().st_ino == image.stat().st_ino, "a link, not a second copy"


def test_an_export_needs_a_run_and_a_number_of_nnunets(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run folder"):
        export_nnunet(tmp_path, tmp_path / "raw")
    with pytest.raises(StudyError, match="from 1 to 999"):
        export_nnunet(tmp_path, tmp_path / "raw", 1000)


def test_another_version_of_nnunet_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options.importlib.metadata, "version", lambda name: "2.5.1")
    study = Study.model_validate(STUDY)
    with pytest.raises(StudyError, match=r"nnunetv2 2\.5\.1 is installed"):
        plan_arms(study, tmp_path, ("CT",), ["nnunet"])
    under_all = plan_arms(study, tmp_path, ("CT",), ["all"])
    skipped = {arm.name: arm.skip for arm in under_all if arm.method == "nnunet"}
    assert list(skipped) == ["nnunet.ct-only"] and "2.5.1" in str(skipped["nnunet.ct-only"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnunet", "nnunet-box"])
def test_nnunet_conforms(name: str) -> None:
    settings = ["epochs=1", "iterations=2", "validation-iterations=1", "foreground-voxels=20000", "mirroring=false"]
    assert [(r.title, r.detail) for r in conformance(name, settings) if not r.passed] == []
