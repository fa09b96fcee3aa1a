"""The steps before any arm: every case prepared, those that cannot be left out of all arms alike, prompts drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.events import CasePrepared, Event, Failed
from gtvbench.bench.core.prompts import Prompts, policy_from
from gtvbench.bench.core.split import SUBSETS
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.progress import LOGGER, Display
from gtvbench.bench.files.store import Store, held
from gtvbench.bench.prepare.cases import Prepared, load_prepared, prepare_key, prompts_key, prompts_of
from gtvbench.bench.prepare.crew import READER, read, total_bytes
from gtvbench.bench.prepare.patients import Patients, PatientWork, Task
from gtvbench.bench.processes.crew import SMALL_BYTES, Crew
from gtvbench.bench.processes.engine import Engine, LocalEngine
from gtvbench.bench.processes.pool import never
from gtvbench.bench.run import tables
from gtvbench.bench.run.journal import Journal
from gtvbench.bench.run.picture_steps import PictureSteps
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.study.cohort import Cohort, require_enough
from gtvbench.bench.study.cohort import Job as CohortJob
from gtvbench.bench.study.file import PreparationOptions, PromptOptions, Study
from gtvbench.datasets.assembly.checks import partial_coverage


@dataclass(frozen=True)
class CaseTask(Task):
    """As `Task`, and whether the case is of the test set."""

    tested: bool = False


@dataclass(frozen=True)
class CaseWork:
    """The work of processes that make cases ready: prepared, with prompts, with pictures where the report wants any."""

    patients: CohortJob
    prompts: PromptOptions
    pictures: bool
    hide_faces: bool
    run_id: str

    def open(self) -> _Cases:
        """Make ready; the source is opened at the first case that is not prepared."""
        return _Cases(self, PatientWork(self.patients).open())

    def prompts_of(self, store: Store, prepared: Prepared) -> Prompts:
        """The prompts of a case, drawn where they are not there yet."""
        options, job = self.prompts, self.patients
        structures = structures_from(dict(job.structures))
        return prompts_of(store, prepared, structures, policy_from(options.policy), job.seed, options.minimum_area_mm2)

    def pictures_of(self, store: Store, failed: Callable[[Failed], None]) -> PictureSteps:
        """The steps that make pictures."""
        return PictureSteps(store, structures_from(dict(self.patients.structures)), failed, self.hide_faces)


@dataclass(frozen=True)
class _Cases:
    work: CaseWork
    patients: Patients

    def perform(self, task: CaseTask, tell: object) -> CasePrepared:
        """Do what is missing of a case. Pictures that cannot be made are tried again by the run, which tells why."""
        assert self.work.patients.run is not None
        store, case = Store(self.work.patients.run), task.entry.name
        with held(store.case_lock(case), case):  # a job that a lost run left behind on a cluster may be at work
            store.require_run(self.work.run_id)
            return self._make(store, case, task, tell)

    def _make(self, store: Store, case: str, task: CaseTask, tell: object) -> CasePrepared:
        prepared = load_prepared(store, task.key, case)
        fresh = prepared is None
        if prepared is None:
            self.patients.perform(task, tell)
            prepared = load_prepared(store, task.key, case)
            assert prepared is not None
        prompts = self.work.prompts_of(store, prepared)
        if not self.work.pictures:
            return CasePrepared(case, fresh, 0)
        pictures = self.work.pictures_of(store, lambda failed: None)
        pictures.of_registrations(prepared)
        if task.tested:
            pictures.of_case(prepared, prompts)
        return CasePrepared(case, fresh, pictures.computed)


@dataclass(frozen=True)
class CaseJob:
    """Cases that are made ready in one go (an engine's `Job`)."""

    name: str
    work: CaseWork
    tasks: tuple[CaseTask, ...]
    options: PreparationOptions
    on_device: bool = False

    def run(
        self, lock: int | None, environment: Mapping[str, str], stopped: Callable[[], bool] = never
    ) -> Generator[Event]:
        """`CasePrepared` or `Failed` for each case; raises StoreError or StudyError where the next case would too."""
        crew = Crew(self.work, READER, self.options, () if lock is None else (lock,), stopped)
        with closing(read(crew, self.tasks, here=lock is not None)) as results:
            for result in results:
                if result.error is None:
                    yield result.value
                else:
                    # The message alone: file and remedy may hold paths, and the record may be shown to others.
                    message, status = result.error.message, result.status or "crashed"
                    yield Failed("prepare", result.case, status, message, full=str(result.error))


def make_ready(
    study: Study,
    base: Path,
    cohort: Cohort,
    store: Store,
    lock: int,
    engine: Engine,
    journal: Journal,
    display: Display,
) -> tuple[Ready, PictureSteps | None]:
    """Prepare the cases of a cohort, draw their prompts and pictures, as far as that is not done yet.

    Few or small patients are read here, the others where the engine computes. Raises DataError where too few cases can
    be used for the study to go on.
    """
    hide = study.report.faces == "hide" and not cohort.source.synthetic
    job = cohort.job("prepare", study, base.resolve(), store.folder.resolve())
    store.settle()
    work = CaseWork(job, study.prompts, study.report.pictures, hide, store.run_id)
    keys = {e.name: prepare_key(e.identity, cohort.modalities, cohort.structures) for e in cohort.used}
    found = {name: load_prepared(store, key, name) for name, key in keys.items()}
    tested = set(cohort.cases("test"))
    tasks = [
        CaseTask(entry, keys[entry.name], entry.name in tested)
        for entry in cohort.used
        if found[entry.name] is None or not _is_whole(work, store, found[entry.name], entry.name in tested)
    ]
    bad: dict[str, Failed] = {}
    by = engine if (total_bytes(tasks) or math.inf) > SMALL_BYTES else LocalEngine(lock)
    jobs = [CaseJob(f"patients{n}", work, tuple(p), study.preparation) for n, p in enumerate(_cut(tasks, by.parts))]
    with display.phase("Preparing patients", len(cohort.used)) as bar, closing(by.run(jobs)) as events:
        for name in sorted(set(keys) - {task.entry.name for task in tasks}):
            bar.advance(name)
        for _, event in events:
            if isinstance(event, CasePrepared):
                journal.computed["prepare"] += event.prepared
                journal.computed["pictures"] += event.drawn
                store.awaited(f"prepare/{event.case}", keys[event.case])
                found[event.case] = load_prepared(store, keys[event.case], event.case)
                bar.advance(event.case)
            elif isinstance(event, Failed):
                if event.case is None:  # the cluster gave up the job
                    raise DataError(f"patients could not be prepared: {event.message}", remedy="run again")
                bad[event.case] = event
                LOGGER.warning("%s cannot be used: %s", event.case, event.full)
                bar.advance()
    left = _without([bad[entry.name] for entry in cohort.used if entry.name in bad], cohort, study, journal)
    prepared = {name: case for name, case in found.items() if case is not None and name not in bad}
    if journal.computed["prepare"]:
        _warn_of_notes(prepared)
    prompts = {name: work.prompts_of(store, case) for name, case in prepared.items()}
    tables.write_prompts(store, [row for drawn in prompts.values() for row in drawn.rows()])
    ready = Ready(study, base, store, left, prepared, prompts)
    return ready, _pictures(work, ready, journal) if work.pictures else None


def _cut(tasks: Sequence[CaseTask], parts: int) -> list[Sequence[CaseTask]]:
    """Tasks in as many parts, or fewer where there are not so many."""
    return [part for n in range(parts) if (part := tasks[n::parts])]


def _is_whole(work: CaseWork, store: Store, prepared: Prepared | None, tested: bool) -> bool:
    """Whether a prepared case has its prompts, and its pictures where it needs some."""
    assert prepared is not None
    options = work.prompts
    key = prompts_key(prepared, policy_from(options.policy), work.patients.seed, options.minimum_area_mm2)
    if store.record(f"prompts/{prepared.case}", key) is None:
        return False
    return not (work.pictures and tested) or store.pictures(prepared.case).is_file()


def _pictures(work: CaseWork, ready: Ready, journal: Journal) -> PictureSteps:
    """The steps of the cases' pictures, all done as far as they can be."""

    def failed(failure: Failed) -> None:
        LOGGER.warning(
            "no pictures of %s%s: %s", failure.case, f" for {failure.arm}" if failure.arm else "", failure.message
        )
        journal.failed(failure)

    pictures = work.pictures_of(ready.store, failed)
    for prepared in ready.prepared.values():
        pictures.of_registrations(prepared)
    for case in ready.cohort.cases("test"):
        pictures.of_case(ready.prepared[case], ready.prompts[case])
    return pictures


def left_out(planned: Cohort, ready: Ready) -> dict[str, list[str]]:
    """By subset, the cases that were planned and could not be prepared."""
    return {s: [case for case in planned.cases(s) if case not in ready.prepared] for s in SUBSETS}


def _without(bad: list[Failed], cohort: Cohort, study: Study, journal: Journal) -> Cohort:
    if not bad:
        return cohort
    left = cohort.without([str(failure.case) for failure in bad])
    require_enough(cohort, left, [failure.full for failure in bad], study.preparation.bad_patients == "stop")
    for failure in bad:
        journal.failed(failure)
    names = ", ".join(str(failure.case) for failure in bad)
    LOGGER.warning(
        "%d of %d cases are left out of the whole study, of every arm alike: %s. Correct them and run again.",
        len(bad),
        len(cohort.used),
        names,
    )
    return left


def _warn_of_notes(prepared: dict[str, Prepared]) -> None:
    metas = {name: case.meta for name, case in prepared.items()}
    lines = gathered_notes({name: meta["notes"] for name, meta in metas.items()})
    for line in lines + partial_coverage({name: meta["coverage"] for name, meta in metas.items()}):
        LOGGER.warning("%s", line)
