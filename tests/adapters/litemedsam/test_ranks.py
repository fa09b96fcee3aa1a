"""Fine-tuning in two processes is fine-tuning in one: the same losses, the same weights, also after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import tune
from tuning import Losses, make_case

from gtvbench.adapters.litemedsam.checkpoints import read_tensors
from gtvbench.adapters.litemedsam.options import BEST_FILE, Protocol
from gtvbench.adapters.litemedsam.samples import Samples, count_pairs, share
from gtvbench.adapters.parallel import together
from gtvbench.bench.core.errors import BenchError

PROTOCOL = Protocol(epochs=2, batch=3, learning_rate=1e-5, amp=False, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, Samples]:
    folder = tmp_path_factory.mktemp("cases")
    cases = [make_case(folder, f"P{i}", i) for i in range(3)]
    return tuple(Samples(part, "ct-only", 32, "min-max", PROTOCOL.batch) for part in (cases[:2], cases[2:]))  # type: ignore[return-value]


def fit(samples: Any, folder: Path, processes: int, at: int = 0) -> tuple[Losses, dict[str, Any]]:
    losses = Losses()
    before = torch.get_num_threads()
    try:
        facts, built = together(processes, "cpu", tune, samples, PROTOCOL, folder, at, recorder=losses)
    finally:
        torch.set_num_threads(before)
    assert facts["epochs"] == 2
    return losses, built


def test_shares_hold_every_slice_whole_and_may_be_empty(samples: tuple[Samples, Samples]) -> None:
    sizes = []
    for batch in samples[0].plan(3, 0):
        shares = [share(batch, rank, 2) for rank in range(2)]
        assert sorted(map(id, batch)) == sorted(id(one) for part in shares for one in part)
        sizes.append(tuple(count_pairs(part) for part in shares))
    assert sum(map(sum, sizes)) == 10
    assert (1, 0) in sizes, "no share was empty: the tests below would show less"


def test_two_processes_train_as_one_does_and_go_on_after_a_stop(
    samples: tuple[Samples, Samples], tmp_path: Path
) -> None:
    alone, one = fit(samples, tmp_path / "one", 1)
    losses, two = fit(samples, tmp_path / "two", 2)
    assert list(losses.epochs) == [0, 1], "one row an epoch"
    for epoch, expected in alone.epochs.items():
        assert losses.epochs[epoch] == pytest.approx(expected, rel=1e-6)
    # AdamW divides by a gradient's size, so that rounding moves weights whose gradient is next to nothing by its rate.
    assert one["weights"].keys() == two["weights"].keys()
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-4, atol=1.6e-5, msg=name)
    difference = (two["gradients"] - one["gradients"]).norm() / one["gradients"].norm()
    assert difference < 1e-4, "the average of the gradients"
    with pytest.raises(BenchError, match="stopped"):
        fit(samples, tmp_path / "stopped", 2, at=3)
    shutil.copytree(tmp_path / "stopped", tmp_path / "fewer")
    again, resumed = fit(samples, tmp_path / "stopped", 2)
    assert again.epochs == losses.epochs
    assert all(torch.equal(weight, two["weights"][name]) for name, weight in resumed["weights"].items())
    kept = [read_tensors(tmp_path / name / BEST_FILE) for name in ("two", "stopped")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    fewer, _ = fit(samples, tmp_path / "fewer", 1)  # a resumed fit may have another number of ranks
    assert fewer.epochs[1] == pytest.approx(losses.epochs[1], rel=1e-6)
