"""One fit on several devices: a process for each, which train one network together by torch.distributed.

The process that calls `together` is rank 0 and has the recorder; the other ranks are spawned beside it. They find each
other by a file of their own, so that several fits may run on one machine.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gtvbench.adapters.base import Recorder
from gtvbench.bench.core.errors import BenchError

T = TypeVar("T")

#: Of a message between ranks: one may prepare for hours what the others wait for. `together` sees one that died.
_PATIENCE = timedelta(days=30)
_TICK_S = 0.2
#: Seconds in which the ranks must have ended once the fit is over, and in which one that broke a message says why.
_GRACE_S = 5.0


def rank_and_ranks() -> tuple[int, int]:
    """Number of this process among those of the fit, from 0, and how many they are; (0, 1) outside of `together`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wait_for_ranks() -> None:
    """Go on when every rank has come here; at once outside of `together`."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over all ranks, all in one message; they are of one type and on one device."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def require_devices(processes: int, device: str) -> None:
    """Raise BenchError where `device` ("cpu", "cuda" or "mps") is not there for so many processes."""
    if processes == 1 or device == "cpu":
        return
    found = torch.cuda.device_count() if device == "cuda" else 1
    if found < processes:
        raise BenchError(
            f"a fit is to use {processes} GPUs, but this process sees {found}",
            remedy="lower 'engine: gpus-per-fit', or give the arm more GPUs ('gpus', 'gpus-per-job')",
        )


def together(processes: int, device: str, do: Callable[..., T], *arguments: Any, recorder: Recorder) -> T:
    """Call `do(*arguments, recorder, device)` in every rank at once, and return what it returns in rank 0.

    With one process that is a call, without torch.distributed. `do` and `arguments` are pickled for the other ranks,
    whose recorder keeps nothing. `device` is "cpu" or "cuda"; a rank is told its own: "cuda:1".

    Raises:
        BenchError: the devices are not there; or a rank raised or died, with its name and traceback. What rank 0 raises
            by itself comes as it is. The other ranks are ended in any case.
    """
    if processes == 1:
        return do(*arguments, recorder, device)
    require_devices(processes, device)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="gtvbench-ranks-", ignore_cleanup_errors=True) as folder:
        ranks = [_Rank(number, processes, device, Path(folder)) for number in range(processes)]
        others = {rank: spawn.Process(target=_follow, args=(rank, do, arguments)) for rank in ranks[1:]}
        for process in others.values():
            process.start()
        # In a thread: nothing wakes a process from a message on a GPU whose other end has died. So the thread waits for
        # messages, and this one for deaths.
        led, over = Future[T](), threading.Event()
        thread = threading.Thread(target=_lead, args=(ranks[0], led, over, do, (*arguments, recorder)), daemon=True)
        thread.start()
        try:
            while not (led.done() or _fallen(others)):
                concurrent.futures.wait([led], _TICK_S)
            # One failure brings others about: rank 0 may have met the death of another rank, or the other way round.
            deadline = time.monotonic() + _GRACE_S
            while not (_speaks(led) or (led.done() and _fallen(others)) or time.monotonic() > deadline):
                time.sleep(_TICK_S)
            fallen = _fallen(others)
            if fallen and not _speaks(led):
                raise BenchError(fallen)
            return led.result()
        finally:
            well = led.done() and led.exception() is None  # then they end by themselves
            for process in others.values():
                process.join(_GRACE_S if well else 0)
                process.kill()
                process.join(_GRACE_S)
            over.set()
            thread.join(_GRACE_S)


@dataclass(frozen=True)
class _Rank:
    number: int
    processes: int
    device: str
    folder: Path

    @property
    def report(self) -> Path:
        """File in which a rank says what it raised."""
        return self.folder / f"rank-{self.number}.txt"

    def join(self) -> str:
        """Meet the other ranks; the device of this one."""
        cpu = self.device == "cpu"
        device = self.device if cpu else f"{self.device}:{self.number}"
        if not cpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "gloo" if cpu else "nccl",
            (self.folder / "ranks").as_uri(),
            rank=self.number,
            world_size=self.processes,
            timeout=_PATIENCE,
            device_id=None if cpu else torch.device(device),
        )
        return device


class _Silent:
    """The recorder of every rank but the first."""

    def ready(self) -> None: ...

    def saved(self) -> None: ...

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None: ...


def _lead(rank: _Rank, led: Future[T], over: threading.Event, do: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    try:
        found = do(*arguments, rank.join())
        dist.destroy_process_group()
        led.set_result(found)
    except BaseException as error:
        led.set_exception(error)
        over.wait()  # ranks that are left alone fail too, and would look like the cause
        if dist.is_initialized():
            dist.destroy_process_group()


def _follow(rank: _Rank, do: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A spawned rank. It ends at once where it fails: a tidy end would wait for the others."""
    try:
        if rank.device == "cpu":
            torch.set_num_threads(max(1, torch.get_num_threads() // rank.processes))
        do(*arguments, _Silent(), rank.join())
        dist.destroy_process_group()
    except BaseException as error:
        said = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        told = f"{said}\n{traceback.format_exc()}"
        rank.report.write_text(told)
        print(f"rank {rank.number}: {told}", file=sys.stderr, flush=True)  # noqa: T201 - this is the arm's log
        os._exit(1)


def _speaks(led: Future[T]) -> bool:
    """Whether rank 0 is done, or failed with an error that needs no other to explain it."""
    return led.done() and (led.exception() is None or isinstance(led.exception(), BenchError))


def _fallen(others: dict[_Rank, SpawnProcess]) -> str:
    """How the first rank that failed ended, and its traceback; empty where none did."""
    for rank, process in others.items():
        if process.exitcode:
            how = "raised" if process.exitcode > 0 else f"was killed by signal {-process.exitcode}"
            told = rank.report.read_text() if rank.report.exists() else "it left no traceback; see the arm's log.txt"
            return f"rank {rank.number} of {rank.processes} of the fit {how}: {told}"
    return ""
