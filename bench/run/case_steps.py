"""The steps before any arm: every case prepared, those that cannot be left out of all arms alike, prompts drawn."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.events import Failed
from gtvbench.bench.core.prompts import Prompts, policy_from
from gtvbench.bench.core.split import SUBSETS
from gtvbench.bench.files.progress import LOGGER, Display
from gtvbench.bench.files.store import Store
from gtvbench.bench.prepare.cases import Prepared, load_prepared, prepare_key, prompts_of
from gtvbench.bench.prepare.crew import Result, read, readers
from gtvbench.bench.prepare.patients import Task
from gtvbench.bench.run import tables
from gtvbench.bench.run.journal import Journal
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.study.cohort import Cohort, require_enough
from gtvbench.bench.study.file import Study
from gtvbench.datasets.assembly.checks import partial_coverage


def make_ready(
    study: Study, base: Path, cohort: Cohort, store: Store, lock: int, journal: Journal, display: Display
) -> Ready:
    """Prepare the cases of a cohort and draw their prompts, as far as that is not done yet.

    Raises DataError where too few cases can be used for the study to go on.
    """
    keys = {e.name: prepare_key(e.identity, cohort.modalities, cohort.structures) for e in cohort.used}
    found = {name: load_prepared(store, key, name) for name, key in keys.items()}
    tasks = [Task(entry, keys[entry.name]) for entry in cohort.used if found[entry.name] is None]
    crew = readers(cohort.job("prepare", study, base, store.folder), study.preparation, lock)
    bad: dict[str, Result] = {}
    with display.phase("Preparing patients", len(cohort.used)) as bar, closing(read(crew, tasks)) as results:
        for name in [name for name, prepared in found.items() if prepared is not None]:
            bar.advance(name)
        for result in results:
            if result.error is not None:
                bad[result.case] = result
                LOGGER.warning("%s cannot be used: %s", result.case, result.error)
                bar.advance()
                continue
            journal.computed["prepare"] += 1
            found[result.case] = load_prepared(store, keys[result.case], result.case)
            bar.advance(result.case)
    left = _without([bad[entry.name] for entry in cohort.used if entry.name in bad], cohort, study, journal)
    prepared = {name: case for name, case in found.items() if case is not None}
    if journal.computed["prepare"]:
        _warn_of_notes(prepared)
    return Ready(study, base, store, left, prepared, _prompts(study, left, prepared, store))


def left_out(planned: Cohort, ready: Ready) -> dict[str, list[str]]:
    """By subset, the cases that were planned and could not be prepared."""
    return {s: [case for case in planned.cases(s) if case not in ready.prepared] for s in SUBSETS}


def _without(bad: list[Result], cohort: Cohort, study: Study, journal: Journal) -> Cohort:
    if not bad:
        return cohort
    left = cohort.without([result.case for result in bad])
    require_enough(cohort, left, [str(r.error) for r in bad], study.preparation.bad_patients == "stop")
    for result in bad:
        assert result.error is not None
        # The message alone: file and remedy may hold paths, and this record may be shown to others.
        journal.failed(Failed("prepare", result.case, result.status or "crashed", result.error.message))
    names = ", ".join(result.case for result in bad)
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


def _prompts(study: Study, cohort: Cohort, prepared: dict[str, Prepared], store: Store) -> dict[str, Prompts]:
    policy = policy_from(study.prompts.policy)
    options = (cohort.structures, policy, study.seed, study.prompts.minimum_area_mm2)
    prompts = {name: prompts_of(store, case, *options) for name, case in prepared.items()}
    tables.write_prompts(store, [row for drawn in prompts.values() for row in drawn.rows()])
    return prompts
