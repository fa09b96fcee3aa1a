"""The box channel: what it shows, and that it stays a box up to the network's input."""

from typing import Any

import numpy as np
import pytest

from gtvbench.adapters.nnunet.boxes import box_channels, fresh_channels, groups
from gtvbench.adapters.nnunet.dataset import Layout, translated
from gtvbench.bench.core.prompts import BoxPrompt, Policy, Prompts, draw_prompts, policy_from
from gtvbench.bench.core.structures import Structure, structures_from

STRUCTURES = structures_from({"GTV-T": 1, "GTV-N": 4})


def prompt(z: int, structure: int, box: tuple[int, int, int, int]) -> BoxPrompt:
    return BoxPrompt(z, structure, 1, *box, area=4)


def test_the_channel_is_one_inside_any_box_of_its_slice_and_zero_elsewhere() -> None:
    prompts = Prompts("c", (prompt(1, 1, (2, 3, 5, 6)), prompt(1, 4, (4, 5, 7, 8)), prompt(2, 4, (0, 0, 1, 1))))
    (found,) = box_channels(prompts, (3, 8, 9), groups(STRUCTURES, per_structure=False))
    expected = np.zeros((3, 8, 9), np.uint8)
    expected[1, 2:5, 3:6] = expected[1, 4:7, 5:8] = expected[2, 0, 0] = 1
    np.testing.assert_array_equal(found, expected)
    tumour, node = box_channels(prompts, (3, 8, 9), groups(STRUCTURES, per_structure=True))
    assert tumour.sum() == 9 and node.sum() == 10  # each shows its own boxes only
    assert tumour[1, 2, 3] and not node[1, 2, 3] and node[1, 6, 7] and not tumour[1, 6, 7]


def label_map(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    label = np.zeros((6, 20, 24), np.uint8)
    for _ in range(4):
        z, y, x = rng.integers(0, 5), rng.integers(0, 15), rng.integers(0, 18)
        label[z : z + 2, y : y + 4, x : x + 5] = rng.choice([1, 4])
    return label


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fresh_boxes_without_margins_are_the_tight_boxes_along_any_axis_of_slices(axis: int) -> None:
    label = label_map(3)
    spacing = (3.0, 1.5, 1.0)
    prompts = draw_prompts("c", label, spacing, STRUCTURES, policy_from("tight"), 0, 0)
    expected = box_channels(prompts, label.shape, groups(STRUCTURES, per_structure=True))
    order = [0, *[a + 1 for a in np.argsort([axis, *[a for a in range(3) if a != axis]])]]
    turned = np.transpose(expected, order)  # nnU-Net orders axes by spacing: slices may follow each other along any
    found = fresh_channels(
        np.transpose(label, [a - 1 for a in order[1:]]),
        groups(STRUCTURES, per_structure=True),
        [spacing[a - 1] for a in order[1:]],
        [a - 1 for a in order[1:]].index(0),
        Policy("tight", 0, 0),
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found, turned)


def test_fresh_boxes_hold_their_instances_stay_within_the_margins_and_differ_between_draws() -> None:
    label = label_map(5)
    arguments: Any = (groups(STRUCTURES, per_structure=False), (3.0, 1.0, 1.0), 0)
    drawn = [
        fresh_channels(label, *arguments, Policy("random", 0, 3), np.random.default_rng(seed))[0] for seed in (1, 2)
    ]
    widest = fresh_channels(label, *arguments, Policy("fixed", 3, 3), np.random.default_rng(0))[0]
    for one in drawn:
        assert (one[label > 0] == 1).all() and (one <= widest).all()
    assert (drawn[0] != drawn[1]).any()
    padding = np.full((2, 6, 6), -1, np.int16)
    padding[:, 2:4, 2:4] = 0
    assert not fresh_channels(padding, [[1]], *arguments[1:], Policy("fixed", 2, 2), np.random.default_rng(0)).any()


def test_label_values_with_gaps_are_closed_for_nnunet_and_led_back() -> None:
    layout = Layout(("CT",), (Structure("GTV-T", 2), Structure("GTV-N", 7)))
    label = np.array([[[0, 2], [7, 2]]], np.uint8)
    ours = translated(label, layout.values)
    assert ours.tolist() == [[[0, 1], [2, 1]]]
    np.testing.assert_array_equal(translated(ours, {new: old for old, new in layout.values.items()}), label)
    assert layout.description(3)["labels"] == {"background": 0, "GTV-T": 1, "GTV-N": 2}
    # The box channel alone is left without normalisation.
    names = Layout(("CT", "PET"), STRUCTURES, box_channels=1).description(1)["channel_names"]
    assert names == {"0": "CT", "1": "PET", "2": "noNorm"}
