"""Rules of the study file that choose a patient's series and structure set; what stays ambiguous is an error that
lists the candidates."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import Field

from gtvbench.bench.core.errors import DataError
from gtvbench.datasets.base import SourceOptions
from gtvbench.datasets.dicom.choice.names import NamePatterns
from gtvbench.datasets.dicom.headers.facts import Facts
from gtvbench.datasets.dicom.headers.index import Patient, Stack, StructureFile
from gtvbench.datasets.dicom.headers.kinds import kind_of

#: Marks what this program wrote itself: its exports are never taken for a reference.
OURS = "gtvbench"

Preference = Literal["latest", "earliest", "most-slices", "thinnest"]
T = TypeVar("T", Stack, StructureFile)


class SeriesRule(SourceOptions):
    """Which series is used for a modality. All keys that are given must hold."""

    description: str | tuple[str, ...] = ()
    """Patterns (`*`, `?`) of SeriesDescription or ProtocolName; one of them must match."""
    exclude: str | tuple[str, ...] = ()
    """Patterns of which none may match."""
    id: str | tuple[str, ...] = ()
    """Short name that `bench scan --patients` prints."""
    number: int | None = None
    """SeriesNumber."""
    any: bool = False
    """Take what matches although its header does not tell this modality (an MR without a clear description)."""
    prefer: Preference | tuple[Preference, ...] = ()
    """Which one to take where several are left. With a list, later entries decide between equals."""


class StructureRule(SourceOptions):
    """Which structure set of a patient is used."""

    kind: Literal["RTSTRUCT", "SEG"] | None = None
    """Kind of DICOM object."""
    description: str | tuple[str, ...] = ()
    """Patterns (`*`, `?`) of SeriesDescription; one of them must match."""
    id: str | tuple[str, ...] = ()
    """Short name that `bench scan --patients` prints."""
    prefer: Literal["latest", "earliest"] | None = None
    """Which one to take where several are left."""


class PatientRule(SourceOptions):
    """Rules of one patient, in place of the study's."""

    series: dict[str, SeriesRule] = Field(default_factory=dict)
    """A rule for each modality, in place of that of all patients."""
    structure_set: StructureRule | None = None
    """Which structure set is used, in place of the rule for all patients."""


@dataclass(frozen=True)
class Choice:
    """The stack of each modality, the structure set, and the regions of it by structure of the study."""

    stacks: Mapping[str, Stack]
    structures: StructureFile
    regions: Mapping[str, tuple[str, ...]]


#: A study's modality -> DICOM's Modality (0008,0060).
_OF_MODALITY = {"CT": "CT", "PET": "PT", "T1w": "MR", "T2w": "MR"}


def candidates(patient: Patient, modality: str, rule: SeriesRule) -> list[Stack]:
    """Stacks of a patient that can be a modality, before any preference."""
    found = []
    for stack in patient.stacks:
        taken = stack.facts.modality == _OF_MODALITY[modality] and stack.no_volume is None
        if taken and (rule.any or kind_of(stack).modality == modality) and _matches(stack.facts, stack.id, rule):
            found.append(stack)
    return found


def choose(
    patient: Patient,
    case: str,
    rules: Mapping[str, SeriesRule],
    structure_rule: StructureRule,
    names: NamePatterns,
    reference: str,
) -> Choice:
    """A patient's series and structure set by the rules, in this order.

    Reference modality: of its candidates those that a structure set with the study's structures was drawn on, then the
    rule's preferences. Structure set: of those drawn on that series (by the series' UID; where none names it, by frame
    of reference). Other modalities: candidates in the frame of reference of the reference series, where there are any,
    else in its study, else any. Raises DataError, listing the candidates and the rule that would decide, where
    nothing or more than one is left.
    """
    named = _with_structures(patient, case, structure_rule, names)
    pool = candidates(patient, reference, rules[reference])
    if not pool:
        raise _nothing(patient, case, reference, rules[reference])
    stack = _one(_drawn_on(pool, named) or pool, rules[reference].prefer, case, reference)
    chosen = {reference: stack}
    for modality, rule in rules.items():
        if modality == reference:
            continue
        near = _nearest(candidates(patient, modality, rule), stack.facts)
        if near:
            chosen[modality] = _one(near, rule.prefer, case, modality)
    sets = [item for item in named if stack.facts.series in item.facts.references]
    sets = sets or [
        item
        for item in named
        if stack.facts.frame_of_reference and stack.facts.frame_of_reference in item.facts.frames_of_reference
    ]
    if not sets:
        raise DataError(
            f"no structure set was drawn on the {reference} series that is chosen ({_told(stack)})",
            case=case,
            remedy=f"choose the {reference} series that was drawn on, with 'series: {{{reference}: {{id: ...}}}}'; "
            f"structure sets: {_listed(named)}",
        )
    structures = _one(sets, structure_rule.prefer or (), case, None)
    return Choice(chosen, structures, regions_of(structures, names))


def regions_of(structures: StructureFile, names: NamePatterns) -> dict[str, tuple[str, ...]]:
    """Names of a structure set's regions by structure of the study, in the order of `names`."""
    found: dict[str, list[str]] = {structure: [] for structure in names.patterns}
    for name in dict.fromkeys(structures.facts.rois):
        structure = names.structure_of(name)
        if structure is not None:
            found[structure].append(name)
    return {structure: tuple(regions) for structure, regions in found.items() if regions}


def _with_structures(patient: Patient, case: str, rule: StructureRule, names: NamePatterns) -> list[StructureFile]:
    sets = [item for item in patient.structures if OURS not in item.facts.manufacturer.lower()]
    if not sets:
        raise DataError(
            "the patient has no RTSTRUCT and no SEG",
            case=case,
            remedy="export the structure set too, or leave the patient out ('exclude')",
        )
    fitting = [item for item in sets if _fits(item, rule)]
    if not fitting:
        raise DataError(
            "no structure set of the patient fits the rule under 'structure-set'",
            case=case,
            remedy=f"the patient has: {_listed(sets)}",
        )
    named = [item for item in fitting if regions_of(item, names)]
    if not named:
        there = list(dict.fromkeys(name for item in fitting for name in item.facts.rois))
        shown = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        raise DataError(
            f"no structure of the patient has a name of {' or '.join(names.patterns)}",
            case=case,
            remedy=f"give patterns under 'names', for example 'names: {{{next(iter(names.patterns))}: [\"...\"]}}'; "
            f"the patient has: {shown or 'none'}",
        )
    return named


def _fits(item: StructureFile, rule: StructureRule) -> bool:
    if rule.kind is not None and item.facts.modality != rule.kind:
        return False
    if rule.id and item.id not in _several(rule.id):
        return False
    return not rule.description or _like(item.facts.description, _several(rule.description))


def _drawn_on(pool: Sequence[Stack], sets: Sequence[StructureFile]) -> list[Stack]:
    """Stacks that a structure set names by UID; where none is named, those of a frame of reference that is."""
    series = {uid for item in sets for uid in item.facts.references}
    drawn = [stack for stack in pool if stack.facts.series in series]
    if drawn:
        return drawn
    frames = {uid for item in sets for uid in item.facts.frames_of_reference}
    return [stack for stack in pool if stack.facts.frame_of_reference in frames]


def _nearest(pool: Sequence[Stack], reference: Facts) -> list[Stack]:
    """Stacks in the reference's frame of reference, else in its study, else all."""
    frame = [
        s for s in pool if s.facts.frame_of_reference and s.facts.frame_of_reference == reference.frame_of_reference
    ]
    study = [s for s in pool if s.facts.study == reference.study]
    return frame or study or list(pool)


_ORDER: Mapping[str, Callable[[Stack | StructureFile], float | str]] = {
    "latest": lambda item: item.facts.made,
    "earliest": lambda item: item.facts.made,
    "most-slices": lambda item: len(item.files) if isinstance(item, Stack) else 0,
    "thinnest": lambda item: -round(item.gap or 1e9, 3) if isinstance(item, Stack) else 0,
}


def _one(found: Sequence[T], prefer: str | Sequence[str], case: str, modality: str | None) -> T:
    left = list(found)
    for preference in _several(prefer):
        keys = [_ORDER[preference](item) for item in left]
        best = min(keys) if preference == "earliest" else max(keys)
        left = [item for item, key in zip(left, keys, strict=True) if key == best]
    if len(left) == 1:
        return left[0]
    first = left[0].id
    if modality is None:
        what, rule = "structure sets fit", f"'structure-set: {{id: {first}}}' or 'structure-set: {{prefer: latest}}'"
        if len({item.facts.modality for item in left}) > 1:
            rule = f"'structure-set: {{kind: {left[0].facts.modality}}}', {rule}"
    else:
        what = f"{modality} series fit"
        rule = f"'series: {{{modality}: {{description: \"...\"}}}}', '{{id: {first}}}' or '{{prefer: latest}}'"
    raise DataError(
        f"{len(left)} {what}: {_listed(left)}",
        case=case,
        remedy=f"decide by a rule under 'dataset', {rule}; for one patient under 'patients: {{{case}: ...}}'",
    )


def _nothing(patient: Patient, case: str, modality: str, rule: SeriesRule) -> DataError:
    role = _OF_MODALITY[modality]
    there = [stack for stack in patient.stacks if stack.facts.modality == role]
    told = "; ".join(f"{_told(stack)}: {kind_of(stack).remark or 'the rule does not fit'}" for stack in there[:8])
    return DataError(
        f"no series of the patient can be the {modality}",
        case=case,
        remedy=f"export it, correct the rule under 'series: {{{modality}: ...}}' or leave the patient out ('exclude')"
        + (f"; {role} series: {told}" if told else f"; the patient has no {role} series"),
    )


def _listed(items: Sequence[Stack] | Sequence[StructureFile]) -> str:
    return "; ".join(_told(item) for item in items[:8]) + (f"; and {len(items) - 8} more" if len(items) > 8 else "")


def _told(item: Stack | StructureFile) -> str:
    """A series or structure set in words: short name, description, what tells it from others; no dates, no UIDs."""
    facts = item.facts
    if isinstance(item, StructureFile):
        return f"{item.id} {facts.modality} {facts.description!r} with {', '.join(facts.rois[:6])}"
    gap = "" if item.gap is None else f" of {item.gap:.3g} mm"
    return f"{item.id} {facts.description!r}, {len(item.files)} slices{gap}"


def _matches(facts: Facts, name: str, rule: SeriesRule) -> bool:
    texts = [text for text in (facts.description, facts.protocol) if text]
    wanted, unwanted = _several(rule.description), _several(rule.exclude)
    if wanted and not any(_like(text, wanted) for text in texts):
        return False
    if any(_like(text, unwanted) for text in texts):
        return False
    if rule.id and name not in _several(rule.id):
        return False
    return rule.number is None or facts.series_number == str(rule.number)


def _like(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(text.lower(), pattern.lower()) for pattern in patterns)


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
