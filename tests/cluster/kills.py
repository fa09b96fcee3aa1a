"""Kills at random: whoever dies, the scores at the end are those of an undisturbed run, and nothing finished is lost.

    python tests/cluster/kills.py FOLDER [--kills 200] [--engine local|dask|slurm] [--seed 1]

A run of three arms in three folds is started again and again on one folder. Each time, after a random while, one
process is killed: the run itself, a process that it started, with dask a worker or the scheduler, with slurm a batch
job (`scancel`). When a run ends, its scores are compared, and the next one begins in a new folder. It ends with exit
code 1 where anything was lost, computed again or left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from plugins import install
from slurm import slurm

STUDY: dict[str, Any] = {
    "study": "kills",
    "seed": 11,
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "dataset": {"source": "phantom", "patients": 6, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "split": {"folds": 3},
    "preparation": {"workers": 2},
    "methods": {"learned-threshold": {"epochs": 5, "seconds": 0.1}, "again": {"method": "learned-threshold"}},
}
JOBS = {"cluster": "slurm", "queue": "cpu", "jobs": 2, "cores": 2, "memory": "4GB", "walltime": "0:30:00"}
PORT = 18786


class Place:
    """A folder, its environment (`more` is added), and the Dask cluster where there is one."""

    def __init__(self, folder: Path, engine: str, more: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.engine = folder, engine
        site = folder / "site"
        site.mkdir()
        paths = [str(install(site)), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more
        of = {"dask": {"kind": "dask", "address": f"tcp://127.0.0.1:{PORT}"}, "slurm": {"kind": "dask"} | JOBS}
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"engine": of.get(engine, {"kind": "local"})}))
        self.cluster: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command; its output goes to log.txt."""
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)

    def bench(self, out: str) -> subprocess.Popen[bytes]:
        """Start the run on a folder."""
        code = "from gtvbench.bench.cli.main import main; main()"
        words = ["run", "study.yaml", "--methods", "learned-threshold,again,box-fill", "--out", out, "--no-report"]
        return self.command(sys.executable, "-c", code, *words, "--log", "quiet")

    def batch_jobs(self) -> list[int]:
        """Numbers of SLURM's jobs that wait or run."""
        words = ["squeue", "--noheader", "--format", "%i"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    def tend_cluster(self) -> None:
        """Start the scheduler and two workers, where they are not there (any more)."""
        if self.engine != "dask":
            return
        words = {
            0: ["scheduler", "--host", "127.0.0.1", "--port", str(PORT), "--no-dashboard", "--no-show"],
            1: ["worker", f"tcp://127.0.0.1:{PORT}", "--nthreads", "1", "--no-dashboard"],
            2: ["worker", f"tcp://127.0.0.1:{PORT}", "--nthreads", "1", "--no-dashboard"],
        }
        for number, each in words.items():
            if number >= len(self.cluster):
                self.cluster.append(self.command(sys.executable, "-m", "distributed.cli.dask_" + each[0], *each[1:]))
            elif self.cluster[number].poll() is not None:
                self.cluster[number] = self.command(sys.executable, "-m", "distributed.cli.dask_" + each[0], *each[1:])


def started_by(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes below one that are alive."""
    with suppress(psutil.Error):
        return [p for p in psutil.Process(process.pid).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return []


def steps(run: Path) -> dict[str, int]:
    """When each finished step was recorded; contours are drawn again after a failure."""
    found = {}
    for path in (run / "steps").rglob("[!.]*.json"):
        with suppress(OSError):
            found[str(path.relative_to(run))] = path.stat().st_mtime_ns
    return {name: stamp for name, stamp in found.items() if "contours" not in name}


def main() -> None:
    """Kill until it was often enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--engine", choices=["local", "dask", "slurm"], default="local")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with ExitStack() as stack:
        more = {}
        if asked.engine == "slurm":
            conf = stack.enter_context(slurm(asked.folder.resolve() / "slurm"))
            more = {"SLURM_CONF": str(conf), "PYTHON": sys.executable}
        sys.exit(kill(Place(asked.folder.resolve(), asked.engine, more), asked.engine, asked.kills, asked.seed))


def kill(place: Place, engine: str, kills: int, seed: int) -> bool:
    """Kill until it was often enough; whether anything went wrong."""
    rng = random.Random(seed)
    place.tend_cluster()
    start = time.monotonic()
    if place.bench("whole").wait() != 0:
        sys.exit((place.folder / "log.txt").read_text())
    usual = time.monotonic() - start
    expected = pd.read_parquet(place.folder / "whole" / "scores.parquet")
    killed, runs, wrong = Counter[str](), 0, list[str]()
    kept: dict[str, int] = {}
    while sum(killed.values()) < kills:
        place.tend_cluster()
        run = place.bench("run")
        with suppress(subprocess.TimeoutExpired):
            run.wait(rng.uniform(0.3, 1.0) * usual)
        victims: dict[str, list[int]] = {"run": [run.pid], "child": [p.pid for p in started_by(run)]}
        if engine == "slurm":
            victims["scancel"] = place.batch_jobs()
        if engine == "dask":
            victims["scheduler"] = [place.cluster[0].pid]
            victims["worker"] = [worker.pid for worker in place.cluster[1:]]
            victims["child"] = [p.pid for worker in place.cluster[1:] for p in started_by(worker)]
        who = rng.choice([name for name, pids in victims.items() if pids])
        if run.poll() is None:
            with suppress(ProcessLookupError):
                victim = rng.choice(victims[who])
                if who == "scancel":
                    subprocess.run(["scancel", str(victim)], env=place.environment, check=False)
                else:
                    os.kill(victim, signal.SIGKILL)
                killed[who] += 1
        below = started_by(run)
        code = run.wait(300)
        sys.stdout.write(
            f"{sum(killed.values())} killed, last: {who}; the run ended with {code}; {len(wrong)} faults\n"
        )
        sys.stdout.flush()
        now = steps(place.folder / "run")
        again = [name for name, stamp in kept.items() if name in now and now[name] != stamp]
        wrong += [f"computed again after {who}: {name}" for name in again]
        kept = now
        _, alive = psutil.wait_procs(below, timeout=10)
        wrong += [f"left behind after {who}: {' '.join(p.cmdline()[:4])}" for p in alive if engine == "local"]
        if code == 0:
            runs += 1
            found = pd.read_parquet(place.folder / "run" / "scores.parquet")
            if not found.equals(expected):
                wrong.append(f"other scores in run {runs}")
            parts = [p for p in (place.folder / "run").rglob(".*") if p.name.startswith((".part-", ".old-"))]
            wrong += [f"half-written: {path}" for path in parts]
            shutil.rmtree(place.folder / "run")
            kept = {}
    for process in place.cluster:
        process.kill()
    deadline = time.monotonic() + 120
    while engine == "slurm" and place.batch_jobs():  # a worker that lost its scheduler ends after a minute
        if time.monotonic() > deadline:
            wrong.append(f"left behind: batch jobs {place.batch_jobs()}")
            break
        time.sleep(1)
    told = ", ".join(f"{count} {who}" for who, count in sorted(killed.items()))
    sys.stdout.write(f"{engine}: killed {told}; {runs} runs came to their end; {len(wrong)} faults\n")
    sys.stdout.write("\n".join(wrong[:20]) + "\n")
    return bool(wrong)


if __name__ == "__main__":
    main()
