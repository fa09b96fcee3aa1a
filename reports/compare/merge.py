"""Merges the arms of several runs of one study into one run, and renders it as any other.

Runs are merged only where their scores are about the same thing (agreement.py). An arm that several runs have with the
same result is kept once; with different results, each is kept, and its name ends in @ and the run's label.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gtvbench.bench.core.digest import digest_json
from gtvbench.bench.core.errors import StoreError, StudyError, why
from gtvbench.bench.files.store import refuse_in_use, write_atomically
from gtvbench.bench.privacy.paths import redact_all
from gtvbench.bench.study.file import NAME
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.contrasts import planned, statistics_of
from gtvbench.reports.compare.same_study import Candidate, require_agreement
from gtvbench.reports.run.load import FinishedRun, Notice, SourceRun, comparable, plan_notices, read_run
from gtvbench.reports.text.numbers import counted, listed

#: Marks a folder that this module may write to again; its content says what was merged.
RECORD = "comparison.json"
SCHEMA = 1

#: Stands between the name of an arm and the label of its run; no arm's own name has it.
MARK = "@"


@dataclass(frozen=True)
class _Variant:
    """An arm as one run has it, its name in the merged run, and the labels of the runs with the very same result."""

    arm: ArmRecord
    name: str
    origin: Candidate
    same: tuple[str, ...] = ()


def build_comparison(folders: Sequence[Path], out: Path | None = None, names: Sequence[str] | None = None) -> Path:
    """Merge runs and write their report to `out`/report; return the page's path.

    `out` is comparisons/<study of the first run> where None; `names` label the runs (default: names of the folders).
    Raises StudyError for fewer than two folders, one that is named twice, or an unsuitable `out`; StoreError for a
    folder that cannot be read, is in use, or cannot be written; DigestError where the runs are not comparable.
    """
    from gtvbench.reports.page.build import write_report

    candidates = read_candidates(folders, names)
    merged = merge(candidates)
    target = out if out is not None else Path("comparisons") / _safe(merged.name)
    _require_suitable(target, [c.folder for c in candidates])
    try:
        write_atomically(target / RECORD, json.dumps(redact_all(record(merged)), indent=1) + "\n")
        return write_report(merged, target / "report")
    except StoreError as error:
        reason = f" ({why(error.__cause__)})" if isinstance(error.__cause__, OSError) else ""
        raise StoreError(
            f"the comparison cannot be written{reason}",
            file=error.file,
            remedy="make room, or make the folder writable, or choose another with --out; then compare again",
        ) from error


def read_candidates(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[Candidate]:
    """Read the runs and label them; errors as in `build_comparison`."""
    if len(folders) < 2:
        raise StudyError("a comparison needs two runs or more", remedy="one run is rendered by `bench report RUN`")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise StudyError("the same run is named twice", file=folder, remedy="name each run once")
        seen[folder.resolve()] = folder
    labels = _labels(folders, names)
    for folder in folders:
        refuse_in_use(folder)
    return [Candidate(label, folder, read_run(folder)) for label, folder in zip(labels, folders, strict=True)]


def _labels(folders: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """A label a run: as given, or the folder's name, with a number where several folders have that name."""
    if names is not None:
        if len(names) != len(folders):
            raise StudyError(
                f"{counted(len(names), 'name')} for {counted(len(folders), 'run')}", remedy="give one name a run"
            )
        for name in names:
            if not NAME.fullmatch(name):
                raise StudyError(
                    f"{name!r} cannot name a run", remedy="use letters, digits, '.', '_' and '-' only, at most 100"
                )
            if names.count(name) > 1:
                raise StudyError(f"two runs are named {name!r}", remedy="give each run a name of its own")
        return list(names)
    bases = [_safe(folder.resolve().name) for folder in folders]
    found: list[str] = []
    for index, base in enumerate(bases):
        label = base if bases.count(base) == 1 else f"{base}-{bases[: index + 1].count(base)}"
        while label in found:
            label += "-"
        found.append(label)
    return found


def _safe(name: str) -> str:
    """A name as part of a path and of an arm's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80] or "run"


def _require_suitable(target: Path, runs: Sequence[Path]) -> None:
    """Raise StudyError where writing to `target` would touch a run or something that no comparison wrote."""
    resolved = target.resolve()
    for run in runs:
        if run.resolve() in (resolved, *resolved.parents):
            raise StudyError(
                "the comparison would be written into a run folder", file=target, remedy="choose another --out"
            )
    if not target.exists():
        return
    if not target.is_dir():
        raise StudyError("this is a file", file=target, remedy="choose a new or empty folder with --out")
    if any(target.iterdir()) and not (target / RECORD).is_file():
        raise StudyError(
            "the folder is not empty and holds no earlier comparison",
            file=target,
            remedy="choose a new or empty folder with --out",
        )


def merge(candidates: Sequence[Candidate]) -> FinishedRun:
    """The arms of several runs as one run; study, split and prompts are those of the first.

    Raises DigestError where the runs were made from other data, split or prompts, or score in another way.
    """
    require_agreement(candidates)
    by_name = _variants(candidates)
    kept = [variant for variants in by_name.values() for variant in variants]
    renamed = {c.label: {v.arm.name: v.name for v in kept if v.origin is c} for c in candidates}
    arms = tuple(v.arm.model_copy(update={"name": v.name}) for v in kept)
    sources = tuple(_source(c, renamed[c.label]) for c in candidates)
    notices = [_merged_notice(sources), *_arm_notices(by_name, candidates), *_machine_notice(sources)]
    notices += _statistics_notice(candidates)
    run = FinishedRun(
        study=_study(candidates, by_name, arms),
        provenance=_provenance(sources),
        arms=arms,
        failures=tuple(f for c in candidates for f in _failures(c.run, renamed[c.label])),
        scores=pd.concat([_of_arms(c.run.scores, renamed[c.label]) for c in candidates], ignore_index=True),
        timing={v.name: v.origin.run.timing[v.arm.name] for v in kept if v.arm.name in v.origin.run.timing},
        epochs={v.name: v.origin.run.epochs[v.arm.name] for v in kept if v.arm.name in v.origin.run.epochs},
        prompts=next((c.run.prompts for c in candidates if c.run.prompts is not None), None),
        origins={v.name: (v.origin.folder, v.arm.name) for v in kept},
        sources=sources,
    )
    notices += [_labelled(n, c.label) for c in candidates for n in c.run.notices if n.kind != "plan"]
    return replace(run, notices=(*notices, *plan_notices(run)))


def _variants(candidates: Sequence[Candidate]) -> dict[str, list[_Variant]]:
    """The variants that are kept of each arm, in the order in which the runs name them."""
    names = dict.fromkeys(arm.name for c in candidates for arm in c.run.arms)
    found: dict[str, list[_Variant]] = {}
    for name in names:
        groups: dict[str, _Variant] = {}
        for candidate in candidates:
            arm = next((arm for arm in candidate.run.arms if arm.name == name), None)
            if arm is None:
                continue
            key = _identity(candidate.run, arm)
            known = groups.get(key, _Variant(arm, name, candidate))
            groups[key] = replace(known, same=(*known.same, candidate.label))
        variants = list(groups.values())
        scored = [v for v in variants if name in set(v.origin.run.scores["arm"])]
        variants = scored or variants[:1]
        if len(variants) > 1:
            variants = [replace(v, name=f"{name}{MARK}{v.origin.label}") for v in variants]
        found[name] = variants
    return found


def _identity(run: FinishedRun, arm: ArmRecord) -> str:
    """Digest of what an arm is and of its scores: equal only where the results are the same to the last bit."""
    columns = ["case", "structure", "scope", "metric", "status"]
    rows = run.scores[run.scores["arm"] == arm.name].sort_values(columns[:4])
    values = [[repr(float(v)) for v in rows[column]] for column in ("value", "raw")]
    what = [arm.kind, arm.fusion, arm.seed, dict(arm.options), arm.weights.get("sha256"), arm.cut_schedule]
    return digest_json([json.dumps(what, sort_keys=True, default=str), rows[columns].to_numpy().tolist(), values])


def _of_arms(table: pd.DataFrame, renamed: Mapping[str, str]) -> pd.DataFrame:
    part = table[table["arm"].isin(list(renamed))].copy()
    part["arm"] = part["arm"].map(dict(renamed)).astype(str)
    return part


def _failures(run: FinishedRun, renamed: Mapping[str, str]) -> list[dict[str, Any]]:
    """Failed steps of the arms that were kept, and of no arm at all."""
    own = {arm.name for arm in run.arms}
    dropped = own - set(renamed)
    kept = [f for f in run.failures if f.get("arm") not in dropped]
    return [{**f, "arm": renamed.get(str(f.get("arm")), f.get("arm"))} for f in kept]


def _source(candidate: Candidate, renamed: Mapping[str, str]) -> SourceRun:
    own = [arm for arm in candidate.run.arms if arm.name in renamed]
    devices = dict.fromkeys(str(arm.device) for arm in own if arm.device)
    weights = dict.fromkeys(_weights(arm) for arm in own if arm.weights)
    return SourceRun(candidate.label, candidate.run.provenance, tuple(renamed.values()), tuple(devices), tuple(weights))


def _weights(arm: ArmRecord) -> str:
    digest = str(arm.weights.get("sha256") or "not recorded")[:12]
    return f"{arm.weights_words}, sha256 {digest}"


def _study(
    candidates: Sequence[Candidate], by_name: Mapping[str, list[_Variant]], arms: Sequence[ArmRecord]
) -> dict[str, Any]:
    """Study file of the first run, its planned contrasts between the arms as they are named now.

    Where both arms of a pair are there from several runs, the pairs within a run are planned.
    """
    study = dict(candidates[0].run.study)
    declared = statistics_of(candidates[0].run).contrasts
    if all(len(variants) == 1 for variants in by_name.values()):
        return study
    wanted = set(planned(arms))
    pairs: dict[tuple[str, str], None] = {}
    named = itertools.permutations(by_name, 2) if declared is None else _named_pairs(candidates, declared)
    for one, other in named:
        mine, theirs = by_name[one], by_name[other]
        every = [(a, b) for a in mine for b in theirs if declared is not None or (a.name, b.name) in wanted]
        within = [(a, b) for a, b in every if a.origin is b.origin]
        chosen = within if len(mine) > 1 and len(theirs) > 1 and within else every
        pairs |= dict.fromkeys((a.name, b.name) for a, b in chosen)
    study["statistics"] = {**(study.get("statistics") or {}), "contrasts": [list(pair) for pair in pairs]}
    return study


def _named_pairs(candidates: Sequence[Candidate], declared: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The declared pairs of arms by their names in the runs, repetitions pair by pair."""

    def named(name: str) -> dict[str, ArmRecord]:
        return {arm.name: arm for c in candidates for arm in c.run.named(name)}

    return [
        (a.name, b.name)
        for one, other in declared
        for a in named(one).values()
        for b in named(other).values()
        if comparable(a, b)
    ]


def _provenance(sources: Sequence[SourceRun]) -> dict[str, Any]:
    """Provenance of the first run; where the environments differ, every value with the label of its run."""
    merged = dict(sources[0].provenance)
    for key in ("gtvbench", "git", "python", "platform", "hardware", "packages", "seed"):
        merged[key] = _joined([(s.label, s.provenance.get(key)) for s in sources])
    for key in ("synthetic", "side_by_side"):
        merged[key] = any(s.provenance.get(key) for s in sources)
    merged["notes"] = list(dict.fromkeys(str(n) for s in sources for n in s.provenance.get("notes") or ()))
    return merged


def _joined(values: Sequence[tuple[str, Any]]) -> Any:
    """The value that all share, or text with each run's; mappings key by key."""
    distinct = [value for _, value in values]
    if all(value == distinct[0] for value in distinct):
        return distinct[0]
    if all(isinstance(value, Mapping) for value in distinct):
        keys = dict.fromkeys(key for value in distinct for key in value)
        return {key: _joined([(label, value.get(key)) for label, value in values]) for key in keys}
    return ", ".join(f"{'none' if value is None else value} ({label})" for label, value in values)


def machine(source: SourceRun) -> str:
    """Versions, hardware, devices and weights of a run in a line."""
    provenance = source.provenance
    hardware = provenance.get("hardware") or {}
    commit = f", commit {str(provenance['git'])[:12]}" if provenance.get("git") else ""
    devices = f"; ran on {listed(list(source.devices))}" if source.devices else ""
    weights = f"; weights {'; '.join(source.weights)}" if source.weights else ""
    version, processor = provenance.get("gtvbench") or "unknown", hardware.get("cpu") or "processor not recorded"
    memory, cores = hardware.get("memory_gb") or "?", hardware.get("cores") or "?"
    accelerator = hardware.get("gpu") or "no GPU"
    return f"gtvbench {version}{commit}; {processor}, {cores} cores, {memory} GB, {accelerator}{devices}{weights}"


def _merged_notice(sources: Sequence[SourceRun]) -> Notice:
    text = (
        "The runs agree in data, split, prompts, structures and scoring, by their digests. Study file and planned "
        "differences are those of the first."
    )
    lines = tuple(f"{s.label}: {listed(list(s.arms)) or 'no arm of its own'}. {machine(s)}" for s in sources)
    return Notice("merged", f"Merged from {len(sources)} runs", text, lines)


def _arm_notices(by_name: Mapping[str, list[_Variant]], candidates: Sequence[Candidate]) -> list[Notice]:
    lines = []
    for name, variants in by_name.items():
        holders = [c.label for c in candidates if name in c.run.arm_names]
        if len(holders) < 2:
            continue
        if len(variants) > 1:
            lines.append(f"{name}: the results differ; {listed([v.name for v in variants])} are apart")
        elif len(variants[0].same) == len(holders):
            lines.append(f"{name}: the same in {listed(holders)}, shown once; times are those of {holders[0]}")
        else:
            lines.append(f"{name}: scored in {listed(list(variants[0].same))} only")
    if not lines:
        return []
    return [Notice("shared", "Arms of several runs", "These arms are in more than one run.", tuple(lines))]


def _machine_notice(sources: Sequence[SourceRun]) -> list[Notice]:
    def told(key: str) -> list[tuple[str, Any]]:
        return [(s.label, s.provenance.get(key)) for s in sources]

    def differing(key: str) -> list[str]:
        tables = [(label, value or {}) for label, value in told(key)]
        names = dict.fromkeys(name for _, table in tables for name in table)
        return [line for n in names for line in _different(n, [(label, table.get(n)) for label, table in tables])]

    machines = _different("platform", told("platform")) + differing("hardware")
    machines += _different("device", [(s.label, listed(list(s.devices)) or None) for s in sources if s.arms])
    commits = [(label, value and str(value)[:12]) for label, value in told("git")]
    versions = _different("gtvbench", told("gtvbench")) + _different("commit", commits)
    versions += _different("python", told("python")) + differing("packages")
    notices = []
    if machines:
        text = (
            "The runs were made on different machines: compare times and memory only between arms of one run. Results "
            "of arms that train can depend on the device as well."
        )
        notices.append(Notice("machines", "Times are not comparable across runs", text, tuple(machines)))
    if versions:
        text = "The runs were made with different versions: times, and results of arms that train, can depend on them."
        notices.append(Notice("versions", "Different versions", text, tuple(versions)))
    return notices


def _different(name: str, values: Sequence[tuple[str, Any]]) -> list[str]:
    if len({json.dumps(value, sort_keys=True, default=str) for _, value in values}) < 2:
        return []
    return [f"{name}: {_joined(values)}"]


def _statistics_notice(candidates: Sequence[Candidate]) -> list[Notice]:
    options = [(c.label, statistics_of(c.run).model_dump(mode="json")) for c in candidates]
    lines = [
        line for name in options[0][1] for line in _different(name, [(label, block[name]) for label, block in options])
    ]
    if not lines:
        return []
    text = (
        f"The study files do not declare the same statistics. Margins and planned differences here are those of "
        f"{options[0][0]}; with those of another run the verdict may be another."
    )
    return [Notice("statistics", "Different plans", text, tuple(lines))]


def _labelled(notice: Notice, label: str) -> Notice:
    return replace(notice, names=tuple(f"{label}: {name}" for name in notice.names))


def record(run: FinishedRun) -> dict[str, Any]:
    """Content of comparison.json: the runs, what they were made with, and where each arm comes from; no paths."""
    labels = {arm: source.label for source in run.sources for arm in source.arms}
    kept = ("gtvbench", "git", "python", "platform", "hardware", "packages")
    return {
        "schema": SCHEMA,
        "digests": dict(run.provenance.get("digests") or {}),
        "runs": [
            {"name": s.label, "arms": list(s.arms), **{key: s.provenance.get(key) for key in kept}} for s in run.sources
        ],
        "arms": [
            {
                "arm": arm.name,
                "run": labels[arm.name],
                "arm_there": run.origins[arm.name][1],
                "device": arm.device,
                "weights": dict(arm.weights) or None,
            }
            for arm in run.arms
        ],
        "notices": [{"label": n.label, "text": n.text, "lines": list(n.names)} for n in run.notices],
    }
