import itertools

import numpy as np
import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gtvbench.bench.core.geometry import Grid, Reorientation, canonical

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
ORIENTATIONS = [
    Reorientation(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_a_reoriented_grid_leaves_every_voxel_at_its_place_and_is_undone_exactly(turn: Reorientation) -> None:
    grid = Grid((2, 3, 4), (3.0, 1.5, 0.5), (10.0, -20.0, 30.0), IDENTITY)
    array = np.arange(2 * 3 * 4).reshape(grid.shape)
    turned, turned_grid = turn.apply(array), turn.apply_to_grid(grid)
    assert turned.shape == turn.apply_shape(array.shape) == turned_grid.shape
    np.testing.assert_array_equal(turn.undo(turned), array)
    for index in np.ndindex(turned.shape):
        before = np.unravel_index(turned[index], grid.shape)
        np.testing.assert_allclose(turned_grid.world(index), grid.world(before), atol=1e-9)
    assert canonical(turned_grid).apply_to_grid(turned_grid).differences(grid) == []


@fuzzed()
@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_a_slightly_oblique_grid_keeps_its_axes(a: float, b: float) -> None:
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    grid = Grid((2, 3, 4), (3.0, 1.5, 0.5), direction=tuple((turn_z @ turn_x).ravel()))
    assert canonical(grid) == Reorientation((0, 1, 2), (False, False, False))


def test_opposite_errors_of_a_grid_do_not_cancel() -> None:
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    other = Grid((2, 3, 4), (1.0, 1.0, 1.0), (5.0, -5.0, 0.0))
    assert grid.differences(other) == ["origin differs by up to 5"]


def test_the_diagonal_and_the_voxel_volume_are_physical() -> None:
    grid = Grid((10, 20, 30), (3.0, 2.0, 1.0))
    assert grid.diagonal_mm == pytest.approx(np.sqrt(30**2 + 40**2 + 30**2))
    assert grid.voxel_volume_mm3 == 6.0
    assert Grid.from_dict(grid.as_dict()) == grid
