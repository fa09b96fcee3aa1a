"""What a user's own CI demands of a run: `ARM:STRUCTURE:METRIC>=VALUE` on the test set."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gtvbench.bench.core.errors import StudyError
from gtvbench.reports.contrasts import by_patient
from gtvbench.reports.load import read_run
from gtvbench.reports.tables import wide_scores
from gtvbench.reports.text import finite

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
#: Metric as written -> column of scores and how patients are pooled: as the report's headline does.
_METRICS = {
    "dsc": ("dsc", "mean"), "nsd": ("nsd", "mean"), "hd95": ("hd95_mm", "median"), "assd": ("assd_mm", "median"),
}  # fmt: skip
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(
    rf"(?P<arm>.+):(?P<structure>[^:]+):(?P<metric>[a-z0-9]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<value>{_NUMBER})"
)


@dataclass(frozen=True)
class Outcome:
    """One requirement: as it was written, what was found, and whether it holds."""

    text: str
    found: float
    holds: bool


def check_requirements(run_folder: Path, texts: Sequence[str]) -> list[Outcome]:
    """Check requirements such as 'nnunet-box.multimodal:GTV-T:dsc>=0.8'.

    dsc and nsd are means, hd95 and assd medians, over patients who have the structure, failed cases with their penalty.
    A method's name stands for its only arm. Raises StudyError for a requirement that cannot be read or names nothing.
    """
    run = read_run(run_folder)
    wide = wide_scores(run.scores)
    return [_check(text, run.structures, [arm.name for arm in run.scored_arms], wide) for text in texts]


def _check(text: str, structures: Sequence[str], arms: Sequence[str], wide: pd.DataFrame) -> Outcome:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise StudyError(
            f"the requirement {text!r} cannot be read",
            remedy="write ARM:STRUCTURE:METRIC>=VALUE, for example nnunet-box:GTV-T:dsc>=0.8",
        )
    metric = match["metric"]
    if metric not in _METRICS:
        raise StudyError(f"unknown metric {metric!r} in {text!r}", remedy=f"use one of {', '.join(_METRICS)}")
    arm = _arm(match["arm"], arms, text)
    if match["structure"] not in structures:
        known = ", ".join(structures)
        raise StudyError(f"unknown structure {match['structure']!r} in {text!r}", remedy=f"known: {known}")
    column, pooled = _METRICS[metric]
    table = by_patient(wide, match["structure"], column)
    found = float(table[arm].agg(pooled)) if arm in table.columns and len(table) else float("nan")
    holds = finite(found) and _OPERATORS[match["sign"]](found, float(match["value"]))
    return Outcome(text, found, holds)


def _arm(name: str, arms: Sequence[str], text: str) -> str:
    if name in arms:
        return name
    of_method = [arm for arm in arms if arm.split(".")[0] == name]
    if len(of_method) == 1:
        return of_method[0]
    near = of_method or difflib.get_close_matches(name, arms, 3) or list(arms)
    raise StudyError(f"{text!r} names no single arm of the run", remedy=f"name one of {', '.join(near)}")
