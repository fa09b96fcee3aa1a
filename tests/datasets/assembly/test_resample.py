from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume
from gtvbench.datasets.assembly.resample import image_to_grid, labels_to_grid, overlap

FILE = Path("pet.nii.gz")
GRID = Grid((6, 8, 10), (3.0, 2.0, 1.0), (5.0, -7.0, 11.0))


def _ramp(grid: Grid) -> np.ndarray:  # type: ignore[type-arg]
    """A linear function of the world position."""
    world = np.stack([grid.world(index) for index in np.ndindex(grid.shape)])
    return (world @ [1.0, -2.0, 0.5] + 3).reshape(grid.shape).astype(np.float32)


@pytest.mark.parametrize(
    "turn", [Reorientation((0, 1, 2), (False,) * 3), Reorientation((2, 0, 1), (True, False, True))]
)
def test_a_volume_on_the_same_voxels_is_copied_without_interpolation(turn: Reorientation) -> None:
    array = np.random.default_rng(0).standard_normal(GRID.shape).astype(np.float32)
    found, covered = image_to_grid(Volume(turn.apply(array), turn.apply_to_grid(GRID)), GRID, 0.0, case="a", file=FILE)
    np.testing.assert_array_equal(found, array)
    assert covered == 1.0


def test_a_linear_pattern_survives_interpolation_from_an_oblique_grid() -> None:
    cosine, sine = np.cos(0.3), np.sin(0.3)
    source = Grid((20, 40, 40), (2.0, 1.0, 1.0), (-10.0, -25.0, 0.0), (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    found, covered = image_to_grid(Volume(_ramp(source), source), GRID, -1.0, case="a", file=FILE)
    inside = found != -1.0
    assert 0.5 < covered <= 1.0
    assert covered == pytest.approx(inside.mean(), abs=1e-9)
    # Within half a voxel of the source's border ITK repeats the border; a little tolerance there.
    assert np.median(np.abs(found - _ramp(GRID))[inside]) < 1e-3


def test_outside_the_field_of_view_lies_the_background_and_the_covered_share_is_told() -> None:
    half = Grid((6, 8, 5), GRID.spacing, GRID.origin)
    found, covered = image_to_grid(Volume(np.full(half.shape, 7, np.int16), half), GRID, -1000.0, case="a", file=FILE)
    assert covered == pytest.approx(0.5)
    assert np.all(found[..., :5] == 7)
    assert np.all(found[..., 5:] == -1000)
    assert found.dtype == np.float32


def test_a_much_finer_image_is_averaged_and_not_sampled() -> None:
    fine = Grid((1, 64, 64), (4.0, 1.0, 1.0))
    coarse = Grid((1, 16, 16), (4.0, 4.0, 4.0), (1.5, 1.5, 0.0))
    board = (np.indices(fine.shape).sum(0) % 2 * 100).astype(np.float32)
    found, _ = image_to_grid(Volume(board, fine), coarse, 0.0, case="a", file=FILE)
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], 50, atol=3)


def test_label_maps_keep_their_values() -> None:
    label = np.zeros((6, 4, 5), np.uint8)
    label[2:4, 1:3, 1:4] = 2
    source = Grid(label.shape, (3.0, 4.0, 2.0), (5.5, -6.0, 11.0))
    found, moved = labels_to_grid(Volume(label, source), GRID, case="a", file=FILE)
    assert moved
    assert set(np.unique(found)) == {0, 2}
    assert np.count_nonzero(found) == 4 * np.count_nonzero(label)


@pytest.mark.parametrize("as_label", [False, True])
def test_grids_without_a_common_voxel_are_refused_naming_case_and_file(as_label: bool) -> None:
    far = Volume(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0)))
    bring = partial(labels_to_grid, far, GRID) if as_label else partial(image_to_grid, far, GRID, 0.0)
    with pytest.raises(DataError, match="no voxel in common") as caught:
        bring(case="patient-7", file=FILE)
    assert caught.value.case == "patient-7"
    assert caught.value.file == "pet.nii.gz"
    assert "registered" in str(caught.value.remedy)


def test_overlap_is_judged_by_voxel_centres() -> None:
    beside = Grid((6, 8, 10), GRID.spacing, (5.0 + 9.4, -7.0, 11.0))
    beyond = Grid((6, 8, 10), GRID.spacing, (5.0 + 11.6, -7.0, 11.0))
    assert overlap(GRID, GRID)
    assert overlap(beside, GRID)
    assert not overlap(beyond, GRID)
