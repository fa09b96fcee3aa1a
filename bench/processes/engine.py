"""What computes a run: what an engine is given (`Job`), its interface (`Engine`), and the engine of this machine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gtvbench.bench.core.events import Event, JobDone, JobStarted
from gtvbench.bench.processes.pool import never


class Job(Protocol):
    """A part of a run: small and picklable, it names what lies on the file system, and publishes in the run folder."""

    @property
    def name(self) -> str:
        """Unique in its run."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether it may need a GPU."""
        ...

    def run(self, lock: int | None, environment: Mapping[str, str], stopped: Callable[[], bool]) -> Generator[Event]:
        """Do what is missing, in child processes; yields what happens.

        `lock` is the descriptor of the run folder's lock, which they inherit; None: on another machine. `environment`
        is added to theirs; where `stopped` comes true they are ended.
        """
        ...


class Engine(Protocol):
    """Computes jobs. A result is published in the run folder; an event only tells of it."""

    @property
    def parts(self) -> int:
        """Into how many jobs work should be cut that can be cut anywhere."""
        ...

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[str, Event]]:
        """What happens to each job, by its name, as it happens, from `JobStarted` to `JobDone`. Closed early, it ends
        what it started."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Jobs one after another on this machine, or arms side by side with `gpus_per_fit` GPUs each (`gpus`: their
    numbers).

    `lock` is the descriptor of the run folder's lock, which every process inherits.
    """

    lock: int
    gpus: tuple[int, ...] = ()
    gpus_per_fit: int = 1
    parts: int = 1

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[str, Event]]:
        """As `Engine.run`; the events of arms that run side by side come mixed."""
        each = self.gpus_per_fit
        slots = [",".join(map(str, self.gpus[n : n + each])) for n in range(0, len(self.gpus), each)]
        if len(slots) > 1 and len(jobs) > 1:
            yield from self._side_by_side(jobs, slots)
            return
        environment = {"CUDA_VISIBLE_DEVICES": slots[0]} if slots else {}
        for job in jobs:
            yield job.name, JobStarted()
            for event in job.run(self.lock, environment, never):
                yield job.name, event
            yield job.name, JobDone()

    def close(self) -> None:
        """As `Engine.close`."""

    def _side_by_side(self, jobs: Sequence[Job], slots: Sequence[str]) -> Generator[tuple[str, Event]]:
        """One thread a slot (its GPUs, as in "0,1") takes the next job. Threads live as long as what they start: a
        child would die with them."""
        told: queue.SimpleQueue[tuple[str, Event | BaseException]] = queue.SimpleQueue()
        waiting, stop = iter(jobs), threading.Event()
        taking = threading.Lock()

        def serve(gpus: str) -> None:
            while not stop.is_set():
                with taking:
                    job = next(waiting, None)
                if job is None:
                    return
                name = job.name
                told.put((name, JobStarted()))
                try:
                    for event in job.run(self.lock, {"CUDA_VISIBLE_DEVICES": gpus}, stop.is_set):
                        told.put((name, event))
                except BaseException as error:
                    told.put((name, error))
                    return
                told.put((name, JobDone()))

        threads = [threading.Thread(target=serve, args=(gpus,), name=f"gpu-{gpus}") for gpus in slots]
        for thread in threads:
            thread.start()
        try:
            left = len(jobs)
            while left:
                name, event = told.get()
                if isinstance(event, BaseException):
                    raise event
                left -= isinstance(event, JobDone)
                yield name, event
        finally:
            stop.set()
            for thread in threads:
                thread.join()
