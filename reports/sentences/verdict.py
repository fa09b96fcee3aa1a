"""The verdict in plain words: which arm leads on each structure, by how much, how sure that is, and what it costs.

A lead is the paired difference to the next arm. It is called real only if the signed-rank test is significant after
Holm over all pairs of arms (the leader was chosen by looking), and large only if the whole interval lies beyond the
margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.contrasts import LEVEL
from gtvbench.reports.analysis.cost import by_place
from gtvbench.reports.analysis.scores import best_arms, presence
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.statistics.paired import holm, smallest_p
from gtvbench.reports.text.numbers import (
    ABSENT,
    counted,
    duration,
    equals,
    finite,
    interval,
    listed,
    number,
    percent,
    signed,
)

#: So many differences that hold are listed in the verdict itself.
_LISTED = 3


@dataclass(frozen=True)
class Point:
    """One statement of a verdict: a keyword and a sentence."""

    term: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What was found for one structure; `arms` share the highest mean DSC `value`."""

    structure: str
    value: str
    arms: tuple[str, ...]
    points: tuple[Point, ...]


def verdicts(
    run: FinishedRun,
    wide: pd.DataFrame,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    ranked: Sequence[Mapping[str, Any]],
    costs: Mapping[str, float],
) -> list[Verdict]:
    """A verdict for each structure. `summary` holds the whole volume's rows, `differences` all pairs of arms."""
    found = []
    for structure, (present, scored) in presence(wide, run.structures).items():
        part = {str(r["arm"]): r for r in summary[summary["structure"] == structure].to_dict("records")}
        best = best_arms(summary, structure)
        if not best:
            reason = "No test case has this structure; see false positives." if scored else "Nothing is scored yet."
            found.append(Verdict(structure, ABSENT, (), (Point("No result", reason),)))
            continue
        chosen = differences[differences["structure"] == structure]
        record = next((r for r in ranked if r["structure"] == structure and r["metric"] == "dsc"), None)
        points = [_patients(part[best[0]], present, scored, len(run.left_out["test"]))]
        points += _lead(part, best, chosen)
        points += _tests(part, best, chosen)
        points += _ranking(best, record)
        points += _surface(part, best)
        points += _box_alone(part, {arm.name: arm for arm in run.arms})
        points += _unprompted(part, {arm.name: arm for arm in run.arms})
        points += _cost(run, best, costs)
        found.append(Verdict(structure, number(part[best[0]]["dsc_mean"], 3), tuple(best), tuple(points)))
    return found


def _patients(top: Mapping[Any, Any], present: int, scored: int, lost: int) -> Point:
    low, high = top.get("dsc_low"), top.get("dsc_high")
    ci = f"95 % CI {number(low, 3)} to {number(high, 3)}, " if finite(low) and finite(high) else ""
    spread = f"SD {number(top['dsc_sd'], 3)}, " if finite(top["dsc_sd"]) else ""
    failed = f", {int(top['failed'])} failed" if int(top["failed"]) else ""
    text = f"{ci}{spread}{present} of {counted(scored, 'test case')} {have(present)} this structure{failed}."
    if lost:
        text += f" {counted(lost, 'more test case')} could not be read and {'is' if lost == 1 else 'are'} left out."
    return Point("Mean", text)


def oriented(chosen: pd.DataFrame, metric: str, one: str, other: str) -> dict[str, Any] | None:
    """The row of a pair of arms as `one` minus `other`, whichever way the table has it."""
    part = chosen[chosen["metric"] == metric]
    for first, second, turn in ((one, other, 1.0), (other, one, -1.0)):
        rows = part[(part["one"] == first) & (part["other"] == second)]
        if len(rows):
            row: dict[str, Any] = {str(k): v for k, v in rows.iloc[0].to_dict().items()}
            if turn < 0:
                row |= {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
            return row
    return None


def _lead(part: Mapping[str, Any], best: Sequence[str], chosen: pd.DataFrame) -> list[Point]:
    others = [name for name in part if name not in best and finite(part[name]["dsc_mean"])]
    if len(best) > 1:
        return [Point("Lead", f"None: {len(best)} arms share this mean to three decimals.")]
    if not others:
        return [Point("Lead", "There is no other arm to compare it with.")]
    following = max(others, key=lambda name: (float(part[name]["dsc_mean"]), name))
    row = oriented(chosen, "dsc", best[0], following)
    if row is None:
        return []
    numbers = f"{signed(row['difference'], 3)}"
    adjusted = all_pairs(chosen, "dsc")
    p = adjusted.get(frozenset((best[0], following)), float("nan"))
    if finite(row["low"]) and finite(row["high"]):
        numbers += f" (95 % CI {interval(row['low'], row['high'], 3)}"
        numbers += f"; p {equals(p)} after Holm over all pairs)" if finite(p) else ")"
    reachable = smallest_p(int(row["n"])) * max(len(adjusted), 1) <= LEVEL
    return [Point("Lead", f"{numbers} over {following}, the next: {_size(row, p, reachable)}.")]


def _size(row: Mapping[str, Any], p: float, reachable: bool) -> str:
    """What a lead means, in words; `reachable` is whether so many patients could reach significance at all."""
    margin = f"the margin of {row['margin']:g}"
    real = finite(p) and p < LEVEL
    known = finite(row["low"]) and finite(row["high"])
    if row["p_equivalence"] < LEVEL:
        lead = "more than chance, but" if real else "no difference is shown, and it"
        return f"{lead} lies within {margin}: in DSC the two are practically the same"
    if int(row["n"]) == 1:
        return "one patient has no interval and no test, and says nothing of others"
    if not reachable:
        if known and row["low"] > row["margin"]:
            return f"the whole interval lies beyond {margin}, though so few patients cannot reach p < .05 after Holm"
        return f"too few patients for a test to decide; compare the interval with {margin}"
    if real and known and row["low"] <= 0 <= row["high"]:
        return "in most patients, but a few move the mean so far that its interval includes 0"
    if real:
        beyond = known and row["low"] > row["margin"]
        return (
            f"more than chance, and beyond {margin}" if beyond else f"more than chance; whether beyond {margin} is open"
        )
    return "it may be chance"


def all_pairs(chosen: pd.DataFrame, metric: str) -> dict[frozenset[str], float]:
    """Signed-rank p of every pair of arms of one structure, after Holm over all that can be tested."""
    part = chosen[(chosen["metric"] == metric) & np.isfinite(chosen["p"].astype(float))]
    pairs = [frozenset((str(a), str(b))) for a, b in zip(part["one"], part["other"], strict=True)]
    # A pair that was planned both ways counts once.
    p = dict(zip(pairs, part["p"].astype(float), strict=True))
    return dict(zip(p, (float(v) for v in holm(list(p.values()))), strict=True)) if p else {}


def _tests(part: Mapping[str, Any], best: Sequence[str], chosen: pd.DataFrame) -> list[Point]:
    """What the tests say: of the planned differences, and of the leader against every other arm."""
    dsc = chosen[chosen["metric"] == "dsc"]
    planned = dsc[dsc["planned"].astype(bool)]
    adjusted, n = all_pairs(chosen, "dsc"), int(dsc["n"].max()) if len(dsc) else 0
    pairs = max(len(dsc), 1)
    reach = {"planned": smallest_p(n) * len(planned) <= LEVEL, "all": smallest_p(n) * pairs <= LEVEL}
    if dsc.empty:
        return []
    if not reach["all"] and not (len(planned) and reach["planned"]):
        what = listed([counted(len(planned), "planned difference")] * bool(len(planned)) + [counted(pairs, "pair")])
        if n == 1:
            return [Point("Tests", "None: the scores are those of one patient, without an interval.")]
        text = f"With {counted(n, 'patient')}, none of {what} can reach p < .05 after Holm, whatever the scores are"
        return [Point("Tests", f"{text}; look at the intervals.")]
    found = [_planned(planned, reach["planned"])] if len(planned) else []
    if len(part) > 2 and len(best) == 1 and reach["all"]:
        others = [name for name in part if name != best[0]]
        unclear = [name for name in others if not adjusted.get(frozenset((best[0], name)), 1.0) < LEVEL]
        if unclear:
            found.append(Point("Not told apart", f"From {listed(unclear)} (p ≥ .05 after Holm over all pairs)."))
        else:
            text = f"From all {len(others)} other arms (p < .05 after Holm over all pairs)."
            found.append(Point("Told apart", text))
    return found


def _ranking(best: Sequence[str], record: Mapping[str, Any] | None) -> list[Point]:
    if record is None or not record["schemes"]:
        return []
    # A way under which all arms tie, as tests won does with few patients, ranks nobody.
    schemes = {name: held for name, held in record["schemes"].items() if len(set(held["ranks"])) > 1}
    if "mean-then-rank" not in schemes:
        return []
    main = schemes["mean-then-rank"]
    share = {arm: main["probability"][k][0] for k, arm in enumerate(record["arms"])}
    leaders = {
        name: {arm for arm, rank in zip(record["arms"], scheme["ranks"], strict=True) if rank == min(scheme["ranks"])}
        for name, scheme in schemes.items()
    }
    agree = [name for name, arms in leaders.items() if arms & set(best)]
    first = listed([f"{percent(share.get(arm, float('nan')))}" for arm in best])
    text = f"First in {first} of the resamples of the patients"
    text += f"; {len(agree)} of {len(schemes)} ways to rank put it first" if len(best) == 1 else ""
    other = sorted({arm for arms in leaders.values() for arm in arms} - set(best))
    text += f" (otherwise {listed(other)})" if other and len(agree) < len(schemes) else ""
    return [Point("How sure", f"{text}.")]


def _surface(part: Mapping[str, Any], best: Sequence[str]) -> list[Point]:
    known = {name: float(r["hd95_median_mm"]) for name, r in part.items() if finite(r["hd95_median_mm"])}
    if not known:
        return []
    least = min(known.values())
    lowest = [name for name, value in known.items() if round(value, 3) == round(least, 3)]
    if set(lowest) & set(best):
        return [Point("HD95", f"Lowest median too, {number(least, 1)} mm.")]
    own = f"; {best[0]} has {number(known[best[0]], 1)} mm" if best[0] in known else ""
    return [Point("HD95", f"Another arm has the lowest median: {listed(lowest)}, {number(least, 1)} mm{own}.")]


def _planned(planned: pd.DataFrame, reachable: bool) -> Point:
    count = counted(len(planned), "planned difference")
    if not reachable:
        return Point("Planned", f"{count} in DSC: after Holm so few patients cannot reach p < .05.")
    hold = planned[planned["p_holm"] < LEVEL]
    text = f"{len(hold)} of {count} in DSC {have(len(hold))} p < .05 after Holm"
    if len(hold) > _LISTED:
        text += "; see Differences"
    elif len(hold):
        rows = hold.to_dict("records")
        text += ": " + "; ".join(f"{r['one']} − {r['other']} {signed(r['difference'], 3)}" for r in rows)
    return Point("Planned", f"{text}.")


def _box_alone(part: Mapping[str, Any], arms: Mapping[str, ArmRecord]) -> list[Point]:
    boxes = [name for name in part if arms[name].box_only and finite(part[name]["dsc_mean"])]
    others = [name for name in part if not arms[name].box_only]
    if not boxes:
        return []
    reached = listed([f"{name} {number(part[name]['dsc_mean'], 3)}" for name in boxes])
    if not others:
        return [Point("Box alone", f"{reached}.")]
    bar = max(part[name]["dsc_mean"] for name in boxes)
    above = sum(part[name]["dsc_mean"] > bar for name in others)
    return [
        Point("Box alone", f"{reached}; {above} of {counted(len(others), 'other arm')} {have(above)} a higher mean.")
    ]


def _unprompted(part: Mapping[str, Any], arms: Mapping[str, ArmRecord]) -> list[Point]:
    free = [name for name in part if not arms[name].box_prompted and finite(part[name]["dsc_mean"])]
    if not free or len(free) == len(part):
        return []
    best = max(free, key=lambda name: float(part[name]["dsc_mean"]))
    lost, n = int(part[best]["failed"]), int(part[best]["n"])
    if lost == n:
        return [Point("Without a prompt", f"{best} found nothing in any of {counted(n, 'case')}.")]
    failed = f", nothing found in {lost} of {n}" if lost else ""
    which = "Best" if len(free) > 1 else "The only one"
    return [Point("Without a prompt", f"{which}: {best}, {number(part[best]['dsc_mean'], 3)}{failed}.")]


def _cost(run: FinishedRun, best: Sequence[str], costs: Mapping[str, float]) -> list[Point]:
    lines, arms = [], {arm.name: arm for arm in run.arms}
    for name in best[:3]:
        parts = [f"{duration(costs[name])} a case"] if name in costs else []
        if name in run.epochs and len(by_place(run.epochs[name], hosts=True)) == 1:
            seconds = run.epochs[name]["seconds"]
            folds = f", {arms[name].folds} folds together" if arms[name].folds else ""
            parts.append(f"{duration(float(seconds.sum()))} of training in {counted(len(seconds), 'epoch')}{folds}")
        if parts:
            lines.append((f"{name}: " if len(best) > 1 else "") + ", ".join(parts))
    known = {n: c for n, c in costs.items() if n not in best and not arms[n].box_only}
    if lines and known:
        fastest = min(known, key=lambda name: (known[name], name))
        lines.append(f"fastest other arm, boxes apart: {fastest}, {duration(known[fastest])} a case")
    return [Point("Cost", "; ".join(lines) + ".")] if lines else []


def have(count: int) -> str:
    """The verb for a count."""
    return "has" if count == 1 else "have"
