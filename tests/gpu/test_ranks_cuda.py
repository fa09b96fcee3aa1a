"""Two GPUs fine-tune LiteMedSAM as one does. Skipped where there are not two."""

from pathlib import Path

import pytest
import torch
from ranks import tune
from tuning import Losses, make_case

from gtvbench.adapters.litemedsam.options import Protocol
from gtvbench.adapters.litemedsam.samples import Samples
from gtvbench.adapters.parallel import together

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.parametrize(("amp", "tolerance"), [(False, 1e-3), (True, 1e-2)])
def test_two_gpus_give_the_losses_of_one(amp: bool, tolerance: float, tmp_path: Path) -> None:
    cases = [make_case(tmp_path, f"P{i}", i) for i in range(3)]
    protocol = Protocol(epochs=2, batch=3, learning_rate=1e-5, amp=amp)
    samples = tuple(Samples(part, "ct-only", 32, "min-max", protocol.batch) for part in (cases[:2], cases[2:]))
    found = []
    for count in (1, 2):
        found.append(Losses())
        together(count, "cuda", tune, samples, protocol, tmp_path / str(count), 0, recorder=found[-1])
    for epoch, expected in found[0].epochs.items():
        assert found[1].epochs[epoch] == pytest.approx(expected, rel=tolerance)
