"""RTSTRUCT: regions of interest by name, and their contours as a mask on a grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.geometry import Grid
from gtvbench.datasets.dicom.headers.tags import FARTHEST_MM, Header, read_header, tag_name
from gtvbench.datasets.dicom.structures.rasterise import even_odd

#: Geometric types that enclose an area (PS3.3 C.8.8.6.3); XOR states what the even-odd rule does anyway.
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
#: Share of the slice spacing by which the points of one contour may leave a plane parallel to the slices.
PLANAR_TOLERANCE = 0.1
#: Share of the slice spacing between a slice's centre and a contour's plane up to which the contour is the slice's.
SLICE_TOLERANCE = 0.5
#: Positions are written with limited digits; a plane this share of a slice beyond the half still counts as half.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Roi:
    """A region of interest: its `number` and `name`, its frame of reference's UID, and how many contours it has."""

    number: str
    name: str
    frame_of_reference: str
    contours: int


@dataclass(frozen=True)
class StructureSet:
    """An RTSTRUCT file: its regions in the file's order; contours are read when a region is asked for."""

    header: Header
    rois: tuple[Roi, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions, in the file's order."""
        return tuple(roi.name for roi in self.rois)

    def roi(self, name: str) -> Roi:
        """The region of a name; raises DataError, listing the names there are, where none or several bear it, and where
        another has its number, so that the file does not tell whose the contours are."""
        found = [roi for roi in self.rois if roi.name == name]
        if len(found) != 1:
            told = f"{len(found)} structures are named {name!r}" if found else f"no structure is named {name!r}"
            raise self.header.error(told, f"the file has {', '.join(self.names)}")
        sharing = [roi.name for roi in self.rois if roi.number == found[0].number and roi is not found[0]]
        if sharing:
            raise self.header.error(
                f"structure {name!r} and {', '.join(map(repr, sharing))} have one {tag_name('ROINumber')}",
                "the file is damaged; export the structure set again",
            )
        return found[0]


@dataclass(frozen=True)
class Mask:
    """`array`, bool (z, y, x), and `notes` on contours that were left out or did not reach every slice."""

    array: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def read_structures(path: Path, case: str | None = None) -> StructureSet:
    """Read an RTSTRUCT file; raises DataError where it is none, is damaged, or lists no structure."""
    header = read_header(path, case)
    if header.text("Modality") != "RTSTRUCT":
        raise header.error(
            f"{tag_name('Modality')} is {header.text('Modality') or 'missing'}, not RTSTRUCT", "check the path"
        )
    contours: Counter[str] = Counter()
    for item in map(header.within, header.items("ROIContourSequence")):
        contours[item.text("ReferencedROINumber")] += len(item.items("ContourSequence"))
    rois = []
    for item in map(header.within, header.items("StructureSetROISequence")):
        number = item.text("ROINumber")
        frame = item.text("ReferencedFrameOfReferenceUID")
        rois.append(Roi(number, item.text("ROIName") or f"ROI {number}", frame, contours[number]))
    if not rois:
        raise header.error(
            f"the file lists no structure ({tag_name('StructureSetROISequence')} is empty)",
            "export the structure set again",
        )
    return StructureSet(header, tuple(rois))


def roi_mask(structures: StructureSet, name: str, grid: Grid, frame_of_reference: str = "") -> Mask:
    """The mask of a region on a grid, by the even-odd rule at voxel centres.

    Contours of one plane are taken together, so that inner ones are holes. A slice takes the plane nearest to its
    centre, if that is within half a slice (of two equally near, the lower). So a contour between slices goes to the
    nearer, or to both from halfway; one beyond the grid's ends by more than half a slice is left out with a note; and
    slices that no plane comes near to stay empty (noted where they lie between filled ones; nothing is interpolated).

    `frame_of_reference`: the image's UID; where both are known they must be the same. Raises DataError for a region
    without closed contours, contours that are open, damaged or not parallel to the slices, and a region of which
    nothing lies in the grid's slices.
    """
    roi = structures.roi(name)
    header = structures.header
    if roi.frame_of_reference and frame_of_reference and roi.frame_of_reference != frame_of_reference:
        raise header.error(
            f"structure {name!r} was drawn in another frame of reference than the image's "
            f"({tag_name('ReferencedFrameOfReferenceUID')} differs)",
            "take the structure set of this image, or the image it was drawn on",
        )
    contours, notes = _contours(header, roi)
    depths = np.asarray([_depth(header, roi, _indices(c, grid)) for c in contours])
    planes = _planes(depths)
    array = np.zeros(grid.shape, bool)
    used = set()
    for z in range(grid.shape[0]):
        nearest = min(range(len(planes)), key=lambda i: (abs(planes[i].depth - z), planes[i].depth))
        if abs(planes[nearest].depth - z) > SLICE_TOLERANCE + _ROUNDING:
            continue
        used.add(nearest)
        array[z] = even_odd([_indices(contours[i], grid)[:, :2] for i in planes[nearest].contours], grid.shape[1:])
    if not used:
        low, high = min(p.depth for p in planes), max(p.depth for p in planes)
        raise header.error(
            f"structure {name!r} lies outside the image: its contours are at slices {low:.1f} to {high:.1f}, the image "
            f"has 0 to {grid.shape[0] - 1}",
            "check that the structure set belongs to this image, and that the image is whole",
        )
    return Mask(array, tuple(notes + _notes(array, [p.depth for p in planes], used)))


@dataclass(frozen=True)
class _Plane:
    depth: float  # slice index, continuous
    contours: tuple[int, ...]


def _planes(depths: npt.NDArray[np.float64]) -> list[_Plane]:
    """Contours grouped by plane: those within PLANAR_TOLERANCE of the first of their group."""
    order = np.argsort(depths, kind="stable")
    groups: list[list[int]] = []
    for index in map(int, order):
        if groups and depths[index] - depths[groups[-1][0]] <= PLANAR_TOLERANCE:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_Plane(float(np.mean(depths[group])), tuple(group)) for group in groups]


def _notes(array: npt.NDArray[np.bool_], depths: Sequence[float], used: set[int]) -> list[str]:
    notes = []
    last = array.shape[0] - 1
    beyond = sum(not -SLICE_TOLERANCE - _ROUNDING <= depth <= last + SLICE_TOLERANCE + _ROUNDING for depth in depths)
    if beyond:
        notes.append(f"contours of {beyond} plane(s) lie beyond the image's slices and were left out")
    if len(depths) - beyond > len(used):
        notes.append(
            f"contours of {len(depths) - beyond - len(used)} plane(s) between slices were passed over for nearer ones"
        )
    filled = np.flatnonzero(array.any(axis=(1, 2)))
    if not filled.size:
        notes.append("the contours enclose no voxel's centre: the mask is empty")
    elif (gaps := int(filled[-1] - filled[0] + 1 - filled.size)) > 0:
        notes.append(f"{gaps} slice(s) without a contour lie between those that have one; they stay empty")
    return notes


def _contours(header: Header, roi: Roi) -> tuple[list[npt.NDArray[np.float64]], list[str]]:
    """Closed contours (n, 3) in the patient's coordinates (x, y, z; mm), and notes on what was left out."""
    found: list[npt.NDArray[np.float64]] = []
    seen: set[bytes] = set()
    points = copies = 0
    for item in _items_of(header, roi):
        kind = item.text("ContourGeometricType").upper()
        contour = _points_of(item, roi)
        if kind == "POINT":
            points += 1
            continue
        if kind not in CLOSED:
            raise header.error(
                f"structure {roi.name!r} has a contour that encloses no area: {tag_name('ContourGeometricType')} is "
                f"{kind or 'missing'}",
                "close the contour in the planning system, or take the structure out of the study",
            )
        if len(contour) < 3:
            points += 1
            continue
        if (content := contour.tobytes()) in seen:  # by the even-odd rule a contour and its copy would be nothing
            copies += 1
            continue
        seen.add(content)
        found.append(contour)
    if not found:
        raise header.error(
            f"structure {roi.name!r} has no closed contour" + (f", only {points} point(s)" if points else ""),
            "draw it, take another structure, or say that the patient has none of it",
        )
    notes = [f"{points} contour(s) of fewer than three points were left out"] if points else []
    return found, notes + ([f"{copies} contour(s) written twice were taken once"] if copies else [])


def _items_of(header: Header, roi: Roi) -> list[Header]:
    entries = [header.within(item) for item in header.items("ROIContourSequence")]
    mine = [entry for entry in entries if entry.text("ReferencedROINumber") == roi.number]
    return [header.within(item) for entry in mine for item in entry.items("ContourSequence")]


def _points_of(item: Header, roi: Roi) -> npt.NDArray[np.float64]:
    values = item.numbers("ContourData") or ()
    if not values or len(values) % 3:
        raise item.error(
            f"structure {roi.name!r}: {tag_name('ContourData')} has {len(values)} numbers, not three a point",
            "the file is damaged; export the structure set again",
        )
    if max(map(abs, values)) > FARTHEST_MM:
        raise item.error(
            f"structure {roi.name!r}: {tag_name('ContourData')} has a coordinate of {max(map(abs, values)):.3g} mm",
            "the file is damaged; export the structure set again",
        )
    stated = item.number("NumberOfContourPoints")
    if stated is not None and stated != len(values) // 3:
        raise item.error(
            f"structure {roi.name!r}: {tag_name('NumberOfContourPoints')} is {stated:g}, but {len(values) // 3} "
            "are there",
            "the file is truncated or damaged; export the structure set again",
        )
    return np.asarray(values, float).reshape(-1, 3)


def _indices(points: npt.NDArray[np.float64], grid: Grid) -> npt.NDArray[np.float64]:
    """Continuous voxel indices (n, 3) in the order x, y, z of points (x, y, z) in mm."""
    steps = (points - np.asarray(grid.origin)) @ np.linalg.inv(grid.matrix).T
    found: npt.NDArray[np.float64] = steps / np.asarray(grid.spacing[::-1])
    return found


def _depth(header: Header, roi: Roi, indices: npt.NDArray[np.float64]) -> float:
    """The slice index of a contour's plane."""
    low, high = float(indices[:, 2].min()), float(indices[:, 2].max())
    if not math.isfinite(high - low) or high - low > PLANAR_TOLERANCE:
        raise header.error(
            f"structure {roi.name!r} has a contour that is not parallel to the image's slices: it reaches from slice "
            f"{low:.2f} to {high:.2f}",
            "contours drawn on sagittal, coronal or oblique views, or on an image of another orientation, are not "
            "supported; convert the structure to contours on this image's slices",
        )
    return (low + high) / 2
