import numpy as np
import pytest

from gtvbench.adapters.slices import merge


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_masks_overlap_the_more_probable_wins_and_a_tie_is_the_smaller_value(order: tuple[int, int]) -> None:
    probabilities = np.array([[[0.9, 0.6, 0.7, 0.5, 0.1]], [[0.2, 0.8, 0.7, 0.4, 0.51]]], np.float32)
    structures = np.array([1, 2])
    # By hand: one alone, the other more probable, a tie, nobody above 0.5, the other alone.
    assert merge(probabilities[list(order)], structures[list(order)].tolist()).tolist() == [[1, 2, 1, 0, 2]]
