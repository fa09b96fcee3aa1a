"""`bench check`: read everything that a study names, compute nothing, and say what is wrong before hours are spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.arms import Arm, plan_arms
from gtvbench.bench.cohort import open_cohort
from gtvbench.bench.core.cases import gathered_notes
from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.progress import Display
from gtvbench.bench.study import Study
from gtvbench.datasets.checks import Finding, case_findings, cohort_findings, facts_of


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
    findings: list[Finding] = []
    facts = []
    notes: dict[str, tuple[str, ...]] = {}
    with display.phase("Reading patients", len(cohort.used)):
        for entry in cohort.used:
            try:
                case = cohort.source.read(entry)
            except BenchError as error:
                findings.append(_finding(error, entry.name))
                continue
            findings += case_findings(case, cohort.structures, cohort.modalities)
            notes[case.name] = case.notes
            findings += [Finding("warning", text, entry.name) for text in cohort.source.findings(entry, case)]
            facts.append(facts_of(case))
            display.advance(entry.name)
    findings += [Finding("warning", line) for line in gathered_notes(notes)]
    findings += cohort_findings(facts)
    arms: list[Arm] = []
    try:
        arms = plan_arms(study, base, cohort.modalities)
    except BenchError as error:
        findings.append(_finding(error, error.case))
    return CheckResult(sorted(findings, key=lambda f: f.level != "error"), arms, len({e.patient for e in cohort.used}))


def _finding(error: BenchError, case: str | None) -> Finding:
    where = f" ({error.file})" if error.file else ""
    return Finding("error", error.message + where, case, error.remedy)
