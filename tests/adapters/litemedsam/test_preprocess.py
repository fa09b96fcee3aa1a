"""Slices, boxes and labels in LiteMedSAM's frame and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gtvbench.adapters.litemedsam.preprocess import (
    Frame,
    boxes_to_frame,
    logits_to_probability,
    mask_to_frame,
    slice_to_frame,
)


@pytest.mark.parametrize(
    ("shape", "resized"), [((512, 512), (256, 256)), ((100, 333), (77, 256)), ((9, 5), (256, 142))]
)
def test_the_longest_side_fills_the_frame(shape: tuple[int, int], resized: tuple[int, int]) -> None:
    assert Frame(shape, 256).resized == resized


def test_min_max_is_joint_over_channels_and_the_padding_is_zero() -> None:
    image = np.full((20, 40, 3), 50, np.uint8)
    image[3, 4] = (60, 70, 250)
    framed = slice_to_frame(image, 40)
    assert framed.shape == (3, 40, 40)
    assert framed[2, 3, 4] == 1.0
    assert framed[0, 3, 4] == pytest.approx(0.05)
    assert framed[:, 20:].max() == 0.0


def test_a_constant_slice_becomes_zero_and_not_nan_and_fixed_normalisation_divides_by_255() -> None:
    assert slice_to_frame(np.full((8, 8, 3), 77, np.uint8), 16).max() == 0.0
    assert slice_to_frame(np.full((8, 8, 3), 51, np.uint8), 8, "fixed") == pytest.approx(0.2)


def test_boxes_become_corner_pixels_of_the_frame() -> None:
    frame = Frame((128, 64), 256)
    np.testing.assert_array_equal(boxes_to_frame([(10, 20, 31, 42)], frame), [[40, 20, 82, 60]])
    assert boxes_to_frame([], frame).shape == (0, 4)
    # Cut to whole pixels as the official inference does: first and last pixel times 256 / 150.
    np.testing.assert_array_equal(boxes_to_frame([(7, 11, 50, 123)], Frame((150, 149), 256)), [[18, 11, 208, 83]])


@pytest.mark.parametrize("where", [(0, 0), (63, 199), (199, 199), (100, 101), (77, 13)])
def test_a_one_pixel_instance_survives_downscaling(where: tuple[int, int]) -> None:
    mask = np.zeros((200, 200), bool)
    mask[where] = True
    framed = mask_to_frame(mask, 64)
    assert framed.any()
    y, x = np.argwhere(framed).mean(axis=0)
    assert abs(y - where[0] * 64 / 200) < 1.5
    assert abs(x - where[1] * 64 / 200) < 1.5


def test_downscaling_keeps_the_area_of_a_large_instance() -> None:
    y, x = np.mgrid[:300, :300]
    disc = np.hypot(y - 140, x - 160) < 60
    framed = mask_to_frame(disc, 64)
    assert framed.sum() == pytest.approx(disc.sum() * (64 / 300) ** 2, rel=0.03)
    assert not mask_to_frame(np.zeros((30, 20), bool), 16).any()


def test_logits_are_cropped_before_they_are_enlarged() -> None:
    frame = Frame((20, 40), 32)
    logits = torch.full((2, 1, 32, 32), 9.0)
    logits[:, :, :16] = -9.0  # the padding must not reach into the slice
    probability = logits_to_probability(logits, frame)
    assert probability.shape == (2, 20, 40)
    assert float(probability.max()) < 0.01


def test_a_mask_survives_the_way_into_the_frame_and_back() -> None:
    y, x = np.mgrid[:90, :120]
    disc = np.hypot(y - 40, x - 70) < 25
    frame = Frame(disc.shape, 64)
    framed = torch.from_numpy(mask_to_frame(disc, 64).astype(np.float32))[None, None]
    back = logits_to_probability(framed * 20 - 10, frame)[0].numpy() > 0.5
    assert 2 * (back & disc).sum() / (back.sum() + disc.sum()) > 0.97
