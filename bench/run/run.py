"""Turns a study into steps and executes them: prepare, prompts, fit, predict, score, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import Images, gathered_notes
from gtvbench.bench.core.digest import digest_file, digest_json
from gtvbench.bench.core.errors import EXIT_COMPLETE, EXIT_FAILED_STEPS, DataError, DigestError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import Prompts, policy_from
from gtvbench.bench.core.split import SUBSETS
from gtvbench.bench.files import nifti, provenance
from gtvbench.bench.files.progress import LOGGER, Display
from gtvbench.bench.files.store import Store, step_key, write_atomically
from gtvbench.bench.prepare.cases import Prepared, load_prepared, prepare_key, prompts_of
from gtvbench.bench.prepare.crew import Crew, Result
from gtvbench.bench.prepare.crew_worker import Task
from gtvbench.bench.privacy.policy import Privacy, shareable_study
from gtvbench.bench.privacy.private import write_private
from gtvbench.bench.processes.local import Event, run_arm
from gtvbench.bench.run import tables
from gtvbench.bench.run.picture_steps import PictureSteps
from gtvbench.bench.score.cases import definition, score_case
from gtvbench.bench.study import registry
from gtvbench.bench.study.arms import Arm, plan_arms
from gtvbench.bench.study.cohort import Cohort, open_cohort, require_enough
from gtvbench.bench.study.file import Study
from gtvbench.datasets.assembly.checks import partial_coverage

FIT_VERSION = 1
PREDICT_VERSION = 1
SCORE_VERSION = 1


@dataclass
class Outcome:
    """How a run ended: the exit code, the report's path where one was asked for, how many steps were computed rather
    than reused, and the cases that were left out because they could not be prepared."""

    exit_code: int
    report: Path | None
    computed: dict[str, int]
    left_out: tuple[str, ...] = ()


@dataclass
class Run:
    """One execution of a study on one run folder; it ends with the report unless that is not asked for."""

    study: Study
    base: Path
    folder: Path
    chosen: Sequence[str] | None = None
    display: Display = field(default_factory=Display)
    report: bool = True

    def __post_init__(self) -> None:
        self.store = Store(self.folder)
        self.computed = dict.fromkeys(("prepare", "fit", "predict", "score", "pictures", "report"), 0)
        self.failures: list[dict[str, Any]] = []
        self.left_out: list[str] = []

    def execute(self) -> Outcome:
        """Do what is missing; raises BenchError on bad input before any arm starts."""
        self.cohort: Cohort = open_cohort(self.study, self.base)
        self.arms = plan_arms(self.study, self.base, self.cohort.modalities, self.chosen, self.cohort.split)
        self.privacy = Privacy(self.cohort.source, self.cohort.used, self.study, self.base)
        lock = self.store.open(self.study.study)
        try:
            self._lock = lock
            write_private(self.folder, self.study, self.base)
            write_atomically(self.folder / "study.yaml", shareable_study(self.study, self.base))
            self._prepare()
            # As planned, by patient, and the cases of it that cannot be used.
            split = {**self.cohort.split.as_dict(), "left_out": self.left_out_by_subset}
            tables.write_json(split, self.folder / "split.json")
            self._draw_prompts()
            self._draw_pictures()
            rows, records = [], []
            for arm in self.arms:
                arm_rows, record = self._run_arm(arm, lock)
                rows += arm_rows
                records.append(record)
            self.computed["pictures"] = self.pictures.computed if self.pictures is not None else 0
            tables.write_scores(self.store, rows)
            tables.write_json(self.privacy.arms(records), self.folder / "arms.json")
            tables.write_json(self.privacy.failures(self.failures), self.folder / "failures.json")
            tables.write_json(self._provenance(), self.folder / "provenance.json")
            report = self._report() if self.report else None
        finally:
            self.store.close()
        failed = any(record["status"] == "failed" for record in records) or self.left_out
        code = EXIT_FAILED_STEPS if failed else EXIT_COMPLETE
        return Outcome(code, report, self.computed, tuple(self.left_out))

    # ---- cases and prompts

    def _prepare(self) -> None:
        cohort = self.cohort
        keys = {e.name: prepare_key(e.identity, cohort.modalities, cohort.structures) for e in cohort.used}
        found = {name: load_prepared(self.store, key, name) for name, key in keys.items()}
        tasks = [Task(e, keys[e.name]) for e in cohort.used if found[e.name] is None]
        crew = Crew(cohort.job("prepare", self.study, self.base, self.folder), self.study.preparation, self._lock)
        bad: dict[str, Result] = {}
        with self.display.phase("Preparing patients", len(cohort.used)), closing(crew.results(tasks)) as results:
            for name in [name for name, prepared in found.items() if prepared is not None]:
                self.display.advance(name)
            for result in results:
                if result.error is not None:
                    bad[result.case] = result
                    LOGGER.warning("%s cannot be used: %s", result.case, result.error)
                    self.display.advance()
                    continue
                self.computed["prepare"] += 1
                found[result.case] = load_prepared(self.store, keys[result.case], result.case)
                self.display.advance(result.case)
        self._leave_out([bad[entry.name] for entry in cohort.used if entry.name in bad])
        self.prepared: dict[str, Prepared] = {name: prepared for name, prepared in found.items() if prepared}
        if self.computed["prepare"]:
            metas = {name: prepared.meta for name, prepared in self.prepared.items()}
            lines = gathered_notes({name: meta["notes"] for name, meta in metas.items()})
            for line in lines + partial_coverage({name: meta["coverage"] for name, meta in metas.items()}):
                LOGGER.warning("%s", line)

    def _leave_out(self, bad: list[Result]) -> None:
        """Go on without the cases that cannot be prepared, every arm alike; raise DataError where too few are left."""
        self.left_out = [result.case for result in bad]
        self.left_out_by_subset = {s: [c for c in self.cohort.cases(s) if c in self.left_out] for s in SUBSETS}
        if not bad:
            return
        left, cohort = self.cohort.without(self.left_out), self.cohort
        require_enough(cohort, left, [str(r.error) for r in bad], self.study.preparation.bad_patients == "stop")
        self.cohort = left
        for result in bad:
            assert result.error is not None
            # The message alone: file and remedy may hold paths, and this record may be shown to others.
            facts = {"message": result.error.message}
            self._record_failure("prepare", None, result.case, result.status or "crashed", facts)
        LOGGER.warning(
            "%d of %d cases are left out of the whole study, of every arm alike: %s. Correct them and run again.",
            len(bad), len(cohort.used), ", ".join(self.left_out),
        )  # fmt: skip

    def _draw_prompts(self) -> None:
        policy = policy_from(self.study.prompts.policy)
        options = (self.cohort.structures, policy, self.study.seed, self.study.prompts.minimum_area_mm2)
        self.prompts: dict[str, Prompts] = {
            name: prompts_of(self.store, prepared, *options) for name, prepared in self.prepared.items()
        }
        rows = [row for prompts in self.prompts.values() for row in prompts.rows()]
        tables.write_prompts(self.store, rows)

    def _draw_pictures(self) -> None:
        self.pictures: PictureSteps | None = None
        if not self.study.report.pictures:
            return
        hide = self.study.report.faces == "hide" and not self.cohort.source.synthetic
        self.pictures = PictureSteps(self.store, self.cohort.structures, self._record_failure, hide)
        cases = self.cohort.cases("test")
        with self.display.phase("Pictures for the report", len(cases)):
            for prepared in self.prepared.values():
                self.pictures.of_registrations(prepared)
            for case in cases:
                self.pictures.of_case(self.prepared[case], self.prompts[case])
                self.display.advance(case)

    # ---- arms

    def _run_arm(self, arm: Arm, lock: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if arm.skip is not None:
            LOGGER.warning("%s is skipped: %s", arm.name, arm.skip)
            return [], tables.arm_record(self.store, arm, "skipped", arm.skip, None)
        fit_key = self._fit_key(arm) if arm.trains else None
        items = {case: self._item(arm, case, fit_key) for case in self.cohort.cases("test")}
        missing = [i for i in items.values() if self.store.record(f"predict/{arm.name}/{i['case']}", i["key"]) is None]
        needs_fit = fit_key is not None and self.store.record(f"fit/{arm.name}", fit_key) is None
        status: dict[str, str] = {}
        if missing:
            status = self._execute(arm, missing, fit_key if needs_fit else None, lock)
        rows, records = [], {}
        for case, item in items.items():
            record = self.store.record(f"predict/{arm.name}/{case}", item["key"])
            if record is not None:
                records[case] = record
            rows += self._score(arm, case, item, record, status.get(case, "missing_output"))
        tables.write_timing(self.store, arm.name, records)
        fit = self.store.record(f"fit/{arm.name}", fit_key) if fit_key else None
        failed = len(items) - len(records)
        reason = f"{failed} of {len(items)} cases have no prediction" if failed else None
        return rows, tables.arm_record(self.store, arm, "failed" if failed else "complete", reason, fit)

    def _fit_key(self, arm: Arm) -> str:
        data = {
            subset: [
                [
                    name,
                    self.prepared[name].images_digest,
                    self.prepared[name].reference_digest,
                    self.prompts[name].digest,
                ]
                for name in self.cohort.cases(subset)
            ]
            for subset in ("train", "validation")
        }
        return step_key("fit", FIT_VERSION, arm=self._identity(arm), data=data, structures=self.study.structures)

    def _identity(self, arm: Arm) -> dict[str, Any]:
        return {
            "adapter": arm.adapter,
            "version": arm.version,
            "fusion": arm.fusion,
            "seed": arm.seed(self.study.seed),
            "options": arm.options,
            "weights": arm.weights_sha256,
        }

    def _item(self, arm: Arm, case: str, fit_key: str | None) -> dict[str, Any]:
        digests = {
            "images": self.prepared[case].images_digest,
            "prompts": self.prompts[case].digest,
            "split": self.cohort.split.digest if arm.trains else None,
            "weights": arm.weights_sha256,
            "fit": fit_key,
        }
        identity = self._identity(arm) | {"input": self._input_digests(arm, case)}
        key = step_key(
            "predict", PREDICT_VERSION, arm=identity, digests=digests, prompted=arm.prompts,
            structures=self.study.structures,
        )  # fmt: skip
        return {"case": case, "key": key, "digests": digests}

    def _input_digests(self, arm: Arm, case: str) -> list[str | None]:
        cls = registry.load(registry.METHODS, arm.adapter)
        files = cls.input_files(cls.Options.model_validate(arm.options), self.base, case)
        return [digest_file(path) if path.is_file() else None for path in files]

    def _execute(self, arm: Arm, missing: list[dict[str, Any]], fit_key: str | None, lock: int) -> dict[str, str]:
        fit = None
        if fit_key is not None:
            subsets = {"training": "train", "validation": "validation"}
            fit = {"key": fit_key} | {
                name: [{"case": c, "digests": {"prompts": self.prompts[c].digest}} for c in self.cohort.cases(subset)]
                for name, subset in subsets.items()
            }
        job = {
            "run": str(self.folder.resolve()),
            "base": str(self.base.resolve()),
            "arm": {
                "name": arm.name, "adapter": arm.adapter, "fusion": arm.fusion, "options": arm.options,
                "seed": arm.seed(self.study.seed), "trains": arm.trains, "prompts": list(arm.prompts),
                "weights_file": arm.weights_file, "weights_sha256": arm.weights_sha256,
            },
            "structures": self.study.structures,
            "modalities": list(self.cohort.modalities),
            "device": self.study.device,
            "fit": fit,
            "predict": missing,
        }  # fmt: skip
        status: dict[str, str] = {}
        epochs = int(arm.options.get("epochs") or 0) if fit else 0
        log = self.store.arm_folder(arm.name) / "log.txt"
        with self.display.phase(arm.name, epochs + len(missing)):
            run_arm(job, lock, log, self.study.timing.case_timeout_s, lambda e: self._on_event(arm, e, missing, status))
        return status

    def _on_event(self, arm: Arm, event: Event, missing: list[dict[str, Any]], status: dict[str, str]) -> None:
        kind = event["event"]
        if kind == "epoch":
            losses = f"training loss {event['train']:.4f}, validation loss {event['validation']:.4f}"
            self.display.advance(f"epoch {event['epoch'] + 1}, {losses}")
        elif kind == "fit-done":
            self.computed["fit"] += 1
        elif kind == "case-done":
            self.computed["predict"] += 1
            self.display.advance(event["case"])
        elif kind == "case-failed":
            status[event["case"]] = event.get("status", "crashed")
            self._fail("predict", arm.name, event["case"], status[event["case"]], event)
        elif kind == "arm-failed":
            for item in missing:
                if self.store.record(f"predict/{arm.name}/{item['case']}", item["key"]) is None:
                    status.setdefault(item["case"], event.get("status", "crashed"))
            self._fail("fit" if arm.trains else "load", arm.name, None, "crashed", event)
        elif kind == "done":
            facts = {name: event[name] for name in ("peak_host_bytes", "peak_device_bytes", "device")}
            tables.write_json(facts, self.store.arm_folder(arm.name) / "process.json")

    def _fail(self, step: str, arm: str, case: str | None, status: str, event: Event) -> None:
        where = f"{arm}, {case}" if case else arm
        LOGGER.error("%s failed (%s): %s", where, status, event["message"])
        self._record_failure(step, arm, case, status, event)

    def _record_failure(self, step: str, arm: str | None, case: str | None, status: str, event: Event) -> None:
        self.failures.append(
            {
                "step": step, "arm": arm, "case": case, "status": status,
                "message": event["message"], "traceback": event.get("traceback", ""),
            }
        )  # fmt: skip

    # ---- scores

    def _score(
        self, arm: Arm, case: str, item: dict[str, Any], record: dict[str, Any] | None, status: str
    ) -> list[dict[str, Any]]:
        prepared = self.prepared[case]
        fixed = {"arm": arm.name, "method": arm.method, "fusion": arm.fusion, "seed": arm.seed_index, "case": case}
        fixed["patient"] = prepared.patient
        if record is None:
            self._contours(arm, case, None, status, lambda: None)
            return [fixed | row for row in self._score_rows(None, case, status)]
        if record["digests"] != item["digests"]:
            raise DigestError(f"the prediction of {arm.name} was made from other data, prompts or weights", case=case)
        step, path = f"score/{arm.name}/{case}", self.store.arm_folder(arm.name) / "scores" / f"{case}.json"
        key = step_key(
            "score", SCORE_VERSION, prediction=record["sha256"], predicted=record["key"],
            reference=prepared.reference_digest, prompts=self.prompts[case].digest,
            tolerances=self.study.tolerances(), structures=self.study.structures,
        )  # fmt: skip
        read = cache(lambda: self._read_prediction(arm, case, record))
        if self.store.record(step, key) is None:
            self.store.forget(step)
            write_atomically(path, json.dumps(self._score_rows(read(), case, None)) + "\n")
            self.store.finish(step, key, [path])
            self.computed["score"] += 1
        self._contours(arm, case, record["sha256"], None, read)
        return [fixed | row for row in json.loads(path.read_text())]

    def _contours(
        self, arm: Arm, case: str, predicted: str | None, status: str | None, read: Callable[[], Any]
    ) -> None:
        if self.pictures is not None:
            self.pictures.of_arm(arm.name, case, predicted, status, read)

    def _read_prediction(self, arm: Arm, case: str, record: dict[str, Any]) -> Any:
        path = self.store.prediction(arm.name, case)
        if digest_file(path) != record["sha256"]:
            raise DigestError(
                "the prediction file is not the one that was recorded",
                case=case,
                file=path,
                remedy="remove it and run again: it will be predicted anew",
            )
        volume = nifti.read_volume(path, case)
        images = Images(case, self.store.case_folder(case))
        differences = volume.grid.differences(images.original)
        if differences:
            raise DataError(f"the prediction left the reference grid: {'; '.join(differences)}", case=case, file=path)
        return images.from_original(volume.array)

    def _score_rows(self, prediction: Any, case: str, status: str | None) -> list[dict[str, Any]]:
        reference = np.load(self.store.reference(case), mmap_mode="r")
        prompts = self.prompts[case]
        prompted = {s.name: prompts.slices_of(s.value) for s in self.cohort.structures}
        return score_case(
            prediction,
            reference,
            Grid.from_dict(self.prepared[case].meta["grid"]),
            self.cohort.structures,
            self.study.tolerances(),
            prompted,
            status,
        )

    # ---- report

    def _provenance(self) -> dict[str, Any]:
        used = {name: prepared.meta for name, prepared in self.prepared.items()}
        data = {n: [p.images_digest, p.reference_digest] for n, p in self.prepared.items()}
        prompts = {n: p.digest for n, p in self.prompts.items()}
        return {
            **provenance.environment(),
            "seed": self.study.seed,
            "scoring": definition(self.study.tolerances()),
            "digests": {
                "data": digest_json(data), "split": self.cohort.split.digest, "prompts": digest_json(prompts),
            },
            "synthetic": self.cohort.source.synthetic,
            "structures": self.study.structures,
            "subsets": self.cohort.used_subsets(),
            "left_out": self.left_out_by_subset,
            "modalities": list(self.cohort.modalities),
            "coverage": {name: meta["coverage"] for name, meta in used.items()},
            "grid": {n: {"shape": m["grid"]["shape"], "spacing": m["grid"]["spacing"]} for n, m in used.items()},
            "registration": {n: meta["registration"] for n, meta in used.items() if meta.get("registration")},
            "notes": gathered_notes(self.privacy.notes({name: meta["notes"] for name, meta in used.items()})),
        }  # fmt: skip

    def _report(self) -> Path:
        from gtvbench.reports.page.build import REPORT_VERSION, build_report

        inputs = ("study.yaml", "provenance.json", "arms.json", "failures.json", "split.json")
        files = [self.folder / name for name in (*inputs, "scores.csv", "prompts.parquet")]
        files += [path for arm in self.arms for path in self._arm_tables(arm) if path.exists()]
        pictures = self.pictures.keys if self.pictures is not None else None
        key = step_key("report", REPORT_VERSION, inputs=[digest_file(path) for path in files], pictures=pictures)
        index = self.folder / "report" / "index.html"
        if self.store.record("report", key) is None:
            self.store.forget("report")
            with self.display.phase("Report", 1):
                index = build_report(self.folder)
            self.store.finish("report", key, [index])
            self.computed["report"] += 1
        return index

    def _arm_tables(self, arm: Arm) -> list[Path]:
        folder = self.store.arm_folder(arm.name)
        return [folder / "timing.parquet", folder / "fit" / "epochs.csv"]
