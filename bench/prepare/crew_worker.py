"""The process that reads patients: it opens the study's source, then takes one patient after another.

It is started by crew.py, speaks to it through a socket in small pickled records, and dies with it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

from gtvbench.bench.core.errors import BenchError, DataError, StoreError, why
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.store import Store
from gtvbench.bench.prepare.cases import publish_case
from gtvbench.bench.processes.lifeline import die_with_parent, peak_host_bytes
from gtvbench.bench.study.cohort import Job, open_source
from gtvbench.datasets.assembly.checks import case_findings, facts_of

_LOGGER = logging.getLogger("gtvbench")


@dataclass(frozen=True)
class Task:
    """One case, the content key of its prepare step ("" where nothing is written), and which attempt this is."""

    entry: Any
    key: str = ""
    attempt: int = 1


@dataclass(frozen=True)
class Setting:
    """A job made ready in one process."""

    job: Job

    @cached_property
    def structures(self) -> Any:
        """The study's structures."""
        return structures_from(dict(self.job.structures))

    @cached_property
    def source(self) -> Any:
        """The study's source, opened once a process."""
        return open_source(dict(self.job.dataset), self.job.base, self.structures, self.job.seed)


def setting(job: Job) -> Setting:
    """Make a job ready; the source is opened at the first case."""
    return Setting(job)


def prepare(setting: Setting, task: Task) -> None:
    """Read a case and publish it in the run folder."""
    assert setting.job.run is not None
    case = setting.source.read(task.entry)
    try:
        publish_case(Store(setting.job.run), task.key, case, setting.job.modalities, setting.structures)
    except OSError as error:  # not the patient's fault, and the next one's fate
        raise StoreError(f"the run folder cannot be written: {why(error)}", file=setting.job.run) from error


def check(setting: Setting, task: Task) -> tuple[Any, Any, Any, Any]:
    """Findings on a case, the source's own (text), its notes, and the facts that the cohort's checks need."""
    from gtvbench.datasets.registration.register import without_search  # slow to import

    with without_search():  # registering takes most of the time that a patient takes, and costs no patient but a note
        case = setting.source.read(task.entry)
    found = case_findings(case, setting.structures, setting.job.modalities)
    return found, setting.source.findings(task.entry, case), case.notes, facts_of(case)


_WORK: Mapping[str, Callable[[Setting, Task], Any]] = {"prepare": prepare, "check": check}


def perform(setting: Setting, task: Task) -> tuple[str, Any, BenchError | None]:
    """Do a task: ("done", value, None), or the error and whether it is the patient's or stops the run.

    "failed" is a DataError of the patient; "crashed" one that stands for any other exception, whose traceback is
    logged; "stop" an error that the next patient would meet too (a full disk, an option).
    """
    try:
        return "done", _WORK[setting.job.work](setting, task), None
    except DataError as error:
        return "failed", None, error
    except BenchError as error:
        return "stop", None, error
    except Exception as error:
        _LOGGER.error("%s", traceback.format_exc())
        memory = isinstance(error, MemoryError)
        # The text of a foreign exception may hold names and paths: the log above has it, the record must not.
        message = (
            "the memory did not suffice" if memory else f"unexpected {type(error).__name__} in reading the patient"
        )
        remedy = "free memory, or lower 'preparation: workers'" if memory else "the traceback above says where"
        return "crashed", None, DataError(message, case=task.entry.name, remedy=remedy)


def main() -> int:
    """Serve one crew: `python -m gtvbench.bench.prepare.crew_worker SOCKET_DESCRIPTOR PARENT_PID`."""
    die_with_parent(int(sys.argv[2]))
    # Run as a module this file is __main__: what is unpickled is of the imported module, and so is what serves it.
    from gtvbench.bench.prepare import crew_worker

    link = Connection(int(sys.argv[1]))
    try:
        ready = crew_worker.setting(link.recv())
        while True:
            link.send((*crew_worker.perform(ready, link.recv()), peak_host_bytes()))
    except (EOFError, OSError):  # the crew is done, or gone
        return 0


if __name__ == "__main__":
    sys.exit(main())
