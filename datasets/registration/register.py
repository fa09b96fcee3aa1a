"""Registration of MR to the reference image: rigid, then a B-spline; by local structure, or by mutual information.

After Ren et al., arXiv 2402.17454, section 2 (MR to CT, rigid, then deformable). A transform maps points (LPS, mm) of
the reference to points of the other image. A stage is kept only where mutual information rises, whatever it was found
by: what is optimised is no judge of itself.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name the field uses
from pydantic import Field

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.files.nifti import to_image
from gtvbench.datasets.base import SourceOptions
from gtvbench.datasets.registration.information import (
    deformable_by_information,
    mutual_information,
    one_thread,
    rigid_by_information,
)
from gtvbench.datasets.registration.structure import STIFFNESS, deformable_by_structure, rigid_by_structure

#: Images are averaged to at least this spacing first (mm): finer detail costs time and moves the optimum little.
WORKING_MM = 2.0
#: Range of CT that takes part (HU), by what images are compared by: soft tissue has the structure, and MR shows it.
CT_RANGE_HU = {"structure": (-300.0, 400.0), "mutual-information": (-1000.0, 1000.0)}
PERCENTILE = 99.5
#: CT above this is body (HU); other images above a tenth of their 99.5th percentile.
BODY_HU = -300.0
#: Fewer voxels of the reference's body that the other image covers (share) are too few to register by.
SMALLEST_OVERLAP = 0.02
#: Along each axis: smoothing needs as many.
FEWEST_VOXELS = 4
#: Share of the overlap at the start that a stage must keep.
LEAST_KEPT = 0.7
_FIELD_MM = 4.0


class RegistrationOptions(SourceOptions):
    """Which images are registered to the reference image, and how (registration.md)."""

    modalities: tuple[Literal["CT", "PET", "T1w", "T2w"], ...] = ("T1w", "T2w")
    """Modalities that are registered."""
    by: Literal["structure", "mutual-information"] = "structure"
    """What is compared. `structure`: descriptors of local structure (MIND), reliable for MR to CT.
    `mutual-information`: grey values of the whole image."""
    method: Literal["rigid", "rigid+bspline"] = "rigid+bspline"
    """`rigid`, or `rigid+bspline`: a smooth deformation as well."""
    control_point_mm: float = Field(50.0, ge=10, le=200)
    """Distance between the B-spline's control points. Coarser is stiffer."""
    force: bool = False
    """Register although both images share a frame of reference (DICOM), which says that they lie right already."""
    seed: int = Field(0, ge=0)
    """Of the voxels that are looked at."""


@dataclass(frozen=True)
class Registered:
    """`transform` from the reference's points to the other image's, and what it did.

    `similarity`: mutual information (nats) by stage: headers, rigid, bspline; also of a stage that was left out.
    `displacement_mm`: mean and largest over the body. `folding`: share (0-1) of the body's voxels with a Jacobian
    determinant of 0 or below; `jacobian`: smallest and largest. `notes` are warnings.
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


@dataclass(frozen=True)
class _Pair:
    """Both images on their working grids, clipped to what takes part, and masks of the body in each."""

    reference: Any
    body: Any
    other: Any
    other_body: Any

    def information(self, transform: Any) -> float:
        return mutual_information(self.reference, self.body, self.other, transform)

    def covered(self, transform: Any) -> float:
        """Share of the reference's body that the other image covers."""
        whole = sitk.Image(self.other.GetSize(), sitk.sitkUInt8) + 1
        whole.CopyInformation(self.other)
        moved = sitk.Resample(whole, self.body, transform, sitk.sitkNearestNeighbor, 0)
        inside: npt.NDArray[np.bool_] = sitk.GetArrayViewFromImage(self.body) > 0
        return float(sitk.GetArrayViewFromImage(moved)[inside].mean()) if inside.any() else 0.0


_SEARCHES: ContextVar[bool] = ContextVar("searches", default=True)


@contextmanager
def without_search() -> Iterator[None]:
    """Within it `register` looks whether images can be registered, and gives back where the search would begin."""
    before = _SEARCHES.set(False)
    try:
        yield
    finally:
        _SEARCHES.reset(before)


@one_thread()
def register(
    fixed: Volume, moving: Volume, options: RegistrationOptions, *, fixed_is_ct: bool, case: str, file: Path,
    moving_is_ct: bool = False,
) -> Registered:  # fmt: skip
    """Register a volume to the reference; the same input gives the same transform (one thread, seeded samples).

    Raises DataError where the images do not overlap, or one of them is constant or has NaN.
    """
    begun = time.perf_counter()
    for what, volume in (("the reference image", fixed), ("the image", moving)):
        if not all(bool(np.isfinite(plane).all()) for plane in volume.array):
            raise DataError(f"{what} has NaN or infinite voxels", case=case, file=file, remedy="repair it")
    pair = _pair(fixed, moving, fixed_is_ct, moving_is_ct, options.by)
    for what, image in (("the reference image", pair.reference), ("the image", pair.other)):
        low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
        if low == high:
            raise DataError(f"{what} is constant: nothing to register by", case=case, file=file, remedy="check it")
    found: Any = sitk.Transform(3, sitk.sitkIdentity)
    if min(*pair.reference.GetSize(), *pair.other.GetSize()) < FEWEST_VOXELS:
        note = f"fewer than {FEWEST_VOXELS} slices are too few to register by; left as the headers say"
        return Registered(found, (), {}, (0.0, 0.0), (1.0, 1.0), 0.0, time.perf_counter() - begun, (note,))
    similarity = {"headers": pair.information(found)}
    notes: list[str] = []
    stages: list[str] = []
    start = _start(pair, case, file)
    if start.GetTranslation() != (0.0, 0.0, 0.0):
        notes.append("the headers place it far off: registered from centre upon centre")
    if not _SEARCHES.get():
        return Registered(start, ("start",), similarity, (0.0, 0.0), (1.0, 1.0), 0.0, 0.0, tuple(notes))
    rigid = _rigid(pair, start, options)
    similarity["rigid"] = pair.information(rigid)
    fault = _fault(similarity["rigid"], similarity["headers"], pair.covered(rigid), pair.covered(start))
    if fault is None:
        found, stages = rigid, ["rigid"]
    else:
        notes.append(f"rigid registration {fault} and was left out")
    if options.method == "rigid+bspline" and pair.covered(found) >= SMALLEST_OVERLAP:
        before, overlap = similarity["rigid" if stages else "headers"], pair.covered(found)
        for both in _deformations(pair, found, options):
            similarity["bspline"] = pair.information(both)
            fault = _fault(similarity["bspline"], before, pair.covered(both), overlap)
            if fault is None:
                found, stages = both, [*stages, "bspline"]
                break
        else:
            notes.append(f"deformable registration {fault} and was left out")
    displacement, jacobian, folding = _motion(pair.body, found)
    if folding > 0:
        notes.append(
            f"the deformation folds in {100 * folding:.2g} % of the body (Jacobian determinant down to "
            f"{jacobian[0]:.2f}); a larger 'control-point-mm' is stiffer"
        )
    return Registered(
        found, tuple(stages), similarity, displacement, jacobian, folding, time.perf_counter() - begun, tuple(notes)
    )


def _rigid(pair: _Pair, start: Any, options: RegistrationOptions) -> Any:
    """The rigid transform; the start itself where the search lost its way."""
    by = rigid_by_structure if options.by == "structure" else rigid_by_information
    try:
        return by(pair.reference, pair.other, pair.other_body, start, options.seed)
    except RuntimeError:  # ITK's, where the search has left every voxel in common behind
        return start


def _deformations(pair: _Pair, rigid: Any, options: RegistrationOptions) -> Iterator[Any]:
    """The rigid transform with a B-spline before it; then stiffer ones, for where that is not believed."""
    args = (pair.reference, pair.body, pair.other, rigid, options.control_point_mm, options.seed)
    by_structure = [partial(deformable_by_structure, *args, stiffness) for stiffness in STIFFNESS]
    for search in by_structure if options.by == "structure" else [partial(deformable_by_information, *args)]:
        both = sitk.CompositeTransform(3)
        both.AddTransform(rigid)
        with suppress(RuntimeError):
            both.AddTransform(search())  # the last that is added acts first
        yield both


def _pair(fixed: Volume, moving: Volume, fixed_is_ct: bool, moving_is_ct: bool, by: str) -> _Pair:
    reference, body = _prepared(fixed, fixed_is_ct, by)
    other, other_body = _prepared(moving, moving_is_ct, by)
    return _Pair(reference, body, other, other_body)


def _prepared(volume: Volume, ct: bool, by: str) -> tuple[Any, Any]:
    """The image clipped to what takes part, averaged to the working spacing; and the mask of its body there.

    The mask has 10 mm around the body: the skin is where the contrast is.
    """
    array = np.asarray(volume.array, np.float32)
    if ct:
        array = np.clip(array, *CT_RANGE_HU[by])
    else:
        positive = array[array > 0]
        high = float(np.percentile(positive, PERCENTILE)) if positive.size else 1.0
        array = np.clip(array, 0, high)
    image = to_image(np.ascontiguousarray(array), volume.grid)
    image = sitk.BinShrink(image, [max(1, int(WORKING_MM / step + 1e-6)) for step in image.GetSpacing()])
    small = sitk.GetArrayViewFromImage(image)
    mask = sitk.GetImageFromArray((small > (BODY_HU if ct else 0.1 * float(small.max()))).astype(np.uint8))
    mask.CopyInformation(image)
    return image, sitk.BinaryDilate(mask, [max(1, round(10.0 / step)) for step in mask.GetSpacing()])


def _start(pair: _Pair, case: str, file: Path) -> Any:
    """The better of two starts: as the headers say, and centre upon centre."""
    centre = _centre(pair.body)
    plain = sitk.Euler3DTransform()
    plain.SetCenter(centre)
    centred = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            pair.reference, pair.other, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
    )
    covered = [pair.covered(transform) for transform in (plain, centred)]
    if covered[0] >= SMALLEST_OVERLAP:
        near = pair.information(plain)
        if covered[1] < 2 * covered[0] or pair.information(centred) <= near:
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
    if similarity > before:
        return None
    return f"did not raise mutual information ({before:.3f} before, {similarity:.3f} after)"


def _centre(body: Any) -> tuple[float, ...]:
    where = np.argwhere(sitk.GetArrayViewFromImage(body))
    middle = where.mean(axis=0)[::-1] if len(where) else np.asarray(body.GetSize()) / 2
    return tuple(body.TransformContinuousIndexToPhysicalPoint([float(v) for v in middle]))


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
