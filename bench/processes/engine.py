"""What computes the arms of a run: the interface of an engine, and the engine of this machine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gtvbench.bench.core.events import ArmDone, ArmStarted, Event
from gtvbench.bench.processes.arm import ArmWork
from gtvbench.bench.processes.local import run_arm


class Engine(Protocol):
    """Computes what is missing of arms. A result is published in the run folder; an event only tells of it."""

    def run(self, works: Sequence[ArmWork]) -> Generator[tuple[str, Event]]:
        """What happens to each arm, by its name, as it happens, from `ArmStarted` to `ArmDone`. Closed early, it
        ends what it started."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Arms one after another on this machine, or side by side with `gpus_per_fit` GPUs each (`gpus`: their numbers).

    `lock` is the descriptor of the run folder's lock, which every process inherits.
    """

    lock: int
    gpus: tuple[int, ...] = ()
    gpus_per_fit: int = 1

    def run(self, works: Sequence[ArmWork]) -> Generator[tuple[str, Event]]:
        """As `Engine.run`; the events of arms that run side by side come mixed."""
        each = self.gpus_per_fit
        slots = [",".join(map(str, self.gpus[n : n + each])) for n in range(0, len(self.gpus), each)]
        if len(slots) > 1 and len(works) > 1:
            yield from self._side_by_side(works, slots)
            return
        environment = {"CUDA_VISIBLE_DEVICES": slots[0]} if slots else {}
        for work in works:
            yield work.arm.name, ArmStarted()
            for event in run_arm(work, self.lock, environment):
                yield work.arm.name, event
            yield work.arm.name, ArmDone()

    def _side_by_side(self, works: Sequence[ArmWork], slots: Sequence[str]) -> Generator[tuple[str, Event]]:
        """One thread a slot (its GPUs, as in "0,1") takes the next arm. Threads live as long as what they start: a
        child would die with them."""
        told: queue.SimpleQueue[tuple[str, Event | BaseException]] = queue.SimpleQueue()
        waiting, stop = iter(works), threading.Event()
        taking = threading.Lock()

        def serve(gpus: str) -> None:
            while not stop.is_set():
                with taking:
                    work = next(waiting, None)
                if work is None:
                    return
                name = work.arm.name
                told.put((name, ArmStarted()))
                try:
                    for event in run_arm(work, self.lock, {"CUDA_VISIBLE_DEVICES": gpus}, stop.is_set):
                        told.put((name, event))
                except BaseException as error:
                    told.put((name, error))
                    return
                told.put((name, ArmDone()))

        threads = [threading.Thread(target=serve, args=(gpus,), name=f"gpu-{gpus}") for gpus in slots]
        for thread in threads:
            thread.start()
        try:
            left = len(works)
            while left:
                name, event = told.get()
                if isinstance(event, BaseException):
                    raise event
                left -= isinstance(event, ArmDone)
                yield name, event
        finally:
            stop.set()
            for thread in threads:
                thread.join()
