"""Fine-tuning LiteMedSAM: samples, losses, best epoch, resume after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gtvbench.adapters.litemedsam.checkpoints import flat_state, read_tensors
from gtvbench.adapters.litemedsam.embeddings import Embeddings
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.preprocess import slice_to_frame
from gtvbench.adapters.litemedsam.samples import Batch, Samples
from gtvbench.adapters.litemedsam.training import BEST_FILE, FineTuning, Protocol, dice_loss, training_loss
from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.errors import BenchError, DataError, StudyError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import draw_prompts, policy_from
from gtvbench.bench.core.structures import Structure

SIZE = 32
CPU = torch.device("cpu")
STRUCTURES = (Structure("GTV-T", 1), Structure("GTV-N", 2))


def make_case(folder: Path, name: str, seed: int) -> TrainingCase:
    """A prepared case of 3 slices of 32 x 32 pixels with a T in each and two N in the middle one."""
    rng = np.random.default_rng(seed)
    label = np.zeros((3, 32, 32), np.uint8)
    label[:, 8 + seed : 18 + seed, 6:17] = 1
    label[1, 20:25, 22:29] = 2
    label[1, 2:3, 30:31] = 2
    ct = np.clip(60 + 90 * (label > 0) + rng.normal(0, 10, label.shape), 0, 255).astype(np.uint8)
    place = folder / name
    place.mkdir(parents=True)
    np.save(place / "CT.uint8.npy", ct)
    np.save(place / "label.npy", label)
    grid = Grid(label.shape, (4.0, 3.0, 3.0))
    (place / "case.json").write_text(json.dumps({"grid": grid.as_dict(), "modalities": ["CT"]}))
    prompts = draw_prompts(name, label, grid.spacing, STRUCTURES, policy_from("random-margin(0, 20)"), 7)
    return TrainingCase(Images(name, place), place / "label.npy", prompts)


@pytest.fixture
def cases(tmp_path: Path) -> list[TrainingCase]:
    return [make_case(tmp_path / "cases", f"P{i}", i) for i in range(3)]


def samples(cases: list[TrainingCase], batch: int = 4) -> Samples:
    return Samples(cases, "ct-only", SIZE, "min-max", batch)


def fine_tuning(
    cases: list[TrainingCase], folder: Path, kind: type[FineTuning] = FineTuning, **changes: object
) -> FineTuning:
    protocol = Protocol(**{"epochs": 2, "batch": 4, **changes})  # type: ignore[arg-type]
    torch.manual_seed(5)
    training, validation = samples(cases[:2]), samples(cases[2:])
    return kind(LiteMedSAM(SIZE), training, validation, protocol, folder=folder, seed=3, device=CPU)


def test_every_pair_comes_once_an_epoch_in_an_order_of_its_own(cases: list[TrainingCase]) -> None:
    built = samples(cases)
    plans = {epoch: built.plan(3, epoch) for epoch in (1, 2)}
    orders = {}
    for epoch, plan in plans.items():
        counts = [sum(len(one.prompts) for one in batch) for batch in plan]
        assert counts == [4, 4, 4, 3]
        orders[epoch] = [(s.case, s.z, p.structure, p.instance) for batch in plan for s in batch for p in s.prompts]
        assert len(orders[epoch]) == len(set(orders[epoch])) == 15
    assert orders[1] != orders[2]
    assert plans[1] == built.plan(3, 1)


def test_a_slice_is_loaded_once_for_its_boxes_in_a_batch(cases: list[TrainingCase]) -> None:
    built = samples(cases, batch=15)
    (only,) = built.plan()
    batch = built.stored(only)
    assert batch.images.shape == (9, 3, SIZE, SIZE)
    assert batch.boxes.shape == (15, 4)
    assert batch.owners.tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 7, 7, 7, 8]


def test_masks_lie_within_their_boxes_whatever_the_flip(cases: list[TrainingCase]) -> None:
    built = samples(cases, batch=15)
    (only,) = built.plan()
    seen = set()
    for epoch in range(4):
        batch = built.redrawn(only, policy_from("random-margin(0, 20)"), flips=True, names=(1, epoch))
        for box, mask in zip(batch.boxes, batch.masks[:, 0], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            assert box[0] <= xs.min() <= xs.max() <= box[2]
            assert box[1] <= ys.min() <= ys.max() <= box[3]
        seen.add(tuple(batch.boxes.flatten().tolist()))
    assert len(seen) == 4


def test_redrawn_margins_are_physical_and_depend_on_names_alone(cases: list[TrainingCase]) -> None:
    built = samples(cases, batch=15)
    (only,) = built.plan()
    fixed = built.redrawn(only, policy_from("fixed-margin(6)"), flips=False, names=(1,))
    tight = built.redrawn(only, policy_from("tight"), flips=False, names=(1,))
    assert torch.equal(tight.boxes[0] - fixed.boxes[0], torch.tensor([2.0, 2, -2, -2]))  # 6 mm at 3 mm a pixel
    policy = policy_from("random-margin(0, 20)")
    again = [built.redrawn(only, policy, flips=True, names=(1, 2)).boxes for _ in range(2)]
    assert torch.equal(again[0], again[1])


def test_stored_prompts_are_used_as_they_are(cases: list[TrainingCase]) -> None:
    built = samples(cases[:1], batch=15)
    (only,) = built.plan()
    stored = cases[0].prompts.boxes
    expected = [(p.x0, p.y0, p.x1 - 1, p.y1 - 1) for p in stored]
    assert built.stored(only).boxes.tolist() == [list(map(float, box)) for box in expected]


def test_a_prompt_without_its_instance_is_refused(cases: list[TrainingCase]) -> None:
    np.save(cases[0].reference, np.zeros((3, 32, 32), np.uint8))
    built = samples(cases[:1])
    with pytest.raises(DataError, match="has no instance") as caught:
        built.stored(built.plan()[0])
    assert "P0" in str(caught.value)


def test_losses_are_low_for_the_mask_itself_and_never_nan() -> None:
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, 0, 4:9, 3:8] = 1
    logits = masks * 40 - 20
    assert float(dice_loss(logits, masks).max()) < 1e-4
    iou = torch.tensor([[1.0], [0.0]])
    assert float(training_loss(logits, iou, masks)) < 1e-3
    assert float(training_loss(-logits, iou, masks)) > 5


def run(built: FineTuning) -> tuple[dict[int, tuple[float, float]], dict[str, Tensor]]:
    epochs: dict[int, tuple[float, float]] = {}
    facts = built.run(lambda epoch, *losses: epochs.update({epoch: losses}))
    assert facts["epochs"] == built.protocol.epochs
    return epochs, read_tensors(built.folder / BEST_FILE)


def test_fine_tuning_learns_and_records_every_epoch(cases: list[TrainingCase], tmp_path: Path) -> None:
    epochs, best = run(fine_tuning(cases, tmp_path / "fit", epochs=4, learning_rate=1e-3))
    assert list(epochs) == [0, 1, 2, 3]
    assert epochs[3][0] < epochs[0][0]
    assert len(best) == 435


class KilledError(Exception):
    pass


class KilledAtThird(FineTuning):
    """Dies in the third iteration of its life."""

    lived = 0

    def _iterate(self, batch: Batch) -> float:
        self.lived += 1
        if self.lived == 3:
            raise KilledError
        return super()._iterate(batch)


def test_a_killed_run_ends_with_the_same_bits_as_one_that_was_not(cases: list[TrainingCase], tmp_path: Path) -> None:
    expected_epochs, expected = run(fine_tuning(cases, tmp_path / "whole", checkpoint_seconds=0.0))
    kills = 0
    while True:
        built = fine_tuning(cases, tmp_path / "killed", KilledAtThird, checkpoint_seconds=0.0)
        try:
            last, best = run(built)
            break
        except KilledError:
            kills += 1
    assert kills >= 2
    assert last[1] == expected_epochs[1]
    assert all(torch.equal(best[key], expected[key]) for key in expected)


def test_the_epoch_of_the_lowest_validation_loss_is_kept(cases: list[TrainingCase], tmp_path: Path) -> None:
    class Worsening(FineTuning):
        losses: Iterator[float] = iter([0.5, 0.2, 0.9])

        def _validate(self) -> float:
            super()._validate()
            self.kept = {key: value.clone() for key, value in self.model.state_dict().items()}
            loss = next(self.losses)
            if loss == 0.2:
                self.second = self.kept
            return loss

    built = fine_tuning(cases, tmp_path / "fit", Worsening, epochs=3)
    _, best = run(built)
    assert isinstance(built, Worsening)
    assert built.best_loss == 0.2
    assert torch.equal(best["mask_decoder.iou_token.weight"], built.second["mask_decoder.iou_token.weight"])
    assert not torch.equal(best["mask_decoder.iou_token.weight"], built.kept["mask_decoder.iou_token.weight"])


def test_validation_leaves_the_network_as_it_was(cases: list[TrainingCase], tmp_path: Path) -> None:
    built = fine_tuning(cases, tmp_path / "fit")
    before = {key: value.clone() for key, value in built.model.state_dict().items()}
    assert built._validate() == built._validate()
    assert all(torch.equal(before[key], value) for key, value in built.model.state_dict().items())


def test_a_checkpoint_of_another_protocol_is_not_continued(cases: list[TrainingCase], tmp_path: Path) -> None:
    run(fine_tuning(cases, tmp_path / "fit", epochs=1))
    assert fine_tuning(cases, tmp_path / "fit", epochs=1).epoch == 1
    assert fine_tuning(cases, tmp_path / "fit", epochs=2).epoch == 0


def test_divergence_is_an_error_that_names_the_epoch(cases: list[TrainingCase], tmp_path: Path) -> None:
    built = fine_tuning(cases, tmp_path / "fit")
    with torch.no_grad():
        built.model.mask_decoder.iou_token.weight.fill_(torch.inf)
    with pytest.raises(BenchError, match="diverged in epoch 0"):
        run(built)


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"margins": "big"}, {"train": "decoder", "flips": True}],
)
def test_a_protocol_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(StudyError):
        Protocol(**changes)  # type: ignore[arg-type]


def test_without_validation_cases_the_training_loss_chooses_the_epoch(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    epochs, _ = run(fine_tuning(cases[:2], tmp_path / "fit", epochs=1))
    assert math.isnan(epochs[0][1])


def test_a_split_without_training_prompts_is_refused(cases: list[TrainingCase], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no training prompts"):
        fine_tuning([], tmp_path / "fit")


def test_a_finished_fit_keeps_no_optimiser_and_is_not_repeated(cases: list[TrainingCase], tmp_path: Path) -> None:
    run(fine_tuning(cases, tmp_path / "fit", epochs=1))
    assert (tmp_path / "fit" / "checkpoint.pt").stat().st_size < 100_000
    epochs, best = run(fine_tuning(cases, tmp_path / "fit", epochs=1))
    assert epochs == {}
    assert len(best) == 435


def embedded(cases: list[TrainingCase], folder: Path, limit: int, asked: list[str] | None = None) -> Embeddings:
    """Embeddings by one random network, each asked for written down."""
    torch.manual_seed(5)
    model = LiteMedSAM(SIZE).eval()

    def encode(case: TrainingCase, z: int) -> npt.NDArray[np.float32]:
        if asked is not None:
            asked.append(f"{case.case}/{z}")
        framed = torch.from_numpy(slice_to_frame(case.images.fused_slice("ct-only", z), SIZE))
        with torch.no_grad():
            return model.encode(framed[None])[0].numpy()

    return Embeddings(cases, encode, folder, limit)


def decoder_tuning(
    cases: list[TrainingCase], folder: Path, kept: Embeddings, kind: type[FineTuning] = FineTuning
) -> FineTuning:
    protocol = Protocol(epochs=2, batch=4, train="decoder", flips=False, learning_rate=1e-3, checkpoint_seconds=0.0)
    torch.manual_seed(5)
    training, validation = (replace(samples(part), embeddings=kept) for part in (cases[:2], cases[2:]))
    return kind(LiteMedSAM(SIZE), training, validation, protocol, folder=folder, seed=3, device=CPU)


def test_a_frozen_encoder_embeds_every_slice_once_and_stays_as_it_is(cases: list[TrainingCase], tmp_path: Path) -> None:
    asked: list[str] = []
    kept = embedded(cases, tmp_path / "embeddings", 10**9, asked)
    assert kept.prepare() == 0
    built = decoder_tuning(cases, tmp_path / "fit", kept)
    before = {key: value.clone() for key, value in flat_state(built.model).items()}
    _, best = run(built)
    assert sorted(asked) == sorted(f"P{case}/{z}" for case in range(3) for z in range(3))
    changed = {key.split(".")[0] for key, value in best.items() if not torch.equal(value, before[key])}
    assert changed == {"mask_decoder"}
    assert kept.prepare() == 0
    assert len(asked) == 9


def test_what_does_not_fit_into_the_limit_is_embedded_again_with_the_same_result(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    found = []
    for limit, left in ((10**9, 0), (3 * 256 * 64 * 2 + 200, 6), (0, 9)):
        kept = embedded(cases, tmp_path / f"embeddings{limit}", limit)
        assert kept.prepare() == left
        found.append(run(decoder_tuning(cases, tmp_path / f"fit{limit}", kept)))
    for epochs, best in found[1:]:
        assert epochs == found[0][0]
        assert all(torch.equal(best[key], found[0][1][key]) for key in best)


def test_a_killed_decoder_training_ends_with_the_same_bits(cases: list[TrainingCase], tmp_path: Path) -> None:
    kept = embedded(cases, tmp_path / "embeddings", 10**9)
    kept.prepare()
    _, expected = run(decoder_tuning(cases, tmp_path / "whole", kept))
    with pytest.raises(KilledError):
        run(decoder_tuning(cases, tmp_path / "killed", kept, KilledAtThird))
    _, best = run(decoder_tuning(cases, tmp_path / "killed", kept))
    assert all(torch.equal(best[key], expected[key]) for key in expected)
