"""`bench check`: read everything that a study names, compute nothing, and say what is wrong before hours are spent."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.files.progress import Display
from gtvbench.bench.prepare.crew import Result, read, readers
from gtvbench.bench.prepare.patients import Task
from gtvbench.bench.study.arms import Arm, plan_arms
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import Study
from gtvbench.datasets.assembly.checks import Finding, cohort_findings


@dataclass(frozen=True)
class CheckResult:
    """Findings (errors first), the arms as planned, and the number of patients in use."""

    findings: list[Finding]
    arms: list[Arm]
    patients: int


def check_study(study: Study, base: Path, display: Display) -> CheckResult:
    """Check geometry, labels, modalities, leakage, weights, coverage and tell-tale margins of a study.

    Problems with single cases and arms become findings; raises BenchError where nothing can be checked at all (an
    unreadable source, a split that overlaps).
    """
    cohort = open_cohort(study, base)
    crew = readers(cohort.job("check", study, base), study.preparation)
    results: dict[str, Result] = {}
    tasks = [Task(entry) for entry in cohort.used]
    with display.phase("Reading patients", len(tasks)) as bar, closing(read(crew, tasks)) as found:
        for result in found:
            results[result.case] = result
            bar.advance(result.case if result.error is None else "")
    findings: list[Finding] = []
    facts = []
    notes: dict[str, tuple[str, ...]] = {}
    for entry in cohort.used:
        result = results[entry.name]
        if result.error is not None:
            findings.append(_finding(result.error, entry.name))
            continue
        own, told, notes[entry.name], of_case = result.value
        findings += [*own, *(Finding("warning", text, entry.name) for text in told)]
        facts.append(of_case)
    findings += [Finding("warning", line) for line in gathered_notes(notes)]
    findings += cohort_findings(facts)
    arms: list[Arm] = []
    try:
        arms = plan_arms(study, base, cohort.modalities, split=cohort.split)
    except BenchError as error:
        findings.append(_finding(error, error.case))
    return CheckResult(sorted(findings, key=lambda f: f.level != "error"), arms, len({e.patient for e in cohort.used}))


def _finding(error: BenchError, case: str | None) -> Finding:
    where = f" ({error.file})" if error.file else ""
    return Finding("error", error.message + where, case, error.remedy)
