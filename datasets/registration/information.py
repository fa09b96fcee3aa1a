"""Rigid and B-spline registration by mutual information, with SimpleITK, as the study did it.

Similarity is mutual information (Mattes et al., IEEE TMI 2003;22:120); the deformation is a cubic B-spline on a grid of
control points (Rueckert et al., IEEE TMI 1999;18:712).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import SimpleITK as sitk  # noqa: N813 - the name the field uses

BINS = 50
#: Voxels that the metric looks at, at each level; all where there are fewer.
SAMPLES, SPLINE_SAMPLES = 60_000, 20_000


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of several threads differ from run to run; the metric goes by ITK's global setting."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def mutual_information(reference: Any, body: Any, other: Any, transform: Any) -> float:
    """Mutual information (nats) over all voxels of the body that the other image covers; -inf where it covers none."""
    method = _method(body)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInitialTransform(sitk.Transform(transform))
    try:
        return -float(method.MetricEvaluate(reference, other))
    except RuntimeError:
        return float("-inf")  # no voxel in common


def rigid_by_information(reference: Any, other: Any, other_body: Any, start: Any, seed: int) -> Any:
    """Rigid transform from the reference's points to the other image's.

    Voxels of the image that is registered are looked at, within the mask `other_body`: it is the smaller one as a rule,
    so that nearly all of them stay covered and mutual information cannot rise because others came into view.
    """
    back = sitk.Euler3DTransform(start.GetInverse())
    method = _method(other_body)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-4, numberOfIterations=300, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-9
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetMetricSamplingPercentagePerLevel(_sampling(other, (4, 2, 1), SAMPLES), seed + 1)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(back, inPlace=True)
    method.Execute(other, reference)
    return sitk.Euler3DTransform(back.GetInverse())


def deformable_by_information(
    reference: Any, body: Any, other: Any, rigid: Any, control_point_mm: float, seed: int
) -> Any:
    """B-spline transform of the reference's points that acts before `rigid`."""
    extent = [n * step for n, step in zip(reference.GetSize(), reference.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / control_point_mm)) for length in extent]
    spline = sitk.BSplineTransformInitializer(reference, mesh, order=3)
    method = _method(body)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=40, maximumNumberOfCorrections=5,
                                maximumNumberOfFunctionEvaluations=100, costFunctionConvergenceFactor=1e7)  # fmt: skip
    method.SetMetricSamplingPercentagePerLevel(_sampling(reference, (2, 1), SPLINE_SAMPLES), seed + 1)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, inPlace=True)
    method.Execute(reference, other)
    return spline


def _method(mask: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingStrategy(method.RANDOM)
    return method


def _sampling(image: Any, shrinks: tuple[int, ...], samples: int) -> list[float]:
    """Share of voxels at each level of the pyramid."""
    voxels = image.GetNumberOfPixels()
    return [min(1.0, samples * shrink**3 / voxels) for shrink in shrinks]
