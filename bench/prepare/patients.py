"""What the processes that read patients do: open the study's source, then read and publish, or check, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gtvbench.bench.core.errors import StoreError, why
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.bench.files.store import Store
from gtvbench.bench.prepare.cases import publish_case
from gtvbench.bench.study.cohort import Job, open_source
from gtvbench.datasets.assembly.checks import case_findings, facts_of


@dataclass(frozen=True)
class Task:
    """One case, and the content key of its prepare step ("" where nothing is written)."""

    entry: Any
    key: str = ""


@dataclass(frozen=True)
class PatientWork:
    """The work of a pool that reads patients."""

    job: Job

    def open(self) -> Patients:
        """Make ready; the source is opened at the first case."""
        return Patients(self.job)


@dataclass(frozen=True)
class Patients:
    """A study's patients in one process."""

    job: Job

    @cached_property
    def structures(self) -> tuple[Structure, ...]:
        """The study's structures."""
        return structures_from(dict(self.job.structures))

    @cached_property
    def source(self) -> Any:
        """The study's source, opened once a process."""
        return open_source(dict(self.job.dataset), self.job.base, self.structures, self.job.seed)

    def perform(self, task: Task, tell: object) -> Any:
        """Prepare a case, or check it; raises DataError where it is the patient's fault, another BenchError where the
        next patient would meet it too (a full disk, an option)."""
        return self._prepare(task) if self.job.work == "prepare" else self._check(task)

    def _prepare(self, task: Task) -> None:
        assert self.job.run is not None
        case = self.source.read(task.entry)
        try:
            publish_case(Store(self.job.run), task.key, case, self.job.modalities, self.structures)
        except OSError as error:  # not the patient's fault, and the next one's fate
            raise StoreError(f"the run folder cannot be written: {why(error)}", file=self.job.run) from error

    def _check(self, task: Task) -> tuple[Any, Any, Any, Any]:
        """Findings on a case, the source's own (text), its notes, and the facts that the cohort's checks need."""
        from gtvbench.datasets.registration.register import without_search  # slow to import

        with (
            without_search()
        ):  # registering takes most of the time that a patient takes, and costs no patient but a note
            case = self.source.read(task.entry)
        found = case_findings(case, self.structures, self.job.modalities)
        return found, self.source.findings(task.entry, case), case.notes, facts_of(case)
