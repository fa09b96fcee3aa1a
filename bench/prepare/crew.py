"""Reads the patients of a study, side by side where they are many: a crew whose processes each open the source."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.prepare.patients import PatientWork
from gtvbench.bench.processes.crew import Crew
from gtvbench.bench.processes.worker import Done, Failure
from gtvbench.bench.study.cohort import Job
from gtvbench.bench.study.file import PreparationOptions

_LOGGER = logging.getLogger("gtvbench")

Status = Literal["unreadable", "crashed"]


@dataclass(frozen=True)
class Result:
    """How one patient ended: `value` is what the work gave, or `error` and `status` say why there is none."""

    case: str
    value: Any = None
    error: DataError | None = None
    status: Status | None = None


#: What a process that does this is called in messages.
READER = "process that read the patient"


def readers(job: Job, options: PreparationOptions) -> Crew:
    """Who reads the patients of a job, and does nothing else with them."""
    return Crew(PatientWork(job), READER, options)


def read(crew: Crew, tasks: Sequence[Any], here: bool = True) -> Generator[Result]:
    """Each task's result (`task.entry` is the patient), in the order in which they end; StoreError and StudyError of a
    worker are raised here. `here`: the calling process may read few or small ones itself."""
    for task, found in crew.results(tasks, total_bytes(tasks) if here else None):
        yield _result(task, found)


def total_bytes(tasks: Sequence[Any]) -> int | None:
    """Bytes of the input of all tasks; None where a patient tells none."""
    sizes = [input_bytes(task.entry.identity) for task in tasks]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _result(task: Any, found: Done | Failure) -> Result:
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
