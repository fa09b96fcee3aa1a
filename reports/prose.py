"""The page's sentences: banners, the summary in plain words, and what the numbers mean.

No sentence here claims that one method is better than another: the page shows no test yet, so it says what was found,
in how many patients, and what the prompt alone would have given.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from gtvbench.reports.cost import seconds_per_slice
from gtvbench.reports.load import Arm, Run
from gtvbench.reports.tables import best_arms, order_changes, presence
from gtvbench.reports.text import counted, duration, listed, number, redact

#: Two-sided exact signed-rank test: the smallest p is 2 / 2^n, which is below .05 from six pairs on.
MIN_FOR_A_TEST = 6


@dataclass(frozen=True)
class Banner:
    """Something that the reader must know before any number: `kind` names it, `text` says it, `names` lists arms."""

    kind: str
    label: str
    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What was found for one structure."""

    structure: str
    value: str
    arms: tuple[str, ...]
    lines: tuple[str, ...]


def banners(run: Run, wide: pd.DataFrame, summary: pd.DataFrame) -> list[Banner]:
    """Every reason to read the results with care, the gravest first."""
    found = []
    if run.synthetic:
        found.append(
            Banner(
                "synthetic",
                "Synthetic data",
                "The patients were made by a procedure. The numbers show that the harness works; they say nothing "
                "about real patients.",
            )
        )
    found += _about_arms(run)
    found += _incomplete(run)
    found += _too_few(run, wide)
    unscored = int(summary["unscored"].sum())
    if unscored:
        found.append(
            Banner(
                "unscored",
                "Scores missing",
                f"{counted(unscored, 'score')} that should exist (whole volume and prompted slices) "
                f"{'is' if unscored == 1 else 'are'} not a number and left out of the means.",
            )
        )
    return found


def _about_arms(run: Run) -> list[Banner]:
    found = []
    stand_in = [arm.name for arm in run.arms if arm.stand_in and arm.status != "skipped"]
    if stand_in:
        text = (
            "These arms start from small demonstration weights of the same architecture, not from the published "
            "checkpoint. Their scores are not those of the published method."
        )
        found.append(Banner("stand-in", "Stand-in weights", text, tuple(stand_in)))
    cut = [f"{arm.name}: {arm.cut_schedule}" for arm in run.arms if arm.cut_schedule and arm.status != "skipped"]
    if cut:
        text = "These arms were trained for less than their protocol asks for. They could do better."
        found.append(Banner("cut", "Training cut short", text, tuple(cut)))
    failed = [f"{arm.name}: {redact(arm.reason or 'no reason recorded')}" for arm in run.arms if arm.status == "failed"]
    if failed:
        text = "Something went wrong in these arms. Cases without a mask count as DSC 0; see Failures."
        found.append(Banner("failed", "Failed arms", text, tuple(failed)))
    skipped = [
        f"{arm.name}: {redact(arm.reason or 'no reason recorded')}" for arm in run.arms if arm.status == "skipped"
    ]
    if skipped:
        found.append(Banner("skipped", "Skipped arms", "These arms did not run.", tuple(skipped)))
    return found


def _incomplete(run: Run) -> list[Banner]:
    waiting = [
        arm.name for arm in run.arms if arm.status not in ("skipped",) and arm.name not in set(run.scores["arm"])
    ]
    unscored = sorted(set(run.subsets["test"]) - set(run.scores["patient"]))
    uneven = run.scores.groupby("arm")["case"].nunique()
    short = [str(arm) for arm, count in uneven.items() if count < uneven.max()]
    if not waiting and not (unscored and len(run.scores)) and not short:
        return []
    parts = []
    if unscored and len(run.scores):
        parts.append(f"{counted(len(unscored), 'test patient')} without any score")
    if short:
        parts.append(f"arms that lack cases which others have: {listed(short)}")
    if waiting:
        parts.append("arms without any score, listed here")
    text = f"The score table is not whole ({'; '.join(parts)}): the run is under way or was interrupted."
    return [Banner("incomplete", "Run not finished", text, tuple(waiting))]


def _too_few(run: Run, wide: pd.DataFrame) -> list[Banner]:
    counts = {s: n for s, (n, _) in presence(wide, run.structures).items() if n < MIN_FOR_A_TEST}
    if not counts:
        return []
    each = listed([f"{counted(n, 'case')} with {structure}" for structure, n in counts.items()])
    text = (
        f"The test set has {each}. Below {MIN_FOR_A_TEST} pairs a signed-rank test cannot reach p < .05 whatever the "
        "scores are, and SDs and quartiles are rough."
    )
    return [Banner("few", "Few patients", text)]


def findings(run: Run, wide: pd.DataFrame, summary: pd.DataFrame) -> list[Finding]:
    """For each structure: the highest mean DSC, who reached it in how many patients, and what the box alone gives."""
    arms = {arm.name: arm for arm in run.arms}
    found = []
    for structure, (present, scored) in presence(wide, run.structures).items():
        part = summary[summary["structure"] == structure].set_index("arm")
        best = best_arms(summary, structure)
        if not best:
            reason = "No test case has this structure; see false positives." if scored else "Nothing is scored yet."
            found.append(Finding(structure, "–", (), (reason,)))
            continue
        top = part.loc[best[0]]
        lines = [f"{present} of {counted(scored, 'test case')} {'has' if present == 1 else 'have'} this structure."]
        if len(best) == 1:
            spread = f"SD {number(top['dsc_sd'], 3)}, " if int(top["n"]) > 1 else ""
            lines.append(f"{spread}n = {int(top['n'])}, {int(top['failed'])} failed.")
        else:
            lines.append(f"{len(best)} arms share this mean to three decimals; n = {int(top['n'])} each.")
        lines += _box_alone(part, arms)
        lines += _unprompted(part, arms)
        found.append(Finding(structure, number(top["dsc_mean"], 3), tuple(best), tuple(lines)))
    return found


def _box_alone(part: pd.DataFrame, arms: dict[str, Arm]) -> list[str]:
    boxes = [name for name in part.index if arms[name].box_only]
    others = [name for name in part.index if not arms[name].box_only]
    if not boxes:
        return []
    reached = listed([f"{name} {number(part.loc[name, 'dsc_mean'], 3)}" for name in boxes])
    line = f"The box alone reaches: {reached}."
    if not others:
        return [line]
    bar = float(part.loc[boxes, "dsc_mean"].max())
    above = int((part.loc[others, "dsc_mean"] > bar).sum())
    return [line, f"{above} of {counted(len(others), 'other arm')} {'has' if above == 1 else 'have'} a higher mean."]


def _unprompted(part: pd.DataFrame, arms: dict[str, Arm]) -> list[str]:
    free = part.loc[[name for name in part.index if not arms[name].box_prompted]].dropna(subset=["dsc_mean"])
    if free.empty or len(free) == len(part):
        return []
    best = str(free["dsc_mean"].idxmax())
    return [f"Highest without any prompt: {best}, {number(free.loc[best, 'dsc_mean'], 3)}."]


def remarks(run: Run, wide: pd.DataFrame, stability: pd.DataFrame) -> list[str]:
    """Sentences under the findings: what they do not say, fairness, cost, stability."""
    lines = [
        "These are descriptions of one test set. No significance test was made: a difference between two arms may be "
        "chance."
    ]
    scored = run.scored_arms
    prompted = [arm for arm in scored if arm.box_prompted]
    if prompted:
        who = "Every arm" if len(prompted) == len(scored) else f"{len(prompted)} of {counted(len(scored), 'arm')}"
        lines.append(
            f"{who} {'was' if len(prompted) == 1 or who == 'Every arm' else 'were'} given a box around the target in "
            "every slice, drawn from the reference (oracle localisation): the slices and the place were known, and "
            "in use somebody has to draw the boxes."
        )
        if len(prompted) < len(scored):
            lines.append(
                "Arms without a prompt find the target by themselves and are penalised for slices and places that the "
                "boxes give away; the scores restricted to prompted slices take part of that away."
            )
    costs = [(arm.name, seconds_per_slice(run, arm.name)) for arm in scored if not arm.box_only]
    known = [(name, cost) for name, cost in costs if cost is not None]
    if known:
        low, high = min(cost for _, cost in known), max(cost for _, cost in known)
        span = duration(low) if duration(low) == duration(high) else f"{duration(low)} to {duration(high)}"
        lines.append(f"Median time for one slice: {span}, depending on the arm.")
    changed = [structure for structure in run.structures if order_changes(stability, structure)]
    if changed:
        lines.append(
            f"The order of the arms for {listed(changed)} depends on how empty masks and pooling are treated; see "
            "Sensitivity."
        )
    return lines


def stability_sentence(stability: pd.DataFrame, structure: str) -> str:
    """Whether the order of arms is the same under every convention."""
    words = {"empty_is_one": "empty masks counted as 1", "complete": "complete cases", "aggregated": "aggregated DSC"}
    changed = order_changes(stability, structure)
    if not changed:
        return "The order of the arms is the same under every convention."
    return f"The order of the arms changes with: {listed([words[name] for name in changed])}."
