"""Reads patients side by side, within what memory allows: a pool of processes that each open the study's source.

What a process sends back is a small record, never a volume, so that memory is bounded by the number of processes. Few
or small patients are read by the run itself, because a process takes longer to start.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.files import provenance
from gtvbench.bench.prepare.patients import PatientWork, Task
from gtvbench.bench.processes.pool import Event, Pool
from gtvbench.bench.processes.worker import Done, Failure, attempt
from gtvbench.bench.study.cohort import Job
from gtvbench.bench.study.file import PreparationOptions

#: Input (bytes of files) up to which the run itself reads the patients: less work than starting processes.
SMALL_BYTES = 32 << 20
#: Taken for the peak memory of a patient until one was measured: two of 512 x 512 x 150 with four modalities fit.
FIRST_GUESS_BYTES = 3 << 30
#: Share of the available memory that `auto` takes, and what the measured peak is multiplied by.
_SHARE, _SPARE = 0.8, 1.2
_LOGGER = logging.getLogger("gtvbench")

Status = Literal["unreadable", "crashed"]


@dataclass(frozen=True)
class Result:
    """How one patient ended: `value` is what the work gave, or `error` and `status` say why there is none."""

    case: str
    value: Any = None
    error: DataError | None = None
    status: Status | None = None


@dataclass
class Crew:
    """Performs tasks of one job; `results` yields them as they end. `lock` is inherited as by the arms' workers."""

    job: Job
    options: PreparationOptions
    lock: int | None = None
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        locks = () if self.lock is None else (self.lock,)
        self.pool = Pool(PatientWork(self.job), "process that read the patient", locks, limit=self.allowed)

    def results(self, tasks: Sequence[Task]) -> Generator[Result]:
        """Each task's result, in the order in which they end; StoreError and StudyError of a worker are raised here."""
        if not tasks:
            return
        if self._alone(tasks):
            performer = PatientWork(self.job).open()
            for task in tasks:
                yield _result(task, attempt(lambda task=task: performer.perform(task)))  # type: ignore[misc]
            return
        yield from self.side_by_side(tasks)

    def side_by_side(self, tasks: Sequence[Task]) -> Generator[Result]:
        """As `results`, in worker processes whatever the tasks are."""
        self._cores = min(provenance.usable_cores(), len(tasks))
        self._budget = self._memory()
        planned = self._cores if self.options.workers == "auto" else self.options.workers
        self.pool.environment = _threads(max(1, provenance.usable_cores() // planned))
        with self.pool as pool:
            for found in pool.run(tasks):
                assert not isinstance(found, Event)
                yield _result(found.task, found.failure or Done(found.value, 0))

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
        each = self.pool.peak_bytes * _SPARE if self.pool.peak_bytes else FIRST_GUESS_BYTES
        return max(1, min(most, int(self._budget // each)))


def _result(task: Task, found: Done | Failure) -> Result:
    """A patient's result; an error of the project's own that is no DataError would meet the next one too: it is raised.

    The text of a foreign exception may hold names and paths: the log has its traceback, the record must not.
    """
    case = task.entry.name
    if isinstance(found, Done):
        return Result(case, found.value)
    if found.error is not None:
        if not isinstance(found.error, DataError):
            raise found.error
        return Result(case, None, found.error, "unreadable")
    if found.status == "crashed":
        remedy = "give it more memory (fewer 'preparation: workers'), or leave the patient out; then run again"
        return Result(case, None, DataError(found.message, case=case, remedy=remedy), "crashed")
    _LOGGER.error("%s", found.traceback)
    if found.kind == "MemoryError":
        message, remedy = "the memory did not suffice", "free memory, or lower 'preparation: workers'"
    else:
        message, remedy = f"unexpected {found.kind} in reading the patient", "the traceback above says where"
    return Result(case, None, DataError(message, case=case, remedy=remedy), "crashed")


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
