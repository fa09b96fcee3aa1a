"""What several runs must share to be compared, and in which cases they differ where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtvbench.bench.core.errors import DigestError
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.text.numbers import counted, listed

#: Cases named in an error before it says how many more there are.
_SHOWN = 8


@dataclass(frozen=True)
class Candidate:
    """A run that is to be compared, under the label that the report gives it."""

    label: str
    folder: Path
    run: FinishedRun


@dataclass(frozen=True)
class Difference:
    """One thing in which a run differs from the first: what, how, and what to do about it."""

    what: str
    text: str
    remedy: str


_REMEDIES = {
    "data": "run both on the same images and masks, prepared with the same options of `dataset`",
    "split": "give both study files the same `split` (lists of patients are safest) and the same `seed`",
    "prompts": "give both study files the same `prompts` and the same `seed`",
    "structures": "give both study files the same `structures`",
    "scoring": "give both study files the same `scoring`, and run both with the same version of gtvbench",
    "score table": "run both with the same version of gtvbench",
}


def require_agreement(candidates: Sequence[Candidate]) -> None:
    """Raise DigestError where runs differ in data, split, prompts, structures or scoring from the first of them."""
    first = candidates[0]
    lines, remedies, folders = [], [], [first.folder]
    for other in candidates[1:]:
        found = differences(first, other)
        lines += [f"  {other.label} differs from {first.label} in {d.what}: {d.text}" for d in found]
        remedies += [d.remedy for d in found]
        folders += [other.folder] if found else []
    if not lines:
        return
    raise DigestError(
        "these runs cannot be compared: their results are not about the same thing\n" + "\n".join(lines),
        file=" and ".join(map(str, folders)),
        remedy="; ".join(dict.fromkeys(remedies)),
    )


def differences(one: Candidate, other: Candidate) -> list[Difference]:
    """Everything in which two runs differ that makes their scores incomparable; none where they can be merged."""
    found = []
    for what, explain in _EXPLAIN.items():
        digests = [(c.run.provenance.get("digests") or {}).get(what) for c in (one, other)]
        if None in digests:
            lacking = listed([c.label for c, digest in zip((one, other), digests, strict=True) if digest is None])
            remedy = "start the same `bench run` again with this version: it records the digest"
            found.append(Difference(what, f"no digest is recorded in {lacking}", remedy))
        elif digests[0] != digests[1]:
            found.append(Difference(what, explain(one, other), _REMEDIES[what]))
    found += _fields("structures", _structures, one, other)
    found += _fields("scoring", lambda run: run.provenance.get("scoring") or {}, one, other)
    found += _score_table(one, other)
    return found


def _structures(run: FinishedRun) -> Mapping[str, Any]:
    return run.provenance.get("structures") or run.study.get("structures") or {}


def _fields(
    what: str, of: Callable[[FinishedRun], Mapping[str, Any]], one: Candidate, other: Candidate
) -> list[Difference]:
    mine, theirs = of(one.run), of(other.run)
    names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    parts = [
        f"{name} is {_said(mine.get(name))} in {one.label} and {_said(theirs.get(name))} in {other.label}"
        for name in names
    ]
    return [Difference(what, "; ".join(parts), _REMEDIES[what])] if parts else []


def _said(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _score_table(one: Candidate, other: Candidate) -> list[Difference]:
    if one.run.scores.empty or other.run.scores.empty:
        return []
    text = []
    for column in ("metric", "scope"):
        mine, theirs = ({str(v) for v in c.run.scores[column]} for c in (one, other))
        text += _only(mine, theirs, one, other, column)
    return [Difference("score table", "; ".join(text), _REMEDIES["score table"])] if text else []


def _only(mine: set[str], theirs: set[str], one: Candidate, other: Candidate, noun: str) -> list[str]:
    sides = ((one.label, mine - theirs), (other.label, theirs - mine))
    return [f"{_some(names, noun)} only in {label}" for label, names in sides if names]


def _some(names: set[str], noun: str) -> str:
    shown = sorted(names)[:_SHOWN]
    rest = len(names) - len(shown)
    return f"{counted(len(names), noun)} ({', '.join(shown)}{f' and {rest} more' if rest else ''})"


def _data(one: Candidate, other: Candidate) -> str:
    mine, theirs = (_records(c.folder / "steps" / "prepare") for c in (one, other))
    if not mine or not theirs:
        mine, theirs = (dict(c.run.provenance.get("grid") or {}) for c in (one, other))
    else:
        mine, theirs = _used(one, mine), _used(other, theirs)
    text = _only(set(mine), set(theirs), one, other, "case")
    both = [case for case in mine if case in theirs]
    for key, noun in (("images_digest", "other images in"), ("reference_digest", "other reference masks in")):
        changed = {case for case in both if mine[case].get(key) != theirs[case].get(key)}
        text += [f"{noun} {_some(changed, 'case')}"] if changed else []
    regridded = {case for case in both if mine[case].get("shape") != theirs[case].get("shape")}
    text += [f"another grid in {_some(regridded, 'case')}"] if regridded else []
    return "; ".join(text) or "which cases differ is not recorded"


def _split(one: Candidate, other: Candidate) -> str:
    text = []
    for subset, mine in one.run.subsets.items():
        text += _only(set(mine), set(other.run.subsets[subset]), one, other, f"{subset} patient")
    if not text and one.run.folds != other.run.folds:
        counts = [f"{len(c.run.folds) or 'none'} in {c.label}" for c in (one, other)]
        text = [f"other folds ({', '.join(counts)})"]
    return "; ".join(text) or "which patients differ is not recorded"


def _prompts(one: Candidate, other: Candidate) -> str:
    mine, theirs = (_boxes(c) for c in (one, other))
    text = _only(set(mine), set(theirs), one, other, "case")
    changed = {case for case in mine if case in theirs and mine[case] != theirs[case]}
    text += [f"other boxes in {_some(changed, 'case')}"] if changed else []
    return "; ".join(text) or "which cases differ is not recorded"


_EXPLAIN: dict[str, Callable[[Candidate, Candidate], str]] = {"data": _data, "split": _split, "prompts": _prompts}


def _boxes(candidate: Candidate) -> dict[str, Any]:
    """Identity of the prompts of each case: the digest of its step, or its rows where there are no step records."""
    records = _used(candidate, _records(candidate.folder / "steps" / "prompts"))
    if records:
        return {case: record.get("digest") for case, record in records.items()}
    table = candidate.run.prompts
    if table is None:
        return {}
    return {str(case): sorted(map(str, part.to_numpy().tolist())) for case, part in table.groupby("case")}


def _used(candidate: Candidate, records: dict[str, Any]) -> dict[str, Any]:
    """Records of the cases that the run used; step records of an earlier split may still lie beside them."""
    grid = candidate.run.provenance.get("grid")
    return {case: record for case, record in records.items() if grid is None or case in grid}


def _records(folder: Path) -> dict[str, Any]:
    """Step records by case; none where they did not travel with the run folder or cannot be read."""
    found = {}
    try:
        for path in sorted(folder.glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict):
                found[path.stem] = record
    except (OSError, ValueError):
        return {}
    return found
