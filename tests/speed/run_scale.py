"""What the runner itself costs: a study of many patients and arms whose method takes no time.

    python tests/speed/run_scale.py [--patients 576] [--arms 8]

Prints wall time of the whole run without preparation and report, of one step of it (a prediction, its scores), of
finding out that nothing is left, and the largest memory of the run's own process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

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
        )


if __name__ == "__main__":
    main()
