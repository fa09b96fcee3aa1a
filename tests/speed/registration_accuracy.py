"""Registration on real patients: known motions are found again; errors in mm, per patient and as medians.

    python tests/speed/registration_accuracy.py FOLDER_OF_STS [--by structure] [--patients 24]

Two yardsticks, because the alignment of real data is not known exactly (that of the soft-tissue sarcomas is off by up
to two centimetres in some patients: bone and skin show it).

- exact: the CT in the contrast of a T1w (tissue by tissue, with noise and a bias field) on the field of view of the
  patient's MR, moved by up to 10 degrees and 15 mm about each axis, and deformed, control points 60 mm apart by up to
  8 mm. The truth is known.
- real: the T1w itself. It is registered as it lies and after the same motions; what is left is the distance between the
  two results, a known motion apart. "off" is how far the result takes the target's centre from the data's alignment,
  "information" what mutual information the images have as they lie and registered, "kept" the number of stages kept.

Not part of the test suite.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.files.nifti import read_volume, to_image
from gtvbench.datasets.registration.register import Registered, RegistrationOptions, register

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from known_motions import motion, pseudo_t1w, volume_of


def through(transform: sitk.Transform, points: list[tuple[float, ...]]) -> np.ndarray:
    return np.asarray([transform.TransformPoint(point) for point in points])


def patient(folder: Path, seed: int, by: str) -> dict[str, float]:
    """Mean errors over 500 points of the body that the MR covers, by yardstick and motion."""
    ct, mr = read_volume(folder / "CT_image.nii.gz"), read_volume(folder / "MR_T1_image.nii.gz")
    mask = read_volume(folder / "MR_T1_mask.nii.gz")
    image, reference = (sitk.Cast(to_image(v.array, v.grid), sitk.sitkFloat32) for v in (mr, ct))
    where = np.argwhere(mr.array > 0.1 * np.percentile(mr.array, 99.5))
    chosen = where[np.random.default_rng(0).choice(len(where), 500)]
    points = [tuple(float(v) for v in mr.grid.world(index)) for index in chosen]
    centre = tuple(float(v) for v in mask.grid.world(np.argwhere(mask.array > 0).mean(axis=0)))

    def run(volume: Volume, deformed: bool) -> Registered:
        options = RegistrationOptions(method="rigid+bspline" if deformed else "rigid", by=by)
        return register(ct, volume, options, fixed_is_ct=True, case=folder.name, file=folder)

    def left(found: sitk.Transform, goal: np.ndarray) -> float:
        return float(np.linalg.norm(through(found, points) - goal, axis=1).mean())

    row: dict[str, float] = {}
    for what, source in (("exact", pseudo_t1w(reference, image, seed)), ("real", image)):
        for deformed in (False, True):
            name = f"{what} {'deformed' if deformed else 'rigid'}"
            truth, volume = motion(source, seed, deformed)
            found = run(volume, deformed)
            if what == "exact":
                goal = through(truth, points)
                row.setdefault("before", float(np.linalg.norm(goal - np.asarray(points), axis=1).mean()))
                if deformed:
                    rigid = found.transform.GetNthTransform(0) if "bspline" in found.stages else found.transform
                    row["exact deformed, rigid alone"] = left(rigid, goal)
            else:
                lying = run(volume_of(image), deformed)
                goal = through(truth, [tuple(p) for p in through(lying.transform, points)])
                if not deformed:
                    row["off"] = float(np.linalg.norm(np.subtract(lying.transform.TransformPoint(centre), centre)))
                row |= {f"information, {stage}": value for stage, value in lying.similarity.items()}
                row[f"{name} kept"] = float(len(lying.stages))
            row[name] = left(found.transform, goal)
            row[f"{name} folds %"], row[f"{name} s"] = 100 * found.folding, found.seconds
    return row


def main() -> None:
    """Print a row a patient, and medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", default="structure", choices=["structure", "mutual-information"])
    parser.add_argument("--patients", type=int, default=24)
    given = parser.parse_args()
    rows = []
    for seed, folder in enumerate(sorted(p for p in given.folder.iterdir() if p.is_dir())[: given.patients]):
        rows.append(patient(folder, seed, given.by))
        print(folder.name, "  ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:32} median {np.median(values):6.2f}   largest {max(values):6.2f}")


if __name__ == "__main__":
    main()
