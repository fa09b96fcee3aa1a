"""Time and peak memory of preparing real-size patients: `python tests/speed/preparation_scale.py [PATIENTS]`.

Writes a synthetic patient of 512 x 512 x 150 with four modalities as NIfTI files (folders source), twice: every
modality on the CT's grid, as registered data are, and each on a grid of its own, as scanners write them. Then prepares
copies of it with one and with two workers, and prints seconds and peak resident memory a patient, and what 576 patients
would take at that rate: an extrapolation, not a measurement.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import write_volume
from gtvbench.bench.prepare.cases import prepare_key
from gtvbench.bench.prepare.crew import readers
from gtvbench.bench.prepare.patients import Task
from gtvbench.bench.processes.worker import Failure
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import Study

CT = Grid((150, 512, 512), (2.0, 0.98, 0.98), (-250.0, -250.0, 0.0))
OWN = {
    "PET": Grid((75, 200, 200), (4.0, 2.6, 2.6), (-258.0, -258.0, 0.0)),
    "T1w": Grid((100, 384, 384), (3.0, 1.2, 1.2), (-230.0, -230.0, 0.0)),
    "T2w": Grid((60, 320, 320), (5.0, 1.4, 1.4), (-224.0, -224.0, 0.0)),
}
COHORT = 576


def volume(modality: str, grid: Grid, seed: int) -> npt.NDArray[np.generic]:
    """Smooth shapes with noise, in the modality's usual type and unit."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.zoom(
        rng.normal(0, 1, (10, 16, 16)), [n / c for n, c in zip(grid.shape, (10, 16, 16), strict=True)], order=1
    )
    noisy = coarse.astype(np.float32) + rng.standard_normal(grid.shape, np.float32) * 0.1
    if modality == "PET":
        return np.abs(noisy) * 2
    return (noisy * 300 if modality == "CT" else np.abs(noisy) * 400).astype(np.int16)


def write_patient(folder: Path, own_grids: bool) -> None:
    """One patient's files."""
    for seed, modality in enumerate(("CT", "PET", "T1w", "T2w")):
        grid = OWN.get(modality, CT) if own_grids else CT
        write_volume(volume(modality, grid, seed), grid, folder / f"{modality}.nii.gz")
    label = np.zeros(CT.shape, np.uint8)
    label[60:80, 200:260, 220:270] = 1
    label[50:65, 300:340, 300:330] = 2
    write_volume(label, CT, folder / "label.nii.gz")


def study(workers: int) -> Study:
    """A study of the folder `patients`."""
    images = {m: f"{m}.nii.gz" for m in ("CT", "PET", "T1w", "T2w")}
    masks = [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}]
    return Study.model_validate(
        {
            "study": "scale",
            "structures": {"GTV-T": 1, "GTV-N": 2},
            "split": {"fractions": {"test": 1.0}},
            "dataset": {"source": "folders", "path": "patients", "images": images, "masks": masks},
            "preparation": {"workers": workers},
        }
    )


def measure(base: Path, workers: int) -> tuple[float, int]:
    """Seconds of preparing every patient, and the largest peak memory (bytes) of a worker."""
    plan, run = study(workers), base / "run"
    cohort = open_cohort(plan, base)
    tasks = [Task(e, prepare_key(e.identity, cohort.modalities, cohort.structures)) for e in cohort.used]
    crew = readers(cohort.job("prepare", plan, base, run), plan.preparation)
    start = time.perf_counter()
    # One worker too is a process of its own here, so that its memory can be told.
    for _, result in crew.side_by_side(tasks):
        if isinstance(result, Failure):
            raise SystemExit(result.message)
    seconds = time.perf_counter() - start
    shutil.rmtree(run)
    return seconds, crew.pool.peak_bytes


def main() -> None:
    """Measure and print."""
    patients = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    for own_grids in (False, True):
        with tempfile.TemporaryDirectory() as name:
            base = Path(name)
            write_patient(base / "patients" / "p00", own_grids)
            for number in range(1, patients):
                shutil.copytree(base / "patients" / "p00", base / "patients" / f"p{number:02d}")
            print("every modality on a grid of its own" if own_grids else "every modality on the CT's grid")
            for workers in (1, 2):
                seconds, peak = measure(base, workers)
                each = seconds / patients
                print(
                    f"  {workers} worker(s): {each:.1f} s a patient, peak {peak / 2**30:.2f} GB a worker; "
                    f"{COHORT} patients (extrapolated): {each * COHORT / 3600:.1f} h",
                    flush=True,
                )


if __name__ == "__main__":
    main()
