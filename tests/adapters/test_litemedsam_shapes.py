"""Procedural shapes and the training of the demo weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gtvbench.adapters.litemedsam import train_demo
from gtvbench.adapters.litemedsam.checkpoints import load_model, read_tensors
from gtvbench.adapters.litemedsam.shapes import PIXEL_MM, SIDE, draw_box, draw_slice
from gtvbench.adapters.litemedsam.train_demo import Recipe, learning_rate, make_batch, train


def test_a_slice_depends_on_its_names_alone() -> None:
    one, again, other = draw_slice("train", 4), draw_slice("train", 4), draw_slice("held-out", 4)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.boxes, again.boxes)
    assert not np.array_equal(one.image, other.image)


def test_slices_hold_whole_objects_within_their_boxes() -> None:
    for index in range(25):
        drawn = draw_slice("test", index)
        assert drawn.image.shape == (SIDE, SIDE, 3)
        assert drawn.image.dtype == np.uint8
        assert len(drawn.masks) == len(drawn.boxes) >= 1
        assert drawn.masks.sum(axis=0).max() == 1  # no pixel has two owners
        for mask, (y0, x0, y1, x1) in zip(drawn.masks, drawn.boxes, strict=True):
            assert mask[y0:y1, x0:x1].sum() == mask.sum() >= 4
            assert 0 <= y0 < y1 <= SIDE
            assert 0 <= x0 < x1 <= SIDE


def test_margins_cover_zero_to_twenty_mm_on_every_side() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[30:34, 30:34] = True
    rng = np.random.default_rng(0)
    margins = np.abs(np.array([draw_box(mask, rng) for _ in range(500)]) - (30, 30, 34, 34)) * PIXEL_MM
    assert margins.min(axis=0).max() == 0
    assert margins.max(axis=0).min() >= 18
    assert margins.mean() == pytest.approx(10, abs=0.7)


def test_some_slices_repeat_one_channel_and_some_do_not() -> None:
    same = [bool((d.image[..., 0] == d.image[..., 1]).all()) for d in (draw_slice("test", i) for i in range(25))]
    assert any(same)
    assert not all(same)


def test_the_generator_knows_no_phantom_and_no_patient() -> None:
    code = (
        "import sys; import gtvbench.adapters.litemedsam.train_demo;"
        "sys.exit(any(name.startswith('gtvbench.datasets') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_learning_rate_warms_up_and_ends_at_the_iterations_asked_for() -> None:
    recipe = Recipe(iterations=1000, warmup=100, peak_lr=1.0)
    assert learning_rate(0, recipe) == 0.01
    assert learning_rate(100, recipe) == 1.0
    assert learning_rate(1000, recipe) == pytest.approx(0.02)
    assert learning_rate(400, Recipe(iterations=400, peak_lr=1.0)) == pytest.approx(0.02)


def test_training_resumes_and_exports_a_small_file_with_its_record(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(iterations=2, slices=1, boxes_per_slice=2)
    train(tmp_path, recipe, minutes=0, fresh=2)
    run = train_demo.DemoTraining(tmp_path, recipe)
    assert run.step == 0
    run.iterate(run.batch(0))
    run.save()
    train(tmp_path, recipe, fresh=2)
    record = json.loads((tmp_path / "demo_weights.json").read_text())
    assert record["iterations_done"] == 2
    assert record["dsc_on_fresh_shapes"]["slices"] == 2
    weights = tmp_path / "demo_weights.safetensors"
    assert weights.stat().st_size <= 20_000_000
    tensors = read_tensors(weights)
    assert len(tensors) == 435
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert next(load_model(weights, image_size=SIDE)[0].parameters()).dtype == torch.float32


def test_boxes_and_masks_of_a_batch_belong_together() -> None:
    batch = make_batch([draw_slice("test", i) for i in range(3)], 2, np.random.default_rng(0))
    assert batch.images.shape == (3, 3, SIDE, SIDE)
    for box, mask in zip(batch.boxes, batch.masks[:, 0], strict=True):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        assert box[0] <= xs.min() <= xs.max() <= box[2]
        assert box[1] <= ys.min() <= ys.max() <= box[3]
