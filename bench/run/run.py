"""The order of a run's steps: prepare, prompts, then arm after arm fit, predict and score, and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.digest import digest_file, digest_json
from gtvbench.bench.core.errors import EXIT_COMPLETE, EXIT_FAILED_STEPS
from gtvbench.bench.files import provenance
from gtvbench.bench.files.progress import Display
from gtvbench.bench.files.store import Store, step_key, write_atomically
from gtvbench.bench.privacy.policy import Privacy, shareable_study
from gtvbench.bench.privacy.private import write_private
from gtvbench.bench.processes.engine import Engine, LocalEngine
from gtvbench.bench.run import tables
from gtvbench.bench.run.arm_steps import run_arms
from gtvbench.bench.run.case_steps import left_out, make_ready
from gtvbench.bench.run.journal import Journal
from gtvbench.bench.run.picture_steps import PictureSteps
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.run.score_steps import ScoreSteps
from gtvbench.bench.score.cases import definition
from gtvbench.bench.study.arms import Arm, plan_arms
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import Study


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code, the report's path where one was asked for, how many steps were computed rather
    than reused, the rows of failures.json before anything private is taken out of them, the cases that were left out
    because they could not be prepared, and what the arms were given."""

    exit_code: int
    report: Path | None
    computed: dict[str, int]
    failures: list[dict[str, Any]]
    left_out: tuple[str, ...]
    ready: Ready


@dataclass(frozen=True)
class Run:
    """One execution of a study on one run folder; it ends with the report unless that is not asked for.

    `base` is where relative paths of the study start; `chosen` names methods or entries to run instead of the study's
    own choice.
    """

    study: Study
    base: Path
    folder: Path
    chosen: Sequence[str] | None = None
    display: Display = field(default_factory=Display)
    report: bool = True

    def execute(self) -> Outcome:
        """Do what is missing; raises BenchError on bad input before any arm starts."""
        study, base, folder, journal = self.study, self.base, self.folder, Journal()
        planned = open_cohort(study, base)
        arms = plan_arms(study, base, planned.modalities, self.chosen, planned.split)
        privacy = Privacy(planned.source, planned.used, study, base)
        store = Store(folder)
        lock = store.open(study.study)
        engine = _engine(study, folder, lock)
        try:
            write_private(folder, study, base)
            write_atomically(folder / "study.yaml", shareable_study(study, base))
            ready, pictures = make_ready(study, base, planned, store, lock, engine, journal, self.display)
            lost = left_out(planned, ready)
            # As planned, by patient, and the cases of it that cannot be used.
            folds = {"folds": [fold.as_dict() for fold in planned.split.folds]} if planned.split.folds else {}
            tables.write_json({**planned.split.as_dict(), **folds, "left_out": lost}, folder / "split.json")
            scores = ScoreSteps(ready, pictures, journal)
            scored, records = run_arms(arms, scores, engine, self.display)
            journal.computed["pictures"] += pictures.computed if pictures is not None else 0
            tables.write_scores(store, scored)
            tables.write_json(privacy.arms(records), folder / "arms.json")
            tables.write_json(privacy.failures(journal.failures), folder / "failures.json")
            shared = study.engine.side_by_side and (journal.computed["fit"] or journal.computed["predict"])
            tables.write_json(_provenance(ready, privacy, lost, bool(shared)), folder / "provenance.json")
            page = _report(arms, store, pictures, journal, self.display) if self.report else None
        finally:
            engine.close()
            store.close()
        bad = tuple(sorted(case for cases in lost.values() for case in cases))
        failed = bad or any(record["status"] == "failed" for record in records)
        code = EXIT_FAILED_STEPS if failed else EXIT_COMPLETE
        return Outcome(code, page, dict(journal.computed), journal.failures, bad, ready)


def _engine(study: Study, folder: Path, lock: int) -> Engine:
    if study.engine.kind == "dask":
        from gtvbench.bench.processes.dask_engine import DaskEngine

        return DaskEngine(study.engine, folder / "jobs")
    return LocalEngine(lock, tuple(study.engine.gpus), study.engine.gpus_per_fit)


def _provenance(ready: Ready, privacy: Privacy, lost: dict[str, list[str]], shared: bool) -> dict[str, Any]:
    """`shared`: whether arms could be computed side by side; what an earlier session did stays said."""
    study, cohort = ready.study, ready.cohort
    used = {name: prepared.meta for name, prepared in ready.prepared.items()}
    digests = {
        "data": digest_json({n: [p.images_digest, p.reference_digest] for n, p in ready.prepared.items()}),
        "split": cohort.split.digest,
        "prompts": digest_json({name: prompts.digest for name, prompts in ready.prompts.items()}),
    }
    return {
        **provenance.environment(),
        "seed": study.seed,
        "side_by_side": shared or _was_shared(ready.folder),
        "scoring": definition(study.tolerances()),
        "digests": digests,
        "synthetic": cohort.source.synthetic,
        "structures": study.structures,
        "subsets": cohort.used_subsets(),
        "folds": [cohort.used_subsets(fold) for fold in range(1, len(cohort.split.folds) + 1)],
        "left_out": lost,
        "modalities": list(cohort.modalities),
        "coverage": {name: meta["coverage"] for name, meta in used.items()},
        "grid": {n: {"shape": m["grid"]["shape"], "spacing": m["grid"]["spacing"]} for n, m in used.items()},
        "registration": {n: meta["registration"] for n, meta in used.items() if meta.get("registration")},
        "notes": gathered_notes(privacy.notes({name: meta["notes"] for name, meta in used.items()})),
    }


def _was_shared(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "provenance.json").read_text())["side_by_side"])
    except (OSError, ValueError, KeyError):
        return False


def _report(
    arms: Sequence[Arm], store: Store, pictures: PictureSteps | None, journal: Journal, display: Display
) -> Path:
    """The report's page, rendered anew where anything that it shows has changed."""
    from gtvbench.reports.page.build import REPORT_VERSION, build_report

    folder = store.folder
    names = ("study.yaml", "provenance.json", "arms.json", "failures.json", "split.json", "scores.csv")
    files = [folder / name for name in (*names, "prompts.parquet")]
    for arm in arms:
        kept = store.arm_folder(arm.name)
        files += [
            path
            for name in ("timing.parquet", "fit/epochs.csv", "*/fit/epochs.csv")
            for path in sorted(kept.glob(name))
        ]
    keys = pictures.keys if pictures is not None else None
    key = step_key("report", REPORT_VERSION, inputs=[digest_file(path) for path in files], pictures=keys)
    index = folder / "report" / "index.html"
    if store.record("report", key) is None:
        store.forget("report")
        with display.phase("Report", 1):
            index = build_report(folder)
        store.finish("report", key, [index])
        journal.computed["report"] += 1
    return index
