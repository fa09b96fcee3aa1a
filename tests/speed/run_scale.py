"""What the runner itself costs: a study of many patients and arms whose method takes no time.

    python tests/speed/run_scale.py [--patients 576] [--arms 8]

Prints wall time of the whole run without preparation and report, of one step of it (a prediction, its scores), of
finding out that nothing is left, the largest memory of the run's own process, and what a job costs that does nothing,
through Dask's LocalCluster with two workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gtvbench.bench.core.events import CaseDone, Event
from gtvbench.bench.processes.dask_engine import DaskEngine
from gtvbench.bench.study.file import EngineOptions

CODE = """
import json, resource, sys, time
from pathlib import Path
from gtvbench.bench.files.progress import Display
from gtvbench.bench.run.run import Run
from gtvbench.bench.study.file import read_study
start = time.perf_counter()
study = read_study(Path("study.yaml"))
outcome = Run(study, Path(), Path("run"), sys.argv[1].split(","), Display("quiet"), report=False).execute()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([time.perf_counter() - start, peak, outcome.exit_code]))
"""


@dataclass(frozen=True)
class Nothing:
    """A job that does nothing."""

    name: str
    on_device: bool = False

    def run(self, lock: int | None, environment: Mapping[str, str], stopped: Callable[[], bool]) -> Iterator[Event]:
        """Tell one thing."""
        yield CaseDone(self.name)


def through_dask(jobs: int) -> float:
    """Median milliseconds a job, of five rounds."""
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "host": "127.0.0.1"}
    with LocalCluster(**options) as cluster:  # type: ignore[no-untyped-call]
        engine = DaskEngine(EngineOptions(kind="dask", address=cluster.scheduler_address), Path("jobs"))
        taken = []
        for turn in range(6):
            start = time.perf_counter()
            told = list(engine.run([Nothing(f"{turn}-{number}") for number in range(jobs)]))
            assert len(told) == 3 * jobs
            taken.append(1000 * (time.perf_counter() - start) / jobs)
        engine.close()
    return statistics.median(taken[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=576)
    parser.add_argument("--arms", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, names = Path(folder), [f"arm{number}" for number in range(asked.arms)]
        study = {
            "study": "scale", "structures": {"GTV-T": 1, "GTV-N": 2}, "split": {"fractions": {"test": 1.0}},
            "dataset": {"source": "phantom", "patients": asked.patients, "shape": [8, 32, 32], "spacing": [8, 6, 6]},
            "methods": {name: {"method": "box-fill"} for name in names}, "report": {"pictures": False},
        }  # fmt: skip
        (place / "study.yaml").write_text(yaml.safe_dump(study))

        def run(arms: list[str]) -> tuple[float, int]:
            done = subprocess.run(
                [sys.executable, "-c", CODE, ",".join(arms)], cwd=place, capture_output=True, text=True, check=True
            )
            seconds, peak, code = json.loads(done.stdout.splitlines()[-1])
            assert code == 0
            return seconds, peak

        prepared, _ = run(names[:1])
        start = time.perf_counter()
        rest, peak = run(names)
        again, _ = run(names)
        steps = asked.patients * (asked.arms - 1)
        sys.stdout.write(
            f"{asked.patients} patients, {asked.arms} arms: first arm with preparation {prepared:.1f} s, the others "
            f"{rest:.1f} s, {1000 * (rest - again) / steps:.1f} ms a prediction with its scores; nothing left: "
            f"{again:.1f} s; memory of the run {peak / 2**20:.0f} MiB; {time.perf_counter() - start:.0f} s in all\n"
            f"through Dask: {through_dask(50):.1f} ms a job that does nothing, of 50\n"
        )


if __name__ == "__main__":
    main()
