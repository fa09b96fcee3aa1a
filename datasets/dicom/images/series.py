"""A series of image files as a volume: slices sorted by where they lie, refused where they are no regular stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.datasets.dicom.headers.tags import Header, read_header, tag_name
from gtvbench.datasets.dicom.images.slices import COSINE_TOLERANCE, Plane, plane_of, values_of

#: Share of the slice spacing by which a distance between two slices may differ from it (positions are rounded).
GAP_TOLERANCE = 0.05
#: Share of the slice spacing below which two slices lie at the same place.
SAME_PLACE = 0.1
#: Share of the pixel spacing by which the slices' stack may lean sideways from end to end.
LEAN_TOLERANCE = 0.25
#: A tilt of the gantry (degrees) that is more than a rounding.
TILT_DEGREES = 0.5
_SPACING_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Series:
    """A series read: `volume` float32 (z, y, x) in rescaled values (HU, Bq/ml or the PET's units, scanner units), and
    the `headers` of its slices, without pixels, in the volume's order.

    The grid is the files' own: z runs along the normal of the slices (row x column), y down a column, x along a row.
    """

    volume: Volume
    headers: tuple[Header, ...]

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID, empty where there is none."""
        return self.headers[0].text("FrameOfReferenceUID")


@dataclass(frozen=True)
class _Slice:
    header: Header
    plane: Plane
    along: float  # mm along the first slice's normal


def read_series(files: Sequence[Path], case: str | None = None) -> Series:
    """Read the files of one series, in any order, into a volume.

    Raises DataError, naming case, file and remedy, for files of several series, sizes, spacings or orientations; for
    fewer than two slices, slices at the same place, missing slices, uneven distances and a tilted gantry; and as
    `plane_of` and `values_of` do. Every file is read twice, so that no more than one slice's file is held at a time.
    """
    if not files:
        raise DataError("a series without files", case=case, remedy="check the rule that chose the series")
    slices = _sorted([read_header(path, case) for path in files])
    grid = _grid_of(slices)
    first, *others = slices
    start = _values(first)  # before the volume is allocated: a damaged size is found here
    array = np.empty(grid.shape, np.float32)
    array[0] = start
    for z, item in enumerate(others, 1):
        array[z] = _values(item)
    return Series(Volume(array, grid), tuple(item.header for item in slices))


def _values(item: _Slice) -> npt.NDArray[np.float32]:
    return values_of(read_header(item.header.file, item.header.case, pixels=True), item.plane.shape)


def _sorted(headers: Sequence[Header]) -> list[_Slice]:
    """Slices by position along the normal, all of one series and one kind of plane."""
    first = headers[0]
    for keyword, what in (("SeriesInstanceUID", "series"), ("FrameOfReferenceUID", "frames of reference")):
        given = [header.text(keyword) for header in headers]
        if any(given) and not all(given):
            raise headers[given.index("")].error(
                f"{tag_name(keyword)} is missing, though other files of the series have it",
                "the file is truncated or damaged; export or copy it again",
            )
        for header, uid in zip(headers, given, strict=True):
            if uid != given[0]:
                raise header.error(
                    f"files of several {what}: {tag_name(keyword)} differs from {first.file.name}",
                    "give one series at a time",
                )
    planes = [plane_of(header) for header in headers]
    kind = planes[0]
    for header, plane in zip(headers[1:], planes[1:], strict=True):
        for what, told, differ in _COMPARED:
            if differ(kind, plane):
                raise header.error(
                    f"{what} is {told(plane)} here and {told(kind)} in {first.file.name}",
                    "leave out the odd files (a localizer, a reformatted view or another reconstruction)",
                )
    normal = kind.normal
    found = [_Slice(h, p, float(p.position @ normal)) for h, p in zip(headers, planes, strict=True)]
    return sorted(found, key=lambda item: item.along)


def _size(plane: Plane) -> str:
    return f"{plane.shape[0]} x {plane.shape[1]}"


def _spacing(plane: Plane) -> str:
    return f"{plane.spacing[0]:g} x {plane.spacing[1]:g} mm"


def _orientation(plane: Plane) -> str:
    return "\\".join(f"{v:.4g}" for v in (*plane.row, *plane.column))


def _turned(one: Plane, other: Plane) -> bool:
    return bool(
        np.max(np.abs(one.row - other.row)) > COSINE_TOLERANCE
        or np.max(np.abs(one.column - other.column)) > COSINE_TOLERANCE
    )


_COMPARED: tuple[tuple[str, Callable[[Plane], str], Callable[[Plane, Plane], bool]], ...] = (
    ("the size (Rows x Columns)", _size, lambda a, b: a.shape != b.shape),
    (
        tag_name("PixelSpacing"),
        _spacing,
        lambda a, b: max(abs(x - y) for x, y in zip(a.spacing, b.spacing, strict=True)) > _SPACING_TOLERANCE_MM,
    ),
    (tag_name("ImageOrientationPatient"), _orientation, _turned),
)


def _grid_of(slices: Sequence[_Slice]) -> Grid:
    """The grid of sorted slices; raises DataError where they are no regular stack."""
    first = slices[0]
    if len(slices) < 2:
        raise first.header.error(
            "the series has one slice only: no volume, and no distance between slices",
            "give all files of the series (this one may be a localizer)",
        )
    spacing = _slice_spacing(slices)
    _check_tilt(slices)
    plane = first.plane
    direction = np.stack([plane.row, plane.column, plane.normal], axis=1)
    x, y, z = (float(v) for v in first.plane.position)
    return Grid(
        (len(slices), *plane.shape),
        (spacing, *plane.spacing),
        (x, y, z),
        tuple(float(v) for v in direction.ravel()),
    )


def _slice_spacing(slices: Sequence[_Slice]) -> float:
    gaps = np.diff([item.along for item in slices])
    usual = float(np.median(gaps[gaps > 1e-3])) if np.any(gaps > 1e-3) else 0.0
    same = np.flatnonzero(gaps <= SAME_PLACE * usual)
    if same.size:
        one, other = slices[int(same[0])], slices[int(same[0]) + 1]
        raise other.header.error(
            f"{same.size} pair(s) of slices at the same place, the first {one.along:.2f} mm along the normal: "
            f"{one.header.file.name} and this one{_what_differs(one.header, other.header)}",
            "keep one of them: remove copies, or keep the phases, echoes or reconstructions apart",
        )
    off = np.flatnonzero(np.abs(gaps / usual - 1) > GAP_TOLERANCE)
    whole = [i for i in off if gaps[i] / usual > 1.5 and abs(gaps[i] / usual - round(gaps[i] / usual)) < 0.1]
    if whole and len(whole) == off.size:
        missing = sum(round(gaps[i] / usual) - 1 for i in whole)
        low, high = slices[int(whole[0])], slices[int(whole[0]) + 1]
        raise high.header.error(
            f"{missing} slice(s) missing: {usual:.3g} mm lie between the others, {gaps[whole[0]]:.3g} mm between "
            f"{low.header.file.name} and this one",
            "complete the series (an export or a copy was cut short), or leave the patient out",
        )
    if off.size:
        worst = int(off[np.argmax(np.abs(gaps[off] - usual))])
        raise slices[worst + 1].header.error(
            f"distances between slices are mixed: {gaps.min():.3g} to {gaps.max():.3g} mm, {usual:.3g} mm mostly; "
            f"{gaps[worst]:.3g} mm between {slices[worst].header.file.name} and this one",
            "choose a series of even spacing, or resample this one before; missing slices look like this too",
        )
    return float((slices[-1].along - slices[0].along) / (len(slices) - 1))


def _what_differs(one: Header, other: Header) -> str:
    """Tags that tell phases, echoes and frames at one place apart, in words."""
    keywords = ("InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "TriggerTime")
    differing = [tag_name(k) for k in keywords if one.text(k) != other.text(k)]
    return f"; they differ in {', '.join(differing)}" if differing else ""


def _check_tilt(slices: Sequence[_Slice]) -> None:
    first, last = slices[0], slices[-1]
    normal = first.plane.normal
    lean = [_sideways(item.plane.position - first.plane.position, normal) for item in slices]
    if max(lean) > LEAN_TOLERANCE * min(first.plane.spacing):
        angle = math.degrees(math.atan2(lean[-1], last.along - first.along))
        raise last.header.error(
            f"the slices are not stacked along their normal: they lean by {angle:.1f} degrees, {max(lean):.1f} mm "
            "sideways (a tilted gantry, or slices shifted against each other)",
            "straighten the series first (dcm2niix does), or leave the patient out",
        )
    tilt = first.header.number("GantryDetectorTilt") or 0.0
    if abs(tilt) > TILT_DEGREES and float(np.max(np.abs(normal))) > math.cos(math.radians(TILT_DEGREES)):
        raise first.header.error(
            f"{tag_name('GantryDetectorTilt')} is {tilt:g} degrees, but the slices' orientation shows no tilt: one of "
            "the two is wrong",
            f"if the slices were straightened after the scan, set {tag_name('GantryDetectorTilt')} to 0 in the files",
        )


def _sideways(step: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(step - normal * float(step @ normal)))
