"""Registration of MR to the reference image: rigid, then deformable, by mutual information (SimpleITK).

After Ren et al., arXiv 2402.17454, section 2 (MR to CT, rigid, then deformable). Similarity is mutual information
(Mattes et al., IEEE TMI 2003;22:120); the deformation is a cubic B-spline on a grid of control points (Rueckert et al.,
IEEE TMI 1999;18:712). A transform maps points (LPS, mm) of the reference to points of the other image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from pydantic import Field

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.nifti import to_image
from gtvbench.datasets.base import SourceOptions

#: Images are averaged to at least this spacing first (mm): finer detail costs time and moves the optimum little.
WORKING_MM = 2.0
#: Range of CT that takes part (HU): no table top of -3024 outside the field of view, no metal.
CT_RANGE_HU = (-1000.0, 1000.0)
MR_PERCENTILE = 99.5
BINS = 50
#: Voxels that the metric looks at, at each level; all where there are fewer.
SAMPLES, SPLINE_SAMPLES = 60_000, 20_000
#: CT above this is body (HU); other images above a tenth of their 99.5th percentile.
BODY_HU = -300.0
#: Fewer voxels of the reference's body that the other image covers (share) are too few to register by.
SMALLEST_OVERLAP = 0.02
#: Share of the overlap at the start that a stage must keep.
LEAST_KEPT = 0.7
_FIELD_MM = 4.0


class RegistrationOptions(SourceOptions):
    """Which modalities are registered to the reference, and how.

    `method`: rigid, or rigid and then B-spline. `control-point-mm`: spacing of the B-spline's control points; coarser
    is stiffer. `force`: register although both images share a frame of reference (DICOM), which means that they were
    registered, or taken in one session, already.
    """

    modalities: tuple[Literal["CT", "PET", "T1w", "T2w"], ...] = ("T1w", "T2w")
    method: Literal["rigid", "rigid+bspline"] = "rigid+bspline"
    control_point_mm: float = Field(50.0, ge=10, le=200)
    force: bool = False
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Registered:
    """`transform` from the reference's points to the other image's, and what it did.

    `similarity`: mutual information (nats) by stage: headers, rigid, bspline; of a stage that made it worse, which is
    then left out, too. `displacement_mm`: mean and largest over the body. `folding`: share (0-1) of the body's voxels
    with a Jacobian determinant of 0 or below; `jacobian`: smallest and largest. `notes` are warnings.
    """

    transform: Any
    stages: tuple[str, ...]
    similarity: dict[str, float]
    displacement_mm: tuple[float, float]
    jacobian: tuple[float, float]
    folding: float
    seconds: float
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """JSON-serialisable record of everything but the transform."""
        return {
            "stages": list(self.stages),
            "similarity": {name: value if np.isfinite(value) else None for name, value in self.similarity.items()},
            "displacement_mm": {"mean": self.displacement_mm[0], "largest": self.displacement_mm[1]},
            "jacobian": {"smallest": self.jacobian[0], "largest": self.jacobian[1]},
            "folding": self.folding,
            "seconds": round(self.seconds, 2),
        }

    def as_file(self) -> bytes:
        """The transform as the content of an ITK transform file (.tfm)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "transform.tfm"
            sitk.WriteTransform(self.transform, str(path))
            return path.read_bytes()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads differ from run to run; the metric goes by ITK's global setting."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@_one_thread()
def register(
    fixed: Volume, moving: Volume, options: RegistrationOptions, *, fixed_is_ct: bool, case: str, file: Path
) -> Registered:
    """Register a volume to the reference; the same input gives the same transform (one thread, seeded samples).

    Raises DataError where the images do not overlap, or one of them is constant.
    """
    start = time.perf_counter()
    reference, body = _prepared(fixed, ct=fixed_is_ct), _body(fixed, ct=fixed_is_ct)
    other = _prepared(moving, ct=False)
    for what, image in (("the reference image", reference), ("the image", other)):
        low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
        if low == high:
            raise DataError(f"{what} is constant: nothing to register by", case=case, file=file, remedy="check it")
    rigid = _start(reference, body, other, case, file)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    similarity = {"headers": _similarity(reference, body, other, identity)}
    notes: list[str] = []
    stages: list[str] = []
    found: Any = identity
    overlap = _covered(body, other, rigid)
    _optimise_rigid(reference, body, other, rigid, options.seed)
    similarity["rigid"] = _similarity(reference, body, other, rigid)
    fault = _fault(similarity["rigid"], similarity["headers"], _covered(body, other, rigid), overlap)
    if fault is None:
        found, stages = rigid, ["rigid"]
    else:
        notes.append(f"rigid registration {fault} and was left out")
    if options.method == "rigid+bspline":
        spline = _optimise_bspline(reference, body, other, found, options)
        both = sitk.CompositeTransform(3)
        both.AddTransform(found)
        both.AddTransform(spline)  # the last that is added acts first
        similarity["bspline"] = _similarity(reference, body, other, both)
        before = similarity[stages[-1] if stages else "headers"]
        fault = _fault(similarity["bspline"], before, _covered(body, other, both), _covered(body, other, found))
        if fault is None:
            found, stages = both, [*stages, "bspline"]
        else:
            notes.append(f"deformable registration {fault} and was left out")
    displacement, jacobian, folding = _motion(body, found)
    if folding > 0:
        notes.append(
            f"the deformation folds in {100 * folding:.2g} % of the body (Jacobian determinant down to "
            f"{jacobian[0]:.2f}); a larger 'control-point-mm' is stiffer"
        )
    return Registered(
        found, tuple(stages), similarity, displacement, jacobian, folding, time.perf_counter() - start, tuple(notes)
    )


def _prepared(volume: Volume, ct: bool) -> Any:
    """The image clipped to what takes part, averaged to the working spacing."""
    array = np.asarray(volume.array, np.float32)
    if ct:
        array = np.clip(array, *CT_RANGE_HU)
    else:
        positive = array[array > 0]
        high = float(np.percentile(positive, MR_PERCENTILE)) if positive.size else 1.0
        array = np.clip(array, 0, high)
    image = to_image(np.ascontiguousarray(array), volume.grid)
    factors = [max(1, int(WORKING_MM / step + 1e-6)) for step in image.GetSpacing()]
    return sitk.BinShrink(image, factors)


def _body(volume: Volume, ct: bool) -> Any:
    """Mask of the body on the working grid, with 10 mm around it: the skin is where the contrast is."""
    image = _prepared(volume, ct)
    array = sitk.GetArrayFromImage(image)
    threshold = BODY_HU if ct else 0.1 * float(array.max())
    mask = sitk.GetImageFromArray((array > threshold).astype(np.uint8))
    mask.CopyInformation(image)
    radius = [max(1, round(10.0 / step)) for step in mask.GetSpacing()]
    return sitk.BinaryDilate(mask, radius)


def _method(body: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(body)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingStrategy(method.RANDOM)
    return method


def _sampling(reference: Any, shrinks: tuple[int, ...], samples: int) -> list[float]:
    """Share of voxels at each level of the pyramid."""
    voxels = reference.GetNumberOfPixels()
    return [min(1.0, samples * shrink**3 / voxels) for shrink in shrinks]


def _similarity(reference: Any, body: Any, other: Any, transform: Any) -> float:
    """Mutual information over all voxels of the body that the other image covers."""
    method = _method(body)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInitialTransform(sitk.Transform(transform))
    try:
        return -float(method.MetricEvaluate(reference, other))
    except RuntimeError:
        return float("-inf")  # no voxel in common


def _start(reference: Any, body: Any, other: Any, case: str, file: Path) -> Any:
    """The better of two starts: as the headers say, and centre upon centre."""
    centre = _centre(body)
    plain = sitk.Euler3DTransform()
    plain.SetCenter(centre)
    centred = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            reference, other, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
    )
    covered = [_covered(body, other, transform) for transform in (plain, centred)]
    if covered[0] >= SMALLEST_OVERLAP:
        near = _similarity(reference, body, other, plain)
        if covered[1] < 2 * covered[0] or _similarity(reference, body, other, centred) <= near:
            return plain
    if covered[1] < SMALLEST_OVERLAP:
        raise DataError(
            "the image and the reference image have next to nothing in common",
            case=case,
            file=file,
            remedy="check that both belong to one patient and one part of the body",
        )
    return centred


def _fault(similarity: float, before: float, covered: float, covered_before: float) -> str | None:
    """Why a stage is not believed, or None. Mutual information alone is no judge: it can rise as the overlap goes."""
    if covered < LEAST_KEPT * covered_before:
        return f"lost the overlap ({100 * covered_before:.0f} % of the body before, {100 * covered:.0f} % after)"
    return None if similarity > before else "did not raise the similarity"


def _centre(body: Any) -> tuple[float, ...]:
    where = np.argwhere(sitk.GetArrayViewFromImage(body))
    middle = where.mean(axis=0)[::-1] if len(where) else np.asarray(body.GetSize()) / 2
    return tuple(body.TransformContinuousIndexToPhysicalPoint([float(v) for v in middle]))


def _covered(body: Any, other: Any, transform: Any) -> float:
    """Share of the body that the other image covers."""
    whole = sitk.Image(other.GetSize(), sitk.sitkUInt8) + 1
    whole.CopyInformation(other)
    moved = sitk.Resample(whole, body, transform, sitk.sitkNearestNeighbor, 0)
    inside: npt.NDArray[np.bool_] = sitk.GetArrayViewFromImage(body) > 0
    return float(sitk.GetArrayViewFromImage(moved)[inside].mean()) if inside.any() else 0.0


def _optimise_rigid(reference: Any, body: Any, other: Any, rigid: Any, seed: int) -> None:
    method = _method(body)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-4, numberOfIterations=300, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-9
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetMetricSamplingPercentagePerLevel(_sampling(reference, (4, 2, 1), SAMPLES), seed + 1)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(rigid, inPlace=True)
    method.Execute(reference, other)


def _optimise_bspline(reference: Any, body: Any, other: Any, rigid: Any, options: RegistrationOptions) -> Any:
    extent = [n * step for n, step in zip(reference.GetSize(), reference.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / options.control_point_mm)) for length in extent]
    spline = sitk.BSplineTransformInitializer(reference, mesh, order=3)
    method = _method(body)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=40, maximumNumberOfCorrections=5,
                                maximumNumberOfFunctionEvaluations=100, costFunctionConvergenceFactor=1e7)  # fmt: skip
    method.SetMetricSamplingPercentagePerLevel(_sampling(reference, (2, 1), SPLINE_SAMPLES), options.seed + 1)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, inPlace=True)
    method.Execute(reference, other)
    return spline


def _motion(body: Any, transform: Any) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Displacement (mean, largest; mm), Jacobian determinant (smallest, largest) and share that folds, in the body."""
    factors = [max(1, round(_FIELD_MM / step)) for step in body.GetSpacing()]
    mask = sitk.BinShrink(sitk.Cast(body, sitk.sitkFloat32), factors)
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, mask.GetSize(), mask.GetOrigin(), mask.GetSpacing(), mask.GetDirection()
    )
    inside = sitk.GetArrayViewFromImage(mask) > 0.5
    lengths = np.linalg.norm(sitk.GetArrayFromImage(field), axis=-1)[inside]
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[inside]
    if not lengths.size:
        return (0.0, 0.0), (1.0, 1.0), 0.0
    return (
        (float(lengths.mean()), float(lengths.max())),
        (float(determinant.min()), float(determinant.max())),
        float((determinant <= 0).mean()),
    )
