"""One DICOM patient of real size: seconds and peak memory of indexing, reading and preparing it.

    python tests/speed/dicom_scale.py [SLICES [SIZE]]

A made-up patient of 512 x 512 x 150 with CT, PET, T1w and T2w on one grid and an RTSTRUCT; each step in a process of
its own (Linux). Not part of the test suite.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

STEPS = {
    "index, first time": "source.index",
    "index, from the cache": "source.index",
    "read": "source.read(source.entries()[0])",
    "read and prepare": "publish_case(Store(Path(sys.argv[1]) / 'run'), 'k', source.read(source.entries()[0]), "
    "source.modalities(), structures)",
}
CODE = """
import sys, time
from pathlib import Path
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.preparation import publish_case
from gtvbench.bench.store import Store
from gtvbench.datasets.dicom.source import DicomOptions, DicomSource
base = Path(sys.argv[1])
structures = structures_from({"GTV-T": 1, "GTV-N": 2})
source = DicomSource(DicomOptions.model_validate({"path": "tree"}), base, structures, 0)
start = time.perf_counter()
%s
seconds = time.perf_counter() - start
# Not getrusage: its peak is inherited from the process that started this one.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) / 1024**2)
"""


def write(folder: Path, slices: int, size: int) -> None:
    """The patient's tree below `folder`."""
    from dicom_tree import write_tree

    from gtvbench.bench.core.cases import SourceCase
    from gtvbench.bench.core.geometry import Grid, Reorientation

    shape = (slices, size, size)
    grid = Grid(shape, (3.0, 0.977, 0.977))
    rng = np.random.default_rng(0)
    plane = rng.normal(0, 100, shape[1:]).astype(np.float32)
    images = {m: np.repeat(np.abs(plane)[None] / k, slices, 0) for m, k in (("PET", 40), ("T1w", 1), ("T2w", 1))}
    images["CT"] = np.repeat(plane[None], slices, 0)
    label = np.zeros(shape, np.uint8)
    y, x = np.ogrid[:size, :size]
    for z in range(slices // 3, slices // 2):
        label[z][(y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 12) ** 2] = 1
        label[z][(y - size / 2) ** 2 + (x - size / 4) ** 2 < (size / 25) ** 2] = 2
    case = SourceCase("one", "one", grid, images, label, grid, Reorientation((0, 1, 2), (False, False, False)))
    write_tree(folder / "tree", [case], {1: "GTVp", 2: "GTVn"}, decoys=False)


def main() -> None:
    """Write the patient, time the steps, print a table."""
    slices, size = (*map(int, sys.argv[1:]), *(150, 512)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        write(Path(place), slices, size)
        files = [path for path in Path(place, "tree").rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        print(f"{len(files)} files, {megabytes:.0f} MB, written in {time.perf_counter() - start:.0f} s")
        for name, step in STEPS.items():
            done = subprocess.run(
                [sys.executable, "-c", CODE % step, place], capture_output=True, text=True, check=True
            )
            seconds, peak = map(float, done.stdout.split())
            print(f"{name:24} {seconds:7.2f} s  {peak:5.2f} GiB")


if __name__ == "__main__":
    main()
