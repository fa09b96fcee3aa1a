"""What a user's own CI demands of a run: `ARM:STRUCTURE:METRIC>=VALUE` on the test set."""

from __future__ import annotations

import difflib
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.scores import MEASURES, WHOLE_VOLUME, Measure
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.run.load import FinishedRun, base_name, read_run
from gtvbench.reports.text.numbers import counted, finite, listed

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "\u2265": operator.ge, "\u2264": operator.le,
}  # fmt: skip
#: Metrics as written, 'hd95' or 'hd95_mm'; patients are pooled as in the report's headline.
_METRICS = {name: measure for measure in MEASURES.values() for name in (measure.short, measure.name)}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(rf"(?P<names>.+):\s*(?P<metric>\w+)\s*(?P<sign>>=|<=|>|<|\u2265|\u2264)\s*(?P<value>{_NUMBER})")
_EXAMPLE = "write ARM:STRUCTURE:METRIC>=VALUE, for example 'nnunet-box:GTV-T:dsc>=0.8'"


@dataclass(frozen=True)
class Outcome:
    """One requirement: as it was written, what was found in how many patients, and whether it holds.

    `found` is NaN, and `reason` says why, where there is no value: a requirement on nothing does not hold.
    """

    text: str
    found: float
    holds: bool
    pooled: str = "mean"
    n: int = 0
    seeds: int = 1
    reason: str | None = None

    @property
    def found_text(self) -> str:
        """What was found, in words: 'mean 0.8123, n = 12 patients'."""
        if self.reason is not None:
            return self.reason
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.pooled} {self.found:.9g}, n = {counted(self.n, 'patient')}{seeds}"


@dataclass(frozen=True)
class _Requirement:
    """A requirement that names what the run has: the arms (several: the seeds of one) are averaged for each patient."""

    text: str
    arms: tuple[ArmRecord, ...]
    structure: str
    metric: Measure
    sign: str
    value: float


def check_requirements(run: Path | FinishedRun, texts: Sequence[str]) -> list[Outcome]:
    """Check requirements such as 'nnunet-box.multimodal:GTV-T:dsc>=0.8' on a run or its folder.

    dsc and nsd are means, hd95 and assd medians, over patients who have the structure, failed cases with their
    penalty; values are rounded to 1e-9 before they are compared. An arm's name without its seed stands for the mean
    over its seeds in each patient, a method's name for its only fusion. An arm without scores, or a value that does not
    exist, fails with its reason. Raises StudyError for a requirement that cannot be read or names nothing.
    """
    run = run if isinstance(run, FinishedRun) else read_run(run)
    required = [_parsed(text, run) for text in texts]
    wide = wide_scores(run.scores)
    return [_outcome(requirement, wide) for requirement in required]


def _parsed(text: str, run: FinishedRun) -> _Requirement:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        hint = "; a decimal point, not a comma" if re.search(r"\d,\d", text) else ""
        raise StudyError(f"the requirement {text!r} cannot be read", remedy=_EXAMPLE + hint)
    metric = _METRICS.get(match["metric"].casefold())
    if metric is None:
        raise StudyError(
            f"unknown metric {match['metric']!r} in {text!r}",
            remedy=f"use one of {', '.join(m.short for m in MEASURES.values())}",
        )
    value = float(match["value"])
    if metric.bounded and not 0 <= value <= 1:
        raise StudyError(
            f"{metric.short} lies between 0 and 1, not at {value:g}: {text!r}", remedy="80 % is written 0.8"
        )
    arms, structure = _named(match["names"], text, run)
    return _Requirement(text, arms, structure, metric, match["sign"], value)


def _named(names: str, text: str, run: FinishedRun) -> tuple[tuple[ArmRecord, ...], str]:
    """Arms and structure of 'ARM:STRUCTURE', each of which may have colons itself."""
    groups = _groups(run.arms)
    splits = [(names[:k], names[k + 1 :]) for k, char in enumerate(names) if char == ":"]
    if not splits:
        raise StudyError(f"the requirement {text!r} cannot be read", remedy=_EXAMPLE)
    structures = {_plain(name): name for name in run.structures}
    known = [(arm, structures[_plain(s)]) for arm, s in splits if _plain(s) in structures]
    if not known:
        wanted = splits[0][1].strip()
        raise StudyError(
            f"unknown structure {wanted!r} in {text!r}", remedy=f"the run has {_suggested(wanted, run.structures)}"
        )
    for arm, structure in known:
        if _plain(arm) in groups:
            return groups[_plain(arm)], structure
    wanted = known[0][0].strip()
    fusions = [a.name for a in run.arms if _plain(a.method) == _plain(wanted)]
    if fusions:
        several = list(dict.fromkeys(base_name(name) for name in fusions))
        raise StudyError(
            f"{wanted!r} names no single arm of the run, in {text!r}", remedy=f"name one of {', '.join(several)}"
        )
    raise StudyError(
        f"{wanted!r} names no single arm of the run, in {text!r}",
        remedy=f"the run has {_suggested(wanted, run.arm_names)}",
    )


def _groups(arms: Sequence[ArmRecord]) -> Mapping[str, tuple[ArmRecord, ...]]:
    """What a name stands for: an arm; the seeds of an arm; a method where it has one fusion only."""
    found: dict[str, tuple[ArmRecord, ...]] = {}
    for arm in arms:
        base = _plain(base_name(arm.name))
        found[base] = (*found.get(base, ()), arm)
    for method in {arm.method for arm in arms}:
        bases = {_plain(base_name(arm.name)) for arm in arms if arm.method == method}
        if len(bases) == 1:
            found.setdefault(_plain(method), found[bases.pop()])
    return found | {_plain(arm.name): (arm,) for arm in arms}


def _plain(name: str) -> str:
    """A name as it is compared: without blanks around it, and however its accents are encoded."""
    return unicodedata.normalize("NFC", name).strip()


def _suggested(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 3)
    every = ", ".join(known) or "none"
    return f"{every} (did you mean {' or '.join(near)}?)" if near else every


def _outcome(required: _Requirement, wide: pd.DataFrame) -> Outcome:
    column, pooled = required.metric.name, "mean" if required.metric.bounded else "median"
    names = [arm.name for arm in required.arms]

    def failed(reason: str) -> Outcome:
        return Outcome(required.text, math.nan, False, pooled, 0, len(names), f"no value: {reason}")

    for arm in required.arms:
        if arm.name not in set(wide["arm"]):
            why = f": {arm.reason}" if arm.reason else ""
            return failed(f"{arm.name} has no scores ({arm.status}{why})")
    part = wide[(wide["scope"] == WHOLE_VOLUME) & (wide["structure"] == required.structure) & wide["present"]]
    if part.empty:
        return failed(f"no test patient has {required.structure}")
    expected = sorted(set(part["patient"]))
    own = part[part["arm"].isin(names)]
    own = own.assign(value=own[column].astype(float))
    table = own.pivot_table(index="patient", columns="arm", values="value", aggfunc=_mean_of_all)
    table = table.reindex(index=expected, columns=names)
    without = [str(patient) for patient in table.index[table.isna().any(axis=1)]]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        return failed(f"no {required.metric.title} of {counted(len(without), 'patient')}: {listed(without[:5])}{more}")
    found = round(float(table.mean(axis=1).agg(pooled)), 9)
    holds = finite(found) and _OPERATORS[required.sign](found, required.value)
    return Outcome(required.text, found, holds, pooled, len(table), len(names))


def _mean_of_all(values: pd.Series[float]) -> float:
    """Mean over a patient's cases; NaN where one of them has no value."""
    return float(values.mean(skipna=False))
