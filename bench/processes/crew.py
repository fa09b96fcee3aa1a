"""Tasks done side by side within what cores and memory allow: reading patients, scoring predictions.

What a process sends back is small, never a volume, so that memory is bounded by the number of processes. Few or small
tasks are done by the calling process itself, because another takes longer to start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gtvbench.bench.files import provenance
from gtvbench.bench.processes.pool import Event, Pool, never
from gtvbench.bench.processes.worker import Done, Failure, Work, attempt
from gtvbench.bench.study.file import PreparationOptions

#: Input (bytes) up to which the calling process does all tasks: less work than starting processes.
SMALL_BYTES = 32 << 20
#: Taken for the peak memory of a task until one was measured: two of 512 x 512 x 150 with four modalities fit.
FIRST_GUESS_BYTES = 3 << 30
#: Share of the available memory that `auto` takes, and what the measured peak is multiplied by.
_SHARE, _SPARE = 0.8, 1.2
#: Each crew counts on all cores and on the memory that is free.
_AT_WORK = threading.Lock()


@dataclass
class Crew:
    """Performs tasks of one work, as many at a time as `options` say. `what` names a process of it in messages; `locks`
    are inherited as by the arms' workers; where `stopped` comes true, tasks are left undone."""

    work: Work
    what: str
    options: PreparationOptions
    locks: Sequence[int] = ()
    stopped: Callable[[], bool] = never
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = Pool(self.work, self.what, self.locks, limit=self.allowed, stopped=self.stopped)

    def results(self, tasks: Sequence[Any], input_bytes: int | None) -> Generator[tuple[Any, Done | Failure]]:
        """Each task with how it ended, in the order in which they end. `input_bytes`: of all tasks; None: unknown, or
        not to be done by the calling process."""
        if not tasks:
            return
        if self._alone(tasks, input_bytes):
            performer = self.work.open()
            for task in tasks:
                yield task, attempt(lambda task=task: performer.perform(task, _unheard))  # type: ignore[misc]
                if self.stopped():
                    return
            return
        yield from self.side_by_side(tasks)

    def side_by_side(self, tasks: Sequence[Any]) -> Generator[tuple[Any, Done | Failure]]:
        """As `results`, in worker processes whatever the tasks are; one crew of this process at a time."""
        while not _AT_WORK.acquire(timeout=0.5):
            if self.stopped():
                return
        try:
            yield from self._all(tasks)
        finally:
            _AT_WORK.release()

    def _all(self, tasks: Sequence[Any]) -> Generator[tuple[Any, Done | Failure]]:
        self._cores = min(provenance.usable_cores(), len(tasks))
        self._budget = self._memory()
        planned = self._cores if self.options.workers == "auto" else self.options.workers
        self.pool.environment = _threads(max(1, provenance.usable_cores() // planned))
        with self.pool as pool:
            for found in pool.run(tasks):
                assert not isinstance(found, Event)
                yield found.task, found.failure or Done(found.value, 0)

    def _alone(self, tasks: Sequence[Any], input_bytes: int | None) -> bool:
        if input_bytes is None:
            return False
        return (
            self.options.workers == 1
            or len(tasks) == 1
            or (self.options.workers == "auto" and input_bytes <= SMALL_BYTES)
        )

    def _memory(self) -> float:
        if self.options.memory_gb != "auto":
            return self.options.memory_gb * 2**30
        return _SHARE * available_memory()

    def allowed(self) -> int:
        """Workers that may be at work now: asked for, or as cores, tasks and the memory measured so far allow."""
        if self.options.workers != "auto" and self.options.memory_gb == "auto":
            return self.options.workers
        most = self._cores if self.options.workers == "auto" else self.options.workers
        each = self.pool.peak_bytes * _SPARE if self.pool.peak_bytes else FIRST_GUESS_BYTES
        return max(1, min(most, int(self._budget // each)))


def _unheard(event: object) -> None:
    """Nobody listens to what a task tells on its way."""


def available_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that may be taken: what the system has left, or the control group (container, batch job) where less."""
    free = int(psutil.virtual_memory().available)
    try:
        name = next(line.strip()[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return free
    folder = root / name.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        with suppress(OSError, ValueError):
            limit = int((group / "memory.max").read_text())  # "max" is no number: no limit
            used = int((group / "memory.current").read_text())
            cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, max(0, limit - used + int(cached.get("inactive_file", 0))))
    return free


def _threads(each: int) -> dict[str, str]:
    """Environment of a worker: all of them together use the cores once."""
    names = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(each))
