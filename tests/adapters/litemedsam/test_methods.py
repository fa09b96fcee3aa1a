"""The two LiteMedSAM methods behind the adapter interface."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gtvbench.adapters.base import Context
from gtvbench.adapters.litemedsam import checkpoints, inference, zero_shot
from gtvbench.adapters.litemedsam.fine_tuned import FineTuned, FineTuneOptions
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.options import Train
from gtvbench.adapters.litemedsam.zero_shot import ImageOptions, ZeroShot
from gtvbench.bench.core.cases import CohortFacts, Images, TrainingCase
from gtvbench.bench.core.errors import StudyError, WeightsError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import draw_prompts, policy_from
from gtvbench.bench.core.structures import Structure

SIZE = 32
STRUCTURES = (Structure("GTV-T", 1), Structure("GTV-N", 2))


class Silent:
    """A clock and a recorder that keep what they are told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.epochs: list[int] = []

    def measure(self, stage: str, slice: int = -1, boxes: int = 0) -> AbstractContextManager[None]:
        self.stages.append((stage, slice, boxes))
        return nullcontext()

    def ready(self) -> None:
        self.stages.append(("ready", -1, 0))

    def saved(self) -> None:
        self.stages.append(("saved", -1, 0))

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        self.epochs.append(epoch)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    checkpoints.save_flat(LiteMedSAM(SIZE), path)
    return path


@pytest.fixture(scope="module")
def method(weights: Path) -> ZeroShot:
    built = ZeroShot(context(ImageOptions(image_size=SIZE, backend="torch"), weights))
    built.load(None)
    return built


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainingCase:
    """Four slices of 40 x 30 pixels; the last has no target."""
    folder = tmp_path_factory.mktemp("case")
    rng = np.random.default_rng(0)
    label = np.zeros((4, 40, 30), np.uint8)
    label[:3, 10:20, 5:14] = 1
    label[1, 25:31, 18:25] = 2
    label[2, 0:1, 29:30] = 2
    np.save(folder / "CT.uint8.npy", (60 + 90 * (label > 0) + rng.integers(0, 20, label.shape)).astype(np.uint8))
    np.save(folder / "label.npy", label)
    grid = Grid(label.shape, (4.0, 3.0, 3.0))
    (folder / "case.json").write_text(json.dumps({"grid": grid.as_dict(), "modalities": ["CT"]}), encoding="utf-8")
    prompts = draw_prompts("P1", label, grid.spacing, STRUCTURES, policy_from("fixed-margin(6)"), 1)
    return TrainingCase(Images("P1", folder), folder / "label.npy", prompts)


ANY = CohortFacts(("CT",), STRUCTURES, {})


def context(options: Any, weights: Path | None) -> Context:
    return Context(options, STRUCTURES, "ct-only", ("CT",), "cpu", 11, weights, Path())


def test_zero_shot_segments_the_prompted_slices_within_the_grid(method: ZeroShot, case: TrainingCase) -> None:
    clock = Silent()
    method.throughput(case.images, case.prompts, clock)
    label = method.predict(case.images, case.prompts, clock)
    assert label.shape == (4, 40, 30) and label.dtype == np.uint8
    assert set(np.unique(label)) <= {0, 1, 2} and not label[3].any()
    assert clock.stages.count(("encode", 1, 0)) == 1
    assert ("decode", 1, 2) in clock.stages


def test_a_batch_of_slices_equals_slices_one_by_one(method: ZeroShot, case: TrainingCase) -> None:
    slices = np.stack([case.images.fused_slice("ct-only", z) for z in range(4)])
    boxes = [np.array([p.box for p in case.prompts.in_slice(z)]).reshape(-1, 4) for z in range(4)]
    together = method.decode(method.encode(slices), boxes)
    assert [len(part) for part in together] == [1, 2, 2, 0]
    for z in range(3):
        (alone,) = method.decode(method.encode(slices[z : z + 1]), boxes[z : z + 1])
        np.testing.assert_allclose(together[z], alone, atol=1e-5)
        assert alone.dtype == np.float32


def test_more_boxes_than_fit_at_once_are_decoded_in_parts(method: ZeroShot, case: TrainingCase) -> None:
    embedded = method.encode(case.images.fused_slice("ct-only", 0)[None])
    boxes = np.tile(np.array([[5, 5, 20, 20], [8, 3, 30, 22]]), (20, 1))
    (found,) = method.decode(embedded, [boxes])
    assert found.shape == (40, 40, 30)
    np.testing.assert_allclose(found[38:], found[:2], atol=1e-6)


@pytest.mark.parametrize("train", ["all", "decoder"])
def test_fine_tuning_leaves_what_prediction_loads(
    train: Train, weights: Path, case: TrainingCase, tmp_path: Path, method: ZeroShot
) -> None:
    tuned = FineTuned(context(FineTuneOptions(image_size=SIZE, epochs=1, train=train, backend="torch"), weights))
    recorder = Silent()
    facts = tuned.fit([case], [case], tmp_path, recorder)
    assert recorder.epochs == [0]
    assert facts["best_epoch"] == 0
    assert recorder.stages == [("ready", -1, 0)]
    assert not (tmp_path / "embeddings").exists()
    tuned.load(tmp_path)
    found, untouched = (one.predict(case.images, case.prompts, Silent()) for one in (tuned, method))
    assert not np.array_equal(found, untouched)


def test_the_options_default_to_the_study_and_say_where_they_fall_short() -> None:
    options = FineTuneOptions()
    assert (options.epochs, options.batch, options.learning_rate, options.image_size) == (20, 8, 3e-4, 256)
    assert options.cut() is None and options.protocol().flips
    short = FineTuneOptions.model_validate({"train": "decoder", "epochs": 3, "learning-rate": 1e-3})
    assert short.cut() == "decoder alone, 3 of 20 epochs"
    assert not short.protocol().flips and short.protocol().learning_rate == 1e-3


def test_options_that_make_no_sense_are_refused_when_the_study_is_read() -> None:
    for options in ({"image-size": 30}, {"normalisation": "z"}, {"precision": "int4"}, {"epochs": 0}, {"epoch": 3}):
        with pytest.raises(ValidationError):
            FineTuneOptions.model_validate(options)
    with pytest.raises(StudyError, match="no flips"):
        FineTuneOptions(train="decoder", flips=True)
    with pytest.raises(StudyError, match="large"):
        FineTuneOptions(margins="large")


def test_bfloat16_is_refused_before_any_work_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(inference, "_core", Core)
    monkeypatch.setattr(zero_shot, "has_accelerator", lambda: False)
    assert "float32" in str(ZeroShot.skip(ImageOptions(precision="bfloat16"), ANY))
    assert ZeroShot.skip(ImageOptions(precision="bfloat16", backend="torch"), ANY) is None
    assert ZeroShot.skip(ImageOptions(), ANY) is None


def test_missing_weights_are_an_error_with_a_remedy() -> None:
    method = ZeroShot(context(ImageOptions(image_size=SIZE, backend="torch"), None))
    with pytest.raises(WeightsError, match="no weights"):
        method.load(None)
    with pytest.raises(WeightsError, match="before its weights are loaded"):
        method.encode(np.zeros((1, 8, 8, 3), np.uint8))
