"""DICOM SEG: segments by name, and each as a mask on the grid of an image. highdicom places the frames."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid, Volume, canonical
from gtvbench.datasets.assembly.resample import canonicalised, labels_to_grid, overlap
from gtvbench.datasets.dicom.headers.tags import Header, read_header, tag_name
from gtvbench.datasets.dicom.structures.contours import Mask

#: Voxels of all frames beyond which a header is taken for damaged: 2000 slices of 1024 x 1024.
MOST_VOXELS = 2_100_000_000
#: Share of a voxel by which a segmentation may lie beside the image's voxels and still count as on them.
ALIGNED = 0.01
#: Fractional segments count from this share of their maximum (PS3.3 C.8.20.2.3: probability or occupancy).
THRESHOLD = 0.5


@dataclass(frozen=True)
class Segment:
    """A segment: its `number` and `label`."""

    number: int
    label: str


@dataclass(frozen=True)
class Segmentation:
    """A SEG file: its `segments` in the file's order; frames are decoded when a segment is asked for."""

    header: Header
    segments: tuple[Segment, ...]

    @cached_property
    def content(self) -> Any:
        """highdicom's object; raises DataError where the file is no valid segmentation."""
        whole = read_header(self.header.file, self.header.case, pixels=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return highdicom.seg.Segmentation.from_dataset(whole.dataset, copy=False)
        except Exception as error:  # damaged files raise whatever the library stumbles on
            raise self._damaged("is no valid DICOM segmentation") from error

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID, empty where there is none."""
        return self.header.text("FrameOfReferenceUID")

    def numbers(self, label: str) -> list[int]:
        """Numbers of the segments of a label; raises DataError, listing the labels there are, where none bears it."""
        found = [segment.number for segment in self.segments if segment.label == label]
        if not found:
            there = ", ".join(segment.label for segment in self.segments)
            raise self.header.error(f"no segment is labelled {label!r}", f"the file has {there}")
        return found

    def volume(self, number: int) -> Volume:
        """A segment as bool (z, y, x) on the file's own grid; raises DataError where its frames make no volume."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self.content.get_volume(segment_numbers=[number], combine_segments=False)
            array = np.asarray(found.array)[..., 0]
            affine = np.asarray(found.affine, float)
        except DataError:
            raise
        except Exception as error:  # see `content`
            raise self._damaged(f"has frames that make no volume (segment {number})") from error
        steps = affine[:3, :3]
        spacing = np.linalg.norm(steps, axis=0)
        if not np.all(np.isfinite(affine)) or np.any(spacing < 1e-6):
            raise self._damaged("has frames without a place")
        x, y, z = (float(v) for v in affine[:3, 3])
        direction = (steps / spacing)[:, ::-1]
        sz, sy, sx = (float(v) for v in spacing)
        a, b, c = array.shape
        grid = Grid((a, b, c), (sz, sy, sx), (x, y, z), tuple(float(v) for v in direction.ravel()))
        return Volume(array >= THRESHOLD, grid)

    def _damaged(self, what: str) -> DataError:
        return self.header.error(f"the file {what}", "it is damaged or of an unusual kind; export it again")


def read_segmentation(path: Path, case: str | None = None) -> Segmentation:
    """Read a DICOM SEG file; raises DataError where it is none, is damaged, or names no segment."""
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # it tells of harmless omissions, with UIDs
    header = read_header(path, case)
    if header.text("Modality") != "SEG":
        raise header.error(
            f"{tag_name('Modality')} is {header.text('Modality') or 'missing'}, not SEG", "check the path"
        )
    size = math.prod(int(header.number(key) or 0) for key in ("Rows", "Columns", "NumberOfFrames"))
    if not 0 < size <= MOST_VOXELS:
        raise header.error(
            f"{tag_name('Rows')}, {tag_name('Columns')} and {tag_name('NumberOfFrames')} make {size} voxels",
            "the header is damaged; export the segmentation again",
        )
    segments = []
    for item in map(header.within, header.items("SegmentSequence")):
        number = item.number("SegmentNumber")
        if number is None or number != int(number) or number < 1:
            raise item.error(f"{tag_name('SegmentNumber')} is missing or no whole number", "export the file again")
        segments.append(Segment(int(number), item.text("SegmentLabel") or f"segment {int(number)}"))
    if not segments:
        raise header.error(
            f"the file names no segment ({tag_name('SegmentSequence')} is empty)", "export the segmentation again"
        )
    return Segmentation(header, tuple(segments))


def segment_mask(segmentation: Segmentation, label: str, grid: Grid, frame_of_reference: str = "") -> Mask:
    """The mask, bool (z, y, x), of the segments of a label on an image's grid, in any orientation.

    Voxels that lie on the image's are copied, whatever slices and part of the plane the file covers; others are
    resampled (nearest neighbour), with a note. `frame_of_reference`: the image's UID; where both are known they must be
    the same. Raises DataError for another frame of reference, and for a segment that lies outside the image.
    """
    header = segmentation.header
    own = segmentation.frame_of_reference
    if own and frame_of_reference and own != frame_of_reference:
        raise header.error(
            f"segment {label!r} was drawn in another frame of reference than the image's "
            f"({tag_name('FrameOfReferenceUID')} differs)",
            "take the segmentation of this image, or the image that it was made from",
        )
    turn = canonical(grid)
    target = turn.apply_to_grid(grid)
    mask = np.zeros(target.shape, bool)
    notes: list[str] = []
    for number in segmentation.numbers(label):
        volume, _ = canonicalised(segmentation.volume(number))
        if not volume.array.any():
            notes.append(f"segment {number} is empty")
            continue
        if not overlap(volume.grid, target):
            raise header.error(
                f"segment {label!r} lies outside the image", "check that the segmentation belongs to this image"
            )
        start = _offset(volume.grid, target)
        if start is None:
            values = Volume(np.ascontiguousarray(volume.array).astype(np.uint8), volume.grid)
            moved, _ = labels_to_grid(values, target, case=header.case or "", file=header.file)
            mask |= moved > 0
            notes.append("the segmentation lies on another grid than the image and was resampled (nearest neighbour)")
        else:
            _paste(mask, volume.array, start, notes)
    if segmentation.header.text("SegmentationType") == "FRACTIONAL":
        notes.append(f"fractional values count from {THRESHOLD:g} of the maximum")
    return Mask(np.ascontiguousarray(turn.undo(mask)), tuple(dict.fromkeys(notes)))


def _offset(own: Grid, target: Grid) -> tuple[int, int, int] | None:
    """Voxels (z, y, x) from the target's first to the segmentation's first; None where the two do not coincide."""
    if np.max(np.abs(np.subtract(own.direction, target.direction))) > 1e-3:
        return None
    for axis in range(3):
        drift = abs(own.spacing[axis] - target.spacing[axis]) * max(own.shape[axis] - 1, 0)
        if drift > ALIGNED * target.spacing[axis]:
            return None
    steps = (np.asarray(own.origin) - np.asarray(target.origin)) @ target.matrix
    found = steps[::-1] / np.asarray(target.spacing)
    whole = np.rint(found)
    if np.max(np.abs(found - whole)) > ALIGNED:
        return None
    z, y, x = (int(v) for v in whole)
    return z, y, x


def _paste(
    mask: npt.NDArray[np.bool_], part: npt.NDArray[np.bool_], start: tuple[int, int, int], notes: list[str]
) -> None:
    here, there = [], []
    for axis, first in enumerate(start):
        low, high = max(0, first), min(mask.shape[axis], first + part.shape[axis])
        here.append(slice(low, max(low, high)))
        there.append(slice(low - first, max(low, high) - first))
    inside = part[tuple(there)]
    mask[tuple(here)] |= inside
    lost = int(np.count_nonzero(part)) - int(np.count_nonzero(inside))
    if lost:
        notes.append(f"{lost} voxels of the segmentation lie beyond the image and were left out")
