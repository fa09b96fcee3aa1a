"""RTSTRUCT contours as masks: the even-odd rule, planes against slices, and what is refused."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_writer import save, structures, write_series
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.datasets.dicom.images.series import read_series
from gtvbench.datasets.dicom.structures.contours import Mask, read_structures, roi_mask

GRID = Grid((5, 12, 14), (3.0, 2.0, 1.5), (-10.0, -20.0, -50.0))


def _box(z: float, x0: float, y0: float, x1: float, y1: float, grid: Grid = GRID) -> np.ndarray:
    """A rectangle between voxel indices at slice z, as points in mm."""
    return np.stack([grid.world((z, y, x)) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])


def _points(z: float, corners: Any, grid: Grid = GRID) -> np.ndarray:
    return np.stack([grid.world((z, y, x)) for x, y in corners])


def _mask(tmp_path: Path, contours: Any, grid: Grid = GRID, image_frame: str = "", **options: Any) -> Mask:
    path = save(structures({"GTV": contours}, **options), tmp_path / "rt.dcm")
    return roi_mask(read_structures(path, "P01"), "GTV", grid, image_frame)


def _expected(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    found = np.zeros(GRID.shape, bool)
    for z, x0, y0, x1, y1 in boxes:
        found[z, y0 : y1 + 1, x0 : x1 + 1] ^= True
    return found


KEYHOLE = [(0.5, 0.5), (9.5, 0.5), (9.5, 9.5), (0.5, 9.5), (0.5, 5),
           (3.5, 5), (3.5, 7.5), (6.5, 7.5), (6.5, 2.5), (3.5, 2.5), (3.5, 5), (0.5, 5)]  # fmt: skip
DRAWN: dict[str, tuple[list[Any], list[tuple[int, int, int, int, int]]]] = {
    "a voxel whose centre is inside": ([_box(2, 2.6, 3.4, 6.4, 5.6)], [(2, 3, 4, 6, 5)]),
    "a hole and an island in it": (
        [_box(1, 0.5, 0.5, 10.5, 10.5), _box(1, 2.5, 2.5, 8.5, 8.5), _box(1, 4.5, 4.5, 6.5, 6.5)],
        [(1, 1, 1, 10, 10), (1, 3, 3, 8, 8), (1, 5, 5, 6, 6)],
    ),
    "a keyhole": ([_points(1, KEYHOLE)], [(1, 1, 1, 9, 9), (1, 4, 3, 6, 7)]),
    "several in a slice, in any order": (
        [_box(3, 0.5, 0.5, 2.5, 2.5), _box(2, 1.5, 1.5, 3.5, 3.5), _box(3, 5.5, 5.5, 8.5, 7.5)],
        [(3, 1, 1, 2, 2), (3, 6, 6, 8, 7), (2, 2, 2, 3, 3)],
    ),
    "cut off at the image's sides": (
        [_box(2, -1e5, -300, 3.5, 2.5), _box(2, 10.5, 9.5, 400, 500)],
        [(2, 0, 0, 3, 2), (2, 11, 10, 13, 11)],
    ),
}


@pytest.mark.parametrize("what", DRAWN)
def test_voxels_are_inside_by_the_even_odd_rule_at_their_centres(tmp_path: Path, what: str) -> None:
    contours, boxes = DRAWN[what]
    found = _mask(tmp_path, contours)
    np.testing.assert_array_equal(found.array, _expected(*boxes))
    assert found.notes == ()


def test_a_contour_between_slices_goes_to_the_nearer(tmp_path: Path) -> None:
    found = _mask(tmp_path, [_box(1.4, 0.5, 0.5, 2.5, 2.5), _box(2.7, 0.5, 0.5, 2.5, 2.5)])
    np.testing.assert_array_equal(np.flatnonzero(found.array.any(axis=(1, 2))), [1, 3])
    assert found.notes == ("1 slice(s) without a contour lie between those that have one; they stay empty",)


def test_planes_closer_than_slices_leave_each_slice_its_nearest(tmp_path: Path) -> None:
    contours = [_box(1 + i / 3, 0.5, 0.5, 2.5 + i, 2.5) for i in range(7)]
    found = _mask(tmp_path, contours)
    boxes = [(z, 1, 1, 2 + 3 * (z - 1), 2) for z in (1, 2, 3)]
    np.testing.assert_array_equal(found.array, _expected(*boxes))
    assert found.notes == ("contours of 4 plane(s) between slices were passed over for nearer ones",)


@pytest.mark.parametrize(("depth", "kept"), [(-0.45, True), (-0.6, False), (4.45, True), (4.6, False)])
def test_a_contour_beyond_the_grid_counts_up_to_half_a_slice(tmp_path: Path, depth: float, kept: bool) -> None:
    found = _mask(tmp_path, [_box(2, 0.5, 0.5, 2.5, 2.5), _box(depth, 0.5, 0.5, 2.5, 2.5)])
    assert found.array.any(axis=(1, 2)).sum() == 1 + kept
    assert any("lie beyond the image's slices" in note for note in found.notes) is not kept


def test_a_contour_written_twice_is_no_hole_and_one_smaller_than_a_voxel_leaves_an_empty_mask(tmp_path: Path) -> None:
    box = _box(2, 0.5, 0.5, 4.5, 4.5)
    found = _mask(tmp_path, [box, box])
    np.testing.assert_array_equal(found.array, _expected((2, 1, 1, 4, 4)))
    assert "written twice" in found.notes[0]
    found = _mask(tmp_path, [_box(2, 3.2, 3.2, 3.8, 3.8)])
    assert not found.array.any()
    assert found.notes == ("the contours enclose no voxel's centre: the mask is empty",)


def test_contours_follow_the_slices_of_an_oblique_grid_and_of_one_from_head_to_feet(tmp_path: Path) -> None:
    turn = np.radians(25)
    c, s = float(np.cos(turn)), float(np.sin(turn))
    oblique = Grid(GRID.shape, GRID.spacing, (30.0, 20.0, 10.0), (1, 0, 0, 0, c, -s, 0, s, c))
    found = _mask(tmp_path, [_box(2, 2.6, 3.4, 6.4, 5.6, oblique)], oblique)
    np.testing.assert_array_equal(found.array, _expected((2, 3, 4, 6, 5)))
    first = tuple(map(float, GRID.world((4, 0, 13))))
    turned = Grid(GRID.shape, GRID.spacing, first, (-1, 0, 0, 0, 1, 0, 0, 0, -1))
    found = _mask(tmp_path, [_box(1, 2.6, 3.4, 6.4, 5.6), _box(2, 2.6, 3.4, 8.4, 5.6)], turned)
    np.testing.assert_array_equal(found.array[::-1, :, ::-1], _expected((1, 3, 4, 6, 5), (2, 3, 4, 8, 5)))


def test_regions_are_listed_by_name_in_the_file_s_order(tmp_path: Path) -> None:
    path = save(structures({"GTVp": [_box(1, 1, 1, 3, 3)], "Brain": [], "": [], "GTVp ": []}), tmp_path / "rt.dcm")
    found = read_structures(path)
    assert found.names == ("GTVp", "Brain", "ROI 3", "GTVp")
    assert [roi.contours for roi in found.rois] == [1, 0, 0, 0]
    with pytest.raises(DataError, match="2 structures are named 'GTVp'"):
        found.roi("GTVp")
    with pytest.raises(DataError, match="no structure is named 'GTVn'") as caught:
        found.roi("GTVn")
    assert "GTVp, Brain, ROI 3" in (caught.value.remedy or "")


def test_contours_of_a_region_in_several_items_are_all_its_own(tmp_path: Path) -> None:
    ds = structures({"GTV": [_box(1, 0.5, 0.5, 2.5, 2.5)], "x": [_box(2, 0.5, 0.5, 2.5, 2.5)], "y": []})
    for item in ds.ROIContourSequence:
        item.ReferencedROINumber = 1
    read = read_structures(save(ds, tmp_path / "rt.dcm"))
    assert [roi.contours for roi in read.rois] == [2, 0, 0]
    np.testing.assert_array_equal(roi_mask(read, "GTV", GRID).array, _expected((1, 1, 1, 2, 2), (2, 1, 1, 2, 2)))


def test_two_regions_of_one_number_are_refused_since_contours_go_by_it(tmp_path: Path) -> None:
    ds = structures({"GTVp": [_box(1, 1, 1, 3, 3)], "GTVn": [_box(2, 1, 1, 3, 3)], "Brain": [_box(2, 1, 1, 3, 3)]})
    ds.StructureSetROISequence[1].ROINumber = 1
    read = read_structures(save(ds, tmp_path / "rt.dcm"))
    assert roi_mask(read, "Brain", GRID).array.any()
    for name in ("GTVp", "GTVn"):
        with pytest.raises(DataError, match="have one ROINumber"):
            roi_mask(read, name, GRID)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no contour": ([], {}, "has no closed contour"),
    "points": ([_box(1, 1, 1, 2, 2)[:1]], {"kind": "POINT"}, r"only 1 point\(s\)"),
    "two points": ([_box(1, 1, 1, 2, 2)[:2]], {}, "no closed contour"),
    "an open contour": ([_box(1, 1, 1, 2, 2)], {"kind": "OPEN_PLANAR"}, "encloses no area"),
    "an upright contour": ([np.add(GRID.world((0, 0, 0)), [[0, 0, 0], [0, 9, 0], [0, 9, 9]])], {}, "not parallel"),
    "outside": ([_box(9, 1, 1, 3, 3), _box(10, 1, 1, 3, 3)], {}, r"at slices 9\.0 to 10\.0, the image has 0 to 4"),
    "another frame of reference": ([_box(1, 1, 1, 3, 3)], {"frame": "9.9"}, "another frame of reference"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_region_that_gives_no_mask_says_why(tmp_path: Path, what: str) -> None:
    contours, options, told = REFUSED[what]
    with pytest.raises(DataError, match=told) as caught:
        _mask(tmp_path, contours, image_frame="1.2.3.4", **options)
    assert caught.value.case == "P01" and caught.value.file and caught.value.remedy
    assert "GTV" in caught.value.message


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("ContourData", ["1", "2", "3", "4"], "4 numbers, not three a point"),
        ("ContourData", [], "0 numbers"),
        ("ContourData", ["1", "2", "3", "1e30", "5", "6", "7", "8", "9"], "a coordinate of 1e"),
        ("NumberOfContourPoints", 7, "is 7, but 4 are there"),
        ("ContourGeometricType", "", "is missing"),
    ],
)
def test_damaged_contours_are_refused(tmp_path: Path, tag: str, value: Any, told: str) -> None:
    ds = structures({"GTV": [_box(1, 1, 1, 3, 3)]})
    setattr(ds.ROIContourSequence[0].ContourSequence[0], tag, value)
    path = save(ds, tmp_path / "rt.dcm")
    with pytest.raises(DataError, match=told):
        roi_mask(read_structures(path), "GTV", GRID)


@pytest.mark.parametrize("text", [b"nonsens", b"1e99999", b"    nan"])
def test_coordinates_that_are_no_finite_numbers_are_refused(tmp_path: Path, text: bytes) -> None:
    path = save(structures({"GTV": [[(-1.2345, 2, -47), (5, 2, -47), (5, 9, -47)]]}), tmp_path / "rt.dcm")
    path.write_bytes(path.read_bytes().replace(b"-1.2345", text))
    with pytest.raises(DataError, match="ContourData"):
        roi_mask(read_structures(path), "GTV", GRID)


def test_a_file_that_is_no_structure_set_is_refused(tmp_path: Path) -> None:
    image = write_series(tmp_path, np.zeros((1, 4, 4)))[0]
    with pytest.raises(DataError, match=r"Modality \(0008,0060\) is CT, not RTSTRUCT"):
        read_structures(image)
    empty = Dataset()
    empty.Modality = "RTSTRUCT"
    with pytest.raises(DataError, match="lists no structure"):
        read_structures(save(empty, tmp_path / "empty.dcm"))


def test_a_series_and_its_structure_set_meet_on_one_grid(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "ct", np.zeros(GRID.shape, int)))
    assert series.volume.grid.differences(GRID) == []
    found = _mask(tmp_path, [_box(1, 1.5, 1.5, 3.5, 3.5)], series.volume.grid, series.frame_of_reference)
    np.testing.assert_array_equal(found.array, _expected((1, 2, 2, 3, 3)))


@fuzzed(60)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_structure_set_cut_anywhere_never_gives_another_mask(tmp_path: Path, cut: float) -> None:
    path = save(structures({"GTV": [_box(z, 1.5, 1.5, 3.5 + z, 3.5) for z in range(4)]}), tmp_path / "rt.dcm")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError):
        roi_mask(read_structures(path), "GTV", GRID)


@fuzzed(150)
@given(at=st.integers(0, 3000), byte=st.integers(0, 255))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_byte_gives_a_mask_or_a_clear_error(tmp_path: Path, at: int, byte: int) -> None:
    path = save(structures({"GTV": [_box(z, 1.5, 1.5, 3.5 + z, 3.5) for z in range(4)]}), tmp_path / "rt.dcm")
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(bytes(content))
    with contextlib.suppress(DataError):
        assert roi_mask(read_structures(path), "GTV", GRID).array.shape == GRID.shape
