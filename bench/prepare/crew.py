"""Reads patients side by side: worker processes that each open the study's source and take one patient at a time.

What a worker sends back is a small record, never a volume, so that memory is bounded by the number of workers. A worker
that dies costs the patient at hand a second attempt, alone; a second death is that patient's failure. Few or small
patients are read by the run itself, because a process takes longer to start.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import psutil

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.files import provenance
from gtvbench.bench.prepare.crew_worker import Task, perform, setting
from gtvbench.bench.processes.local import ended, kill_group
from gtvbench.bench.study.cohort import Job
from gtvbench.bench.study.file import PreparationOptions

#: Input (bytes of files) up to which the run itself reads the patients: less work than starting processes.
SMALL_BYTES = 32 << 20
#: Taken for the peak memory of a patient until one was measured: two of 512 x 512 x 150 with four modalities fit.
FIRST_GUESS_BYTES = 3 << 30
#: Share of the available memory that `auto` takes, and what the measured peak is multiplied by.
_SHARE, _SPARE = 0.8, 1.2

Status = Literal["unreadable", "crashed"]


@dataclass(frozen=True)
class Result:
    """How one patient ended: `value` is what the work gave, or `error` and `status` say why there is none."""

    case: str
    value: Any = None
    error: DataError | None = None
    status: Status | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    link: Connection
    task: Task | None = None


@dataclass
class Crew:
    """Performs tasks of one job; `results` yields them as they end. `lock` is inherited as by the arms' workers."""

    job: Job
    options: PreparationOptions
    lock: int | None = None
    workers: list[_Worker] = field(default_factory=list)
    #: Largest peak memory (bytes) that a worker reported.
    peak_bytes: int = 0
    #: Most workers at work at once; 0 where the run itself did it.
    most: int = 0

    def results(self, tasks: Sequence[Task]) -> Generator[Result]:
        """Each task's result, in the order in which they end; StoreError and StudyError of a worker are raised here."""
        if not tasks:
            return
        if self._alone(tasks):
            opened = setting(self.job)
            for task in tasks:
                yield _result(task.entry.name, *perform(opened, task))
            return
        yield from self.side_by_side(tasks)

    def side_by_side(self, tasks: Sequence[Task]) -> Generator[Result]:
        """As `results`, in worker processes whatever the tasks are."""
        self._cores = min(provenance.usable_cores(), len(tasks))
        self._budget = self._memory()
        try:
            yield from self._served(list(tasks))
        finally:
            for worker in list(self.workers):
                self._dismiss(worker, kill=worker.task is not None)

    def _alone(self, tasks: Sequence[Task]) -> bool:
        if self.options.workers == 1 or len(tasks) == 1:
            return True
        if self.options.workers != "auto":
            return False
        sizes = [input_bytes(task.entry.identity) for task in tasks]
        return all(size is not None for size in sizes) and sum(s or 0 for s in sizes) <= SMALL_BYTES

    def _memory(self) -> float:
        if self.options.memory_gb != "auto":
            return self.options.memory_gb * 2**30
        return _SHARE * available_memory()

    def allowed(self) -> int:
        """Workers that may be at work now: asked for, or as cores, patients and the memory measured so far allow."""
        if self.options.workers != "auto" and self.options.memory_gb == "auto":
            return self.options.workers
        most = self._cores if self.options.workers == "auto" else self.options.workers
        each = self.peak_bytes * _SPARE if self.peak_bytes else FIRST_GUESS_BYTES
        return max(1, min(most, int(self._budget // each)))

    def _served(self, waiting: list[Task]) -> Generator[Result]:
        again: list[Task] = []
        while waiting or again or self._busy():
            limit = self.allowed() if waiting else 1  # a second attempt has the memory for itself
            self._hand_out(waiting, limit)
            if not self._busy():
                self._hand_out(again, 1)
            for link in wait([w.link for w in self._busy()]):
                worker = next(w for w in self.workers if w.link is link)
                task = worker.task
                assert task is not None
                try:
                    kind, value, error, peak = worker.link.recv()
                except (EOFError, OSError):
                    why = ended(self._dismiss(worker), "process that read the patient")
                    if task.attempt == 1:
                        again.append(replace(task, attempt=2))
                    else:
                        yield Result(task.entry.name, None, _crashed(task.entry.name, why), "crashed")
                    continue
                worker.task = None
                self.peak_bytes = max(self.peak_bytes, peak)
                yield _result(task.entry.name, kind, value, error)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.task is not None]

    def _hand_out(self, tasks: list[Task], limit: int) -> None:
        while tasks and len(self._busy()) < limit:
            idle = next((w for w in self.workers if w.task is None), None)
            worker = idle or self._start()
            worker.task = tasks.pop(0)
            with suppress(OSError):  # it died while it was idle: reading from it will tell
                worker.link.send(worker.task)
        for worker in [w for w in self.workers if w.task is None and len(self.workers) > limit]:
            self._dismiss(worker)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno(), *([self.lock] if self.lock is not None else [])]
        process = subprocess.Popen(
            [sys.executable, "-m", "gtvbench.bench.prepare.crew_worker", str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
            env=os.environ | _threads(max(1, provenance.usable_cores() // self._planned())),
        )
        theirs.close()
        worker = _Worker(process, Connection(ours.detach()))
        self.workers.append(worker)
        self.most = max(self.most, len(self.workers))
        with suppress(OSError):
            worker.link.send(self.job)
        return worker

    def _planned(self) -> int:
        return self._cores if self.options.workers == "auto" else self.options.workers

    def _dismiss(self, worker: _Worker, kill: bool = False) -> int:
        """End a worker, which goes by itself when nobody listens, and whatever it started; return its exit code."""
        self.workers.remove(worker)
        worker.link.close()
        if kill:
            kill_group(worker.process.pid)
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(5)
        kill_group(worker.process.pid)
        code = worker.process.wait()
        if worker.process.stdin is not None:
            worker.process.stdin.close()
        return code


def _result(case: str, kind: str, value: Any, error: Exception | None) -> Result:
    """A result of what a worker said; errors that are not the patient's end the run."""
    if error is None:
        return Result(case, value)
    if kind == "stop" or not isinstance(error, DataError):
        raise error
    return Result(case, None, error, "crashed" if kind == "crashed" else "unreadable")


def _crashed(case: str, why: str) -> DataError:
    return DataError(
        f"{why}, twice",
        case=case,
        remedy="give it more memory (fewer 'preparation: workers'), or leave the patient out; then run again",
    )


def input_bytes(identity: Mapping[str, Any]) -> int | None:
    """Bytes of a case's input by its identity: its `bytes`, `files` {name: [size, time]}, or a `shape`; None where it
    tells none."""
    if isinstance(identity.get("bytes"), int):
        return int(identity["bytes"])
    files, shape = identity.get("files"), identity.get("shape")
    if isinstance(files, Mapping):
        return sum(int(stamp[0]) for stamp in files.values())
    if shape is not None:
        z, y, x = shape
        return 2 * int(z) * int(y) * int(x)  # as compressed files would have, about
    return None


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
