"""What a run would do: its jobs, what each waits for, and how long they may take by the clocks of former runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from gtvbench.bench.core.prompts import Prompts, policy_from
from gtvbench.bench.files.store import Store
from gtvbench.bench.prepare.cases import load_prepared, prepare_key, prompts_key
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.study.arms import Arm, plan_arms
from gtvbench.bench.study.cohort import Cohort, open_cohort
from gtvbench.bench.study.file import Study


@dataclass(frozen=True)
class Job:
    """One line of a plan. `seconds` is an estimate, None where no former run tells; `by` says where it is from."""

    name: str
    after: str
    what: str
    where: str
    seconds: float | None = None
    by: str = ""


@dataclass(frozen=True)
class _Clock:
    """Median seconds of an epoch and of a case of one method on one device, from a former run."""

    epoch: float | None
    case: float | None
    by: str


def plan_jobs(study: Study, base: Path, folder: Path, chosen: Sequence[str] | None) -> list[Job]:
    """What `bench run` would do on this run folder; nothing is computed or written. Raises BenchError on bad input."""
    cohort = open_cohort(study, base)
    arms = plan_arms(study, base, cohort.modalities, chosen, cohort.split)
    ready, missing = _as_it_lies(study, base, cohort, Store(folder))
    clocks = _clocks([folder, *sorted(folder.parent.glob("*/"))])
    jobs = [Job("prepare", "", f"{missing} of {len(cohort.used)} patients", "")] if missing else []
    for arm in arms:
        if arm.skip is not None:
            jobs.append(Job(arm.name, "", f"skipped: {arm.skip}", ""))
        else:
            jobs += _of_arm(study, cohort, arm, ready, clocks.get((arm.adapter, arm.fusion)))
    return jobs


def _as_it_lies(study: Study, base: Path, cohort: Cohort, store: Store) -> tuple[Ready | None, int]:
    """What the arms would be given, where every patient is prepared and prompted; and how many are not."""
    prepared, prompts = {}, {}
    for entry in cohort.used:
        found = load_prepared(store, prepare_key(entry.identity, cohort.modalities, cohort.structures), entry.name)
        if found is None:
            continue
        prepared[entry.name] = found
        key = prompts_key(found, policy_from(study.prompts.policy), study.seed, study.prompts.minimum_area_mm2)
        if store.record(f"prompts/{entry.name}", key) is not None:
            rows = json.loads((store.folder / "prompts" / f"{entry.name}.json").read_text())
            prompts[entry.name] = Prompts.from_rows(entry.name, rows)
    missing = len(cohort.used) - len(prepared)
    whole = not missing and len(prompts) == len(cohort.used)
    return Ready(study, base, store, cohort, prepared, prompts) if whole else None, missing


def _of_arm(study: Study, cohort: Cohort, arm: Arm, ready: Ready | None, clock: _Clock | None) -> Iterator[Job]:
    if ready is not None:
        left = [work for each in ready.works(arm) if (work := ready.missing(each)) is not None]
        units = [(work.arm.unit, len(work.items), work.fit is not None) for work in left]
    elif arm.trains and cohort.split.folds:
        folds = range(1, len(cohort.split.folds) + 1)
        units = [(f"{arm.name}/fold{fold}", len(cohort.cases("test", fold)), True) for fold in folds]
    else:
        units = [(arm.name, len(cohort.cases("test")), arm.trains)]
    if not units:
        yield Job(arm.name, "", "done", "")
    for unit in units:
        yield from _of_unit(study, arm, *unit, clock)


def _of_unit(study: Study, arm: Arm, unit: str, cases: int, fit: bool, clock: _Clock | None) -> Iterator[Job]:
    where = f"{_place(study)}, device {study.device}"
    if fit:
        epochs = arm.epochs
        seconds = clock.epoch * epochs if clock and clock.epoch and epochs else None
        what = f"train, {epochs} epochs" if epochs else "train"
        yield Job(f"fit {unit}", "prepare", what, where, seconds, clock.by if clock and seconds else "")
    seconds = clock.case * cases if clock and clock.case else None
    after = f"fit {unit}" if fit else "prepare"
    by = clock.by if clock and seconds else ""
    yield Job(f"predict {unit}", after, f"{cases} cases", where, seconds, by)


def _place(study: Study) -> str:
    engine = study.engine
    if engine.cluster is not None:
        size = f"{engine.cores} cores, {engine.job_memory}, {engine.walltime}"
        return f"up to {engine.jobs} jobs of {engine.cluster} ({size})"
    if engine.kind == "dask":
        return f"the Dask workers at {engine.address}"
    return f"GPUs {engine.gpus}" if engine.gpus else "this machine"


def _clocks(folders: Sequence[Path]) -> dict[tuple[str, str], _Clock]:
    """By adapter and fusion, the clock of the first run folder that has one."""
    found: dict[tuple[str, str], _Clock] = {}
    for folder in folders:
        with suppress(OSError, ValueError, KeyError):
            for record in json.loads((folder / "arms.json").read_text()):
                key = (record["adapter"], record["fusion"])
                clock = _clock(folder / "arms" / record["arm"], record, folder.name)
                if key not in found and (clock.epoch is not None or clock.case is not None):
                    found[key] = clock
    return found


def _clock(arm: Path, record: dict[str, Any], run: str) -> _Clock:
    epoch = case = None
    where = record.get("device") or "?"
    with suppress(OSError, ValueError, KeyError, IndexError):
        epoch = median(pd.read_csv(sorted(arm.rglob("fit/epochs.csv"))[0])["seconds"])
    with suppress(OSError, ValueError, KeyError):
        timing = pd.read_parquet(arm / "timing.parquet")
        whole = timing[timing["stage"] == "case"]
        last = whole[whole["device"] == whole["device"].iloc[-1]] if whole["device"].notna().any() else whole
        case = median(last["seconds"]) if len(last) else None
        where = next(iter(last["device"].dropna()), where)
    return _Clock(epoch, case, f"{run}, {where}")
