"""Images of patients moved and deformed by known amounts, for registration to find again."""

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.files.nifti import grid_of

HU = [-1024, -300, -200, -110, -60, -10, 20, 50, 90, 200, 400, 3000]
T1W = [0, 0, 300, 900, 850, 400, 330, 300, 280, 250, 60, 40]


def pseudo_t1w(ct: sitk.Image, mr: sitk.Image, seed: int) -> sitk.Image:
    """The CT in the contrast of a T1w on the grid of the MR."""
    rng = np.random.default_rng(seed)
    hu = sitk.GetArrayFromImage(sitk.Resample(ct, mr, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, -1000.0))
    bias = 1 + 0.15 * ndimage.zoom(rng.normal(size=(4, 4, 4)), [n / 4 for n in hu.shape], order=3)
    values = np.abs(np.interp(hu, HU, T1W) * bias + rng.normal(0, 20, hu.shape))
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.CopyInformation(mr)
    return image


def motion(image: sitk.Image, seed: int, deformed: bool) -> tuple[sitk.Transform, Volume]:
    """From points of the reference to points of the moved image, and that image."""
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
    return both, volume_of(place)


def volume_of(image: sitk.Image) -> Volume:
    return Volume(sitk.GetArrayFromImage(image), grid_of(image))
