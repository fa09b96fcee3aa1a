"""Registration on real patients: known motions of the T1w of soft-tissue sarcomas are found again; errors in mm.

    python tests/speed/registration_accuracy.py FOLDER_OF_STS [PATIENTS]

The alignment of the data is taken for true. The MR's grid is moved (its voxels are not interpolated) by a rigid motion
of up to 10 degrees and 15 mm; with a deformation it is resampled first, control points 60 mm apart moved by up to 8 mm.
Errors are over points of the body that the MR covers. Not part of the test suite.
"""

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.nifti import grid_of, read_volume, to_image
from gtvbench.datasets.registration import RegistrationOptions, register


def motion(image: sitk.Image, seed: int, deformed: bool) -> tuple[sitk.CompositeTransform, Volume]:
    """From points of the CT to points of the moved MR, and that MR."""
    rng = np.random.default_rng(seed)
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    rigid.SetRotation(*np.deg2rad(rng.uniform(-10, 10, 3)))
    rigid.SetTranslation(tuple(rng.uniform(-15, 15, 3)))
    both = sitk.CompositeTransform(3)
    both.AddTransform(rigid)
    if deformed:
        mesh = [max(1, round(n * s / 60)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
        spline = sitk.BSplineTransformInitializer(image, mesh, 3)
        spline.SetParameters(tuple(rng.uniform(-8, 8, len(spline.GetParameters()))))
        both.AddTransform(spline)
        field = sitk.TransformToDisplacementField(
            spline, sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
        )
        back = sitk.DisplacementFieldTransform(sitk.InvertDisplacementField(field, 80, 0.1, 0.01))
        image = sitk.Resample(image, image, back, sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    # The rigid part moves the grid, so that nothing is interpolated and the field of view moves with what it shows.
    place = sitk.Image(image)
    place.SetOrigin(rigid.TransformPoint(image.GetOrigin()))
    turned = np.asarray(rigid.GetMatrix()).reshape(3, 3) @ np.asarray(image.GetDirection()).reshape(3, 3)
    place.SetDirection(tuple(turned.ravel()))
    return both, Volume(sitk.GetArrayFromImage(place), grid_of(place))


def main() -> None:
    """Print a row a patient and kind of motion."""
    root, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print("patient   motion        before  rigid   final mean/95 %/largest (mm)   folds   s")
    for seed, folder in enumerate(sorted(path for path in root.iterdir() if path.is_dir())[:count]):
        ct, mr = read_volume(folder / "CT_image.nii.gz"), read_volume(folder / "MR_T1_image.nii.gz")
        image = sitk.Cast(to_image(mr.array, mr.grid), sitk.sitkFloat32)
        where = np.argwhere(mr.array > 0.1 * np.percentile(mr.array, 99.5))
        chosen = where[np.random.default_rng(0).choice(len(where), 1000)]
        points = [tuple(float(v) for v in mr.grid.world(index)) for index in chosen]
        for deformed in (False, True) if len(sys.argv) < 4 else (False,):
            truth, volume = motion(image, seed, deformed)
            options = RegistrationOptions(method="rigid+bspline" if deformed else "rigid")
            found = register(ct, volume, options, fixed_is_ct=True, case=folder.name, file=folder)
            goal = np.asarray([truth.TransformPoint(p) for p in points])
            errors = np.linalg.norm([np.subtract(found.transform.TransformPoint(p), g) for p, g in
                                     zip(points, goal, strict=True)], axis=1)  # fmt: skip
            before = np.linalg.norm(goal - np.asarray(points), axis=1).mean()
            rigid = found.transform.GetNthTransform(0) if "bspline" in found.stages else found.transform
            first = np.linalg.norm([np.subtract(rigid.TransformPoint(p), g) for p, g in
                                    zip(points, goal, strict=True)], axis=1).mean()  # fmt: skip
            print(f"{folder.name}  {'deformed' if deformed else 'rigid':10} {before:8.1f} {first:7.2f} "
                  f"{errors.mean():9.2f} / {np.percentile(errors, 95):.2f} / {errors.max():.2f}"
                  f"   {100 * found.folding:6.2f} % {found.seconds:6.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
