"""RTSTRUCT contours at random: valid ones are the mask that winding angles give; odd ones a mask or a clear error."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from dicom_writer import save, structures
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.datasets.dicom.structures.contours import read_structures, roi_mask
from gtvbench.datasets.dicom.structures.rasterise import even_odd

#: Voxels whose centre is nearer to an edge than this (voxels) may fall to either side by rounding.
UNSURE = 1e-6

_C, _S = math.cos(0.4), math.sin(0.4)
GRIDS = (
    Grid((5, 12, 14), (3.0, 2.0, 1.5), (-10.0, -20.0, -50.0)),
    Grid((5, 12, 14), (3.0, 2.0, 1.5), (10.0, -20.0, 50.0), (-1, 0, 0, 0, 1, 0, 0, 0, -1)),  # from the head down
    Grid((5, 12, 14), (2.5, 0.977, 0.977), (30.0, 20.0, 10.0), (1, 0, 0, 0, _C, -_S, 0, _S, _C)),  # oblique
)

Corners = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """A contour: the slice index of its plane, and its corners (x, y) in pixel indices."""

    depth: float
    corners: tuple[tuple[float, float], ...]


def winding(corners: Corners, centres: Corners) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How often an outline (n, 2) winds about each centre (m, 2), by the angles its edges are seen under, and how far
    each centre is from the nearest edge."""
    start = corners[None] - centres[:, None]
    end = np.roll(start, -1, axis=1)
    cross = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
    dot = (start * end).sum(axis=2)
    turns = np.rint(np.arctan2(cross, dot).sum(axis=1) / (2 * math.pi)).astype(np.int64)
    edge = end - start
    length = (edge**2).sum(axis=2)
    share = np.clip(-(start * edge).sum(axis=2) / np.where(length > 0, length, 1), 0, 1)
    distance = np.linalg.norm(start + share[..., None] * edge, axis=2).min(axis=1)
    return turns, distance


def centres_of(shape: tuple[int, int], shift: tuple[float, float] = (0.0, 0.0)) -> Corners:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.stack([x.ravel() + shift[0], y.ravel() + shift[1]], axis=1).astype(float)


def expected_mask(contours: Sequence[Drawn], grid: Grid) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
    """The mask of contours that were written with their values' digits, and where it is sure; None where all lie
    beyond the slices."""
    kept = {c for c in contours if len(c.corners) >= 3}  # a set: a contour and its copy are one
    depths = sorted({contour.depth for contour in kept})
    inside, sure = np.zeros(grid.shape, bool), np.ones(grid.shape, bool)
    centres = centres_of(grid.shape[1:])
    reached = False
    for z in range(grid.shape[0]):
        near = [depth for depth in depths if abs(depth - z) < 0.5]
        if not near:
            continue
        reached = True
        depth = min(near, key=lambda depth: abs(depth - z))
        for contour in (c for c in kept if c.depth == depth):
            turns, distance = winding(np.asarray(contour.corners), centres)
            inside[z] ^= (turns % 2 == 1).reshape(grid.shape[1:])
            sure[z] &= (distance > UNSURE).reshape(grid.shape[1:])
    return (inside, sure) if reached else None


def as_text(value: float) -> str:
    """As a DS value holds it, in 16 characters at most; off by less than UNSURE."""
    return f"{value:.8f}"


def points_of(contour: Drawn, grid: Grid) -> Corners:
    return np.stack([grid.world((contour.depth, y, x)) for x, y in contour.corners])


def put_text(item: Dataset, text: bytes) -> None:
    """ContourData byte for byte, whatever its VR allows."""
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, False, True)


# Whole and half numbers make collinear and repeated corners, and corners on centres; the others anything between.
_NUMBER = st.one_of(
    st.integers(-6, 40).map(lambda n: n / 2), st.floats(-4, 18).map(lambda v: round(v, 5)), st.sampled_from((-9e4, 9e4))
)
_POINT = st.tuples(_NUMBER, _NUMBER)
_OUTLINE = st.lists(_POINT, min_size=3, max_size=12)
_CORNERS = st.one_of(_OUTLINE, _OUTLINE, _OUTLINE, st.lists(_POINT, min_size=1, max_size=2)).map(tuple)
# No two of these are equally far from a slice, lie at half a slice, or within the tolerance of one plane.
_DEPTH = st.integers(-4, 18).map(lambda k: round(0.3 * k + 0.07, 2))


@st.composite
def drawings(draw: st.DrawFn) -> list[Drawn]:
    contours = draw(st.lists(st.builds(Drawn, _DEPTH, _CORNERS), min_size=1, max_size=6))
    again = draw(st.lists(st.sampled_from(contours), max_size=2))
    moved = [Drawn(draw(_DEPTH), contour.corners) for contour in draw(st.lists(st.sampled_from(contours), max_size=2))]
    return draw(st.permutations(contours + again + moved))


@fuzzed(60)
@given(contours=drawings(), grid=st.sampled_from(GRIDS))
def test_whatever_is_drawn_is_the_mask_that_winding_angles_give(
    tmp_path: Path, contours: list[Drawn], grid: Grid
) -> None:
    ds = structures({"GTV": [points_of(contour, grid) for contour in contours]})
    for item, contour in zip(ds.ROIContourSequence[0].ContourSequence, contours, strict=True):
        item.ContourData = [as_text(v) for v in points_of(contour, grid).ravel()]
    path = save(ds, tmp_path / "rt.dcm")
    expected = expected_mask(contours, grid)
    if expected is None:
        with pytest.raises(DataError, match=r"no closed contour|outside the image") as caught:
            roi_mask(read_structures(path), "GTV", grid)
        assert caught.value.remedy
        return
    found = roi_mask(read_structures(path), "GTV", grid).array
    inside, sure = expected
    np.testing.assert_array_equal(found[sure], inside[sure])


@fuzzed(60)
@given(corners=st.lists(st.tuples(st.integers(-3, 15), st.integers(-3, 15)), min_size=1, max_size=10))
def test_a_centre_on_an_edge_or_corner_falls_to_larger_x_then_to_larger_y(corners: list[tuple[int, int]]) -> None:
    # A centre moved by so little crosses no other line through whole numbers of this size.
    turns, _ = winding(np.asarray(corners, float), centres_of((12, 12), (1e-4, 1e-8)))
    found = even_odd([np.asarray(corners, float)], (12, 12))
    np.testing.assert_array_equal(found, (turns % 2 == 1).reshape(12, 12))


#: Texts that no reading makes a finite number of; beside them, others that may be one.
NO_NUMBER = (b"nan", b"inf", b"-inf", b"1e400", b"1,5", b"0x10", b"1e", b"--1", b"abc", b"1" * 5000)
MAYBE = (b"1e300", b"-1e308", b"1e-320", b"-0", b"", b" ", b"\0", b"\xff\xfe", b"\xd9\xa1", b"1e6", b"9" * 40)
TYPES = ("CLOSEDPLANAR_XOR", "closed_planar ", "POINT", "OPEN_PLANAR", "", None, "x")


@fuzzed(60)
@given(contours=drawings(), grid=st.sampled_from(GRIDS), seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of values that its VR forbids; the source does so too
def test_odd_contours_are_a_mask_or_an_error_with_a_remedy(
    tmp_path: Path, contours: list[Drawn], grid: Grid, seed: int
) -> None:
    """Odd numbers, a point off its plane, a list of numbers that is cut, types, counts of points and regions."""
    rng = random.Random(seed)
    ds = structures({"GTV": [points_of(contour, grid) for contour in contours]})
    items = ds.ROIContourSequence[0].ContourSequence
    words = [[as_text(v).encode() for v in points_of(contour, grid).ravel()] for contour in contours]
    words[0][2] = as_text(float(words[0][2]) + rng.choice((0.0, 0.0, 0.05, 3.0, 1e5))).encode()
    for _ in range(rng.randrange(4)):
        values = rng.choice(words)
        odd = (rng.choice(NO_NUMBER), rng.choice(MAYBE), rng.randbytes(rng.randrange(7)))
        values[rng.randrange(len(values))] = rng.choice(odd)
    if rng.random() < 0.3:
        which = rng.randrange(len(words))
        del words[which][rng.randrange(len(words[which])) :]
        items[which].NumberOfContourPoints = len(words[which]) // 3
    for item, values in zip(items, words, strict=True):
        put_text(item, b"\\".join(values))
    for _ in range(rng.choice((0, 0, 1, 2))):
        rng.choice(list(items)).ContourGeometricType = rng.choice(TYPES)
        rng.choice(list(items)).NumberOfContourPoints = rng.choice((None, -1, 0, 1, 2, 3, 2**31 - 1))
    if rng.random() < 0.1:
        ds.ROIContourSequence[0].ReferencedROINumber = rng.choice((2, "", None))
    path = save(ds, tmp_path / "odd.dcm")
    hopeless = any(len(values) % 3 or not set(values).isdisjoint(NO_NUMBER) for values in words)
    try:
        found = roi_mask(read_structures(path, "P01"), "GTV", grid).array
    except DataError as error:
        assert error.case == "P01" and error.remedy  # noqa: PT017 - a mask is as good
        return
    assert not hopeless
    assert found.shape == grid.shape and found.dtype == np.bool_
