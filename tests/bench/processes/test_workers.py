import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

Execute = Any  # the fixture of conftest.py: execute(methods, folder, base, **changes) -> (outcome, run)

STUDY = {
    "study": "small",
    "seed": 11,
    "dataset": {"source": "phantom", "patients": 6, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "split": {"counts": {"train": 2, "validation": 1, "test": 3}},
}
METHODS = "box-fill,learned-threshold"
KILLS = 21


@pytest.mark.usefixtures("with_plugins")
def test_a_method_that_trains_is_recorded_epoch_by_epoch(execute: Execute) -> None:
    outcome, run = execute(["learned-threshold"])
    assert outcome.exit_code == 0
    epochs = pd.read_csv(run.store.arm_folder("learned-threshold.ct-only") / "fit" / "epochs.csv")
    assert epochs["epoch"].tolist() == [0, 1, 2, 3]
    assert (epochs["seconds"] >= 0.1).all()
    (arm,) = json.loads((run.folder / "arms.json").read_text())
    assert arm["status"] == "complete" and arm["best_epoch"] == 3 and arm["peak_host_bytes"] > 1e6


@pytest.mark.usefixtures("with_plugins")
def test_an_adapter_that_sleeps_50_ms_a_slice_is_timed_at_50_ms(execute: Execute) -> None:
    _, run = execute(["sleeper"])
    timing = pd.read_parquet(run.store.arm_folder("sleeper.ct-only") / "timing.parquet")
    encode = timing[timing["stage"] == "encode"]
    assert len(encode) == sum(len(run.prompts[case].slices) for case in run.cohort.cases("test"))
    # A sleep never ends early; how late it ends is the machine's affair, so only the median is bounded, and widely.
    assert encode["seconds"].min() >= 0.05
    assert encode["seconds"].median() < 0.1
    assert timing.loc[timing["stage"] == "decode", "seconds"].median() < 0.05
    assert set(timing["stage"]) == {"load", "warmup", "throughput", "encode", "decode", "case"}


@pytest.mark.usefixtures("with_plugins")
@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("crash", "crashed", "SIGABRT"),
        ("hang", "timeout", "stopped after 1"),
        ("shape", "crashed", "instead of a label map"),
        ("label", "crashed", "unknown label values [77]"),
        ("raise", "crashed", "ValueError: no luck"),
    ],
)
def test_a_broken_method_leaves_rows_and_the_others_standing(
    execute: Execute, how: str, status: str, message: str
) -> None:
    outcome, run = execute(["broken", "box-fill"], methods={"broken": {"how": how}}, timing={"case-timeout-s": 1.5})
    assert outcome.exit_code == 3
    failures = json.loads((run.folder / "failures.json").read_text())
    assert [f["case"] for f in failures] == run.cohort.cases("test")
    assert all(f["status"] == status and message in f["message"] for f in failures)
    table = pd.read_parquet(run.folder / "scores.parquet")
    dsc = table[(table["metric"] == "dsc") & (table["scope"] == "volume") & table["value"].notna()]
    assert (dsc.loc[dsc["arm"] == "broken.ct-only", "value"] == 0).all()
    assert (dsc.loc[dsc["arm"] == "box-fill", "value"] > 0).all()
    arms = {arm["arm"]: arm["status"] for arm in json.loads((run.folder / "arms.json").read_text())}
    assert arms == {"broken.ct-only": "failed", "box-fill": "complete"}


def start(folder: Path, plugins: Path, out: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "from gtvbench.bench.cli.main import main; main()",
        "run",
        str(folder / "study.yaml"),
    ]
    command += ["--methods", METHODS, "--out", str(folder / out), "--log", "quiet", "--no-report"]
    environment = os.environ | {"PYTHONPATH": str(plugins)}
    log = (folder / "log.txt").open("ab")
    with log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def workers_on(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            running = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if running and "gtvbench.bench.processes.arm_worker" in line and str(folder) in line:
            found.append(process)
    return found


def finished_steps(run: Path) -> dict[str, int]:
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in (run / "steps").rglob("[!.]*.json")}


def comparable(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "scores.parquet")


def test_kills_at_random_moments_lose_nothing_and_change_nothing(tmp_path: Path, plugins: Path) -> None:
    rng = random.Random(5)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert start(tmp_path, plugins, "whole").wait(120) == 0
    run = tmp_path / "killed"
    for number in range(KILLS):
        process = start(tmp_path, plugins, "killed")
        deadline = time.monotonic() + rng.uniform(0.3, 4.0)
        while time.monotonic() < deadline and process.poll() is None:
            assert len(workers_on(run)) <= 1
            time.sleep(0.05)
        kept = finished_steps(run) if run.exists() else {}
        target = ("parent", "worker", "both")[number % 3]
        victims = workers_on(run) if target != "parent" else []
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        if target == "worker":
            process.wait(60)  # the parent goes on: it reports the loss and tries the cases that are left
        else:
            process.kill()  # harmless where the run has ended already
            process.wait(10)
        gone = time.monotonic() + 5
        while workers_on(run) and time.monotonic() < gone:
            time.sleep(0.05)
        assert workers_on(run) == []
        now = finished_steps(run) if run.exists() else {}
        redone = [name for name, stamp in kept.items() if now.get(name) != stamp and "report" not in name]
        assert redone == [], f"{target} killed, computed again: {redone}"
    assert start(tmp_path, plugins, "killed").wait(120) == 0, (tmp_path / "log.txt").read_text()
    pd.testing.assert_frame_equal(comparable(run), comparable(tmp_path / "whole"))
    assert not [path for path in run.rglob(".*") if path.name.startswith((".part-", ".old-"))]
