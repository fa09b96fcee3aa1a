"""Fine-tuning LiteMedSAM: samples, losses, best epoch, resume after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from tuning import Losses, make_case

from gtvbench.adapters.litemedsam.checkpoints import flat_state, read_tensors
from gtvbench.adapters.litemedsam.embeddings import Embeddings
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.preprocess import slice_to_frame
from gtvbench.adapters.litemedsam.samples import Batch, Samples
from gtvbench.adapters.litemedsam.training import BEST_FILE, FineTuning, Protocol, dice_loss, training_loss
from gtvbench.bench.core.cases import TrainingCase
from gtvbench.bench.core.errors import BenchError, DataError, StudyError
from gtvbench.bench.core.prompts import policy_from

SIZE = 32
Cases = list[TrainingCase]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that add gradients up in another order change their last bits, with or without a kill."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = tmp_path_factory.mktemp("cases")
    return [make_case(folder, f"P{i}", i) for i in range(3)]


def samples(cases: Cases, batch: int = 4) -> Samples:
    return Samples(cases, "ct-only", SIZE, "min-max", batch)


def fine_tuning(cases: Cases, folder: Path, kind: type[FineTuning] = FineTuning, **changes: object) -> FineTuning:
    protocol = Protocol(**{"epochs": 2, "batch": 4, **changes})  # type: ignore[arg-type]
    torch.manual_seed(5)
    training, validation = samples(cases[:2], protocol.batch), samples(cases[2:], protocol.batch)
    return kind(LiteMedSAM(SIZE), training, validation, protocol, folder=folder, seed=3, device=CPU)


def test_every_pair_comes_once_an_epoch_in_an_order_of_its_own(cases: Cases) -> None:
    built = samples(cases)
    plans = {epoch: built.plan(3, epoch) for epoch in (1, 2)}
    orders = {}
    for epoch, plan in plans.items():
        assert [sum(len(one.prompts) for one in batch) for batch in plan] == [4, 4, 4, 3]
        orders[epoch] = [(s.case, s.z, p.structure, p.instance) for batch in plan for s in batch for p in s.prompts]
        assert len(orders[epoch]) == len(set(orders[epoch])) == 15
    assert orders[1] != orders[2]
    assert plans[1] == built.plan(3, 1)


def test_a_batch_holds_a_slice_once_for_all_its_stored_prompts(cases: Cases) -> None:
    built = samples(cases, batch=15)
    (only,) = built.plan()
    batch = built.stored(only)
    assert batch.images.shape == (9, 3, SIZE, SIZE)
    assert batch.owners.tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 7, 7, 7, 8]
    stored = [(p.x0, p.y0, p.x1 - 1, p.y1 - 1) for case in cases for p in case.prompts.boxes]
    assert batch.boxes.tolist() == [list(map(float, box)) for box in stored]


def test_redrawn_boxes_hold_their_masks_have_physical_margins_and_depend_on_names_alone(cases: Cases) -> None:
    built = samples(cases, batch=15)
    (only,) = built.plan()
    policy = policy_from("random-margin(0, 20)")
    seen = set()
    for epoch in range(4):
        batch = built.redrawn(only, policy, flips=True, names=(1, epoch))
        for box, mask in zip(batch.boxes, batch.masks[:, 0], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            assert box[0] <= xs.min() <= xs.max() <= box[2]
            assert box[1] <= ys.min() <= ys.max() <= box[3]
        seen.add(tuple(batch.boxes.flatten().tolist()))
    assert len(seen) == 4
    assert torch.equal(batch.boxes, built.redrawn(only, policy, flips=True, names=(1, 3)).boxes)
    fixed = built.redrawn(only, policy_from("fixed-margin(6)"), flips=False, names=(1,))
    tight = built.redrawn(only, policy_from("tight"), flips=False, names=(1,))
    assert torch.equal(tight.boxes[0] - fixed.boxes[0], torch.tensor([2.0, 2, -2, -2]))  # 6 mm at 3 mm a pixel


def test_a_prompt_without_its_instance_is_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path, "P0", 0)
    np.save(case.reference, np.zeros((3, 32, 32), np.uint8))
    built = samples([case])
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
    losses = Losses()
    facts = built.run(losses)
    assert facts["epochs"] == built.protocol.epochs
    return losses.epochs, read_tensors(built.folder / BEST_FILE)


class KilledError(Exception):
    pass


class KilledAtSecond(FineTuning):
    """Dies in the second iteration of its life."""

    lived = 0

    def _iterate(self, batch: Batch) -> float:
        self.lived += 1
        if self.lived == 2:
            raise KilledError
        return super()._iterate(batch)


def test_a_run_killed_within_and_between_epochs_ends_with_the_same_bits(cases: Cases, tmp_path: Path) -> None:
    two_a_epoch: dict[str, Any] = {"batch": 5, "checkpoint_seconds": 0.0}
    expected_epochs, expected = run(fine_tuning(cases, tmp_path / "whole", **two_a_epoch))
    for _ in range(3):
        with pytest.raises(KilledError):
            run(fine_tuning(cases, tmp_path / "killed", KilledAtSecond, **two_a_epoch))
    last, best = run(fine_tuning(cases, tmp_path / "killed", **two_a_epoch))
    assert last[1] == expected_epochs[1]
    assert all(torch.equal(best[key], expected[key]) for key in expected)


def test_fine_tuning_learns_and_keeps_the_epoch_of_the_lowest_validation_loss(cases: Cases, tmp_path: Path) -> None:
    class Worsening(FineTuning):
        losses: Iterator[float] = iter([0.5, 0.2, 0.9])

        def _validate(self) -> float:
            super()._validate()
            self.kept = {key: value.clone() for key, value in self.model.state_dict().items()}
            loss = next(self.losses)
            if loss == 0.2:
                self.second = self.kept
            return loss

    built = fine_tuning(cases, tmp_path / "fit", Worsening, epochs=3, learning_rate=1e-3)
    epochs, best = run(built)
    assert {epoch: losses[1] for epoch, losses in epochs.items()} == {0: 0.5, 1: 0.2, 2: 0.9}
    assert epochs[2][0] < epochs[0][0]
    assert len(best) == 435
    assert isinstance(built, Worsening)
    assert built.best_loss == 0.2
    assert torch.equal(best["mask_decoder.iou_token.weight"], built.second["mask_decoder.iou_token.weight"])
    assert not torch.equal(best["mask_decoder.iou_token.weight"], built.kept["mask_decoder.iou_token.weight"])


def test_validation_changes_nothing_and_divergence_is_an_error_that_names_its_epoch(
    cases: Cases, tmp_path: Path
) -> None:
    built = fine_tuning(cases, tmp_path / "fit")
    before = {key: value.clone() for key, value in built.model.state_dict().items()}
    assert built._validate() == built._validate()
    assert all(torch.equal(before[key], value) for key, value in built.model.state_dict().items())
    with torch.no_grad():
        built.model.mask_decoder.iou_token.weight.fill_(torch.inf)
    with pytest.raises(BenchError, match="diverged in epoch 0"):
        run(built)


def test_a_finished_fit_is_small_not_repeated_and_not_continued_by_another_protocol(
    cases: Cases, tmp_path: Path
) -> None:
    run(fine_tuning(cases, tmp_path / "fit", epochs=1))
    assert (tmp_path / "fit" / "checkpoint.pt").stat().st_size < 100_000
    again = fine_tuning(cases, tmp_path / "fit", epochs=1)
    assert again.epoch == 1
    epochs, best = run(again)
    assert epochs == {} and len(best) == 435
    assert fine_tuning(cases, tmp_path / "fit", epochs=2).epoch == 0


def test_a_protocol_or_a_split_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"margins": "big"}]
    for changes in [*wrong, {"train": "decoder", "flips": True}]:
        with pytest.raises(StudyError):
            Protocol(**changes)
    with pytest.raises(StudyError, match="no training prompts"):
        fine_tuning([], tmp_path / "fit")


def test_without_validation_cases_the_training_loss_chooses_the_epoch(cases: Cases, tmp_path: Path) -> None:
    epochs, _ = run(fine_tuning(cases[:2], tmp_path / "fit", epochs=1))
    assert math.isnan(epochs[0][1])


def embedded(cases: Cases, folder: Path, limit: int, asked: list[str] | None = None) -> Embeddings:
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


@dataclass
class Fit:
    kept: Embeddings
    asked: list[str]
    before: dict[str, Tensor]
    epochs: dict[int, tuple[float, float]]
    best: dict[str, Tensor]


def decoder_tuning(cases: Cases, folder: Path, kept: Embeddings, kind: type[FineTuning] = FineTuning) -> FineTuning:
    protocol = Protocol(epochs=2, batch=4, train="decoder", flips=False, learning_rate=1e-3, checkpoint_seconds=0.0)
    torch.manual_seed(5)
    training, validation = (replace(samples(part), embeddings=kept) for part in (cases[:2], cases[2:]))
    return kind(LiteMedSAM(SIZE), training, validation, protocol, folder=folder, seed=3, device=CPU)


@pytest.fixture(scope="module")
def decoder_fit(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A decoder trained upon embeddings that all fit into the limit."""
    folder = tmp_path_factory.mktemp("decoder")
    asked: list[str] = []
    kept = embedded(cases, folder / "embeddings", 10**9, asked)
    assert kept.prepare() == 0
    built = decoder_tuning(cases, folder / "fit", kept)
    before = {key: value.clone() for key, value in flat_state(built.model).items()}
    epochs, best = run(built)
    return Fit(kept, asked, before, epochs, best)


def test_a_frozen_encoder_embeds_every_slice_once_and_stays_as_it_is(decoder_fit: Fit) -> None:
    assert sorted(decoder_fit.asked) == sorted(f"P{case}/{z}" for case in range(3) for z in range(3))
    changed = {k.split(".")[0] for k, v in decoder_fit.best.items() if not torch.equal(v, decoder_fit.before[k])}
    assert changed == {"mask_decoder"}
    assert decoder_fit.kept.prepare() == 0
    assert len(decoder_fit.asked) == 9


def test_what_exceeds_the_limit_is_embedded_again_with_the_same_result(
    cases: Cases, tmp_path: Path, decoder_fit: Fit
) -> None:
    assert embedded(cases, tmp_path / "none", 0).prepare() == 9
    kept = embedded(cases, tmp_path / "three", 3 * 256 * 64 * 2 + 200)
    assert kept.prepare() == 6
    epochs, best = run(decoder_tuning(cases, tmp_path / "fit", kept))
    assert epochs == decoder_fit.epochs
    assert all(torch.equal(best[key], decoder_fit.best[key]) for key in best)


def test_a_killed_decoder_training_ends_with_the_same_bits(cases: Cases, tmp_path: Path, decoder_fit: Fit) -> None:
    with pytest.raises(KilledError):
        run(decoder_tuning(cases, tmp_path / "killed", decoder_fit.kept, KilledAtSecond))
    _, best = run(decoder_tuning(cases, tmp_path / "killed", decoder_fit.kept))
    assert all(torch.equal(best[key], decoder_fit.best[key]) for key in decoder_fit.best)
