"""What the ranks of a fit do in tests: spawned processes import it by name, which they cannot with a test's module."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.samples import Batch, Samples
from gtvbench.adapters.litemedsam.training import FineTuning, Protocol
from gtvbench.adapters.parallel import rank_and_ranks, sum_over_ranks
from gtvbench.bench.core.errors import BenchError


def fall(how: str, number: int, recorder: Any, device: str) -> str:
    """Exchange a message, then fall in rank `number` while the others wait for another."""
    sum_over_ranks([torch.ones(2)])
    rank, _ = rank_and_ranks()
    if rank == number:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "told":
            raise BenchError("the learning rate is too high")
        raise LookupError("no such slice")
    dist.barrier()
    return "never"


class Stopped(FineTuning):
    """Every rank stops in iteration `at` of its life, 0: never."""

    at = 0
    lived = 0

    def _iterate(self, batch: Batch) -> float:
        self.lived += 1
        if self.lived == self.at:
            raise BenchError("stopped")
        return super()._iterate(batch)


def tune(
    samples: tuple[Samples, Samples], protocol: Protocol, folder: Path, at: int, recorder: Any, device: str
) -> Any:
    """Fine-tune a network of 32 pixels from the same weights in every rank; facts, and what a test asks of rank 0."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    built = Stopped(LiteMedSAM(32), *samples, protocol, folder=folder, seed=3, device=torch.device(device))
    built.at = at
    facts = built.run(recorder)
    gradients = torch.cat([state["exp_avg"].flatten() for state in built.optimiser.state.values()])
    return facts, {"weights": built.model.state_dict(), "gradients": gradients}
