"""`bench scan`: what a DICOM folder holds (patients, series, structures), and a study file that uses it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.bench.presets.description import path_text, yaml_flow, yaml_list, yaml_text
from gtvbench.datasets.dicom.choice.names import name_patterns
from gtvbench.datasets.dicom.headers.index import Index, Patient, Stack, build_index
from gtvbench.datasets.dicom.headers.kinds import kind_of
from gtvbench.datasets.dicom.pseudonyms import Pseudonyms
from gtvbench.datasets.dicom.source import INDEX_FILE, KEY_FILE, DicomOptions, DicomSource

PRIVATE = "gtvbench-private"
#: Fewer patients than this are not split: a study without training compares what needs none.
SMALLEST_SPLIT = 10


@dataclass(frozen=True)
class Scan:
    """An index, its patients by pseudonym, and what the draft study makes of it: `structures` with their patterns (None
    for the defaults), and the patients whose series or structure set the draft's rules do not decide, with the reason.
    """

    index: Index
    patients: Mapping[str, Patient]
    structures: Mapping[str, tuple[str, ...] | None]
    undecided: Mapping[str, str]
    modalities: tuple[str, ...]


def scan_folder(folder: Path, base: Path, advance: Callable[[int, int], None] | None = None) -> Scan:
    """Index a folder and try the default rules on it; raises DataError where there is no DICOM.

    `base` is the folder of the study file: the key of the pseudonyms and the index go below it.
    """
    private = base / PRIVATE
    index = build_index(folder, private / INDEX_FILE, advance)
    names = Pseudonyms.open(private / KEY_FILE).names(list(index.patients))
    patients = {names[key]: patient for key, patient in index.patients.items()}
    structures = structures_of(index)
    options = {"path": str(folder.resolve()), "private-folder": str(private.resolve())}
    own, values = _named(structures)
    source = DicomSource(DicomOptions.model_validate({**options, "names": own}), base, values, 0)
    undecided = {}
    for case in patients:
        try:
            source.choice(case)
        except BenchError as error:
            undecided[case] = error.message + (f" (remedy: {error.remedy})" if error.remedy else "")
    return Scan(index, dict(sorted(patients.items())), structures, undecided, source.modalities())


def structures_of(index: Index) -> dict[str, tuple[str, ...] | None]:
    """Structures of the draft study and their patterns (None: the defaults find them).

    GTV-T and GTV-N where any name is one of theirs; else GTV for all names that begin so; else every name that at
    least half of the patients have, as itself.
    """
    found = {name for _, rois in _regions(index) for name in rois}
    usual = name_patterns({}, structures_from({"GTV-T": 1, "GTV-N": 2}))
    hit = {usual.structure_of(name) for name in found} - {None}
    if hit:
        return {name: None for name in ("GTV-T", "GTV-N") if name in hit}
    like = sorted(name for name in found if name.upper().startswith("GTV"))
    if like:
        return {"GTV": tuple(_escaped(name) for name in like)}
    counts = Counter(name for _, rois in _regions(index) for name in rois)
    often = sorted(name for name, count in counts.items() if 2 * count >= len(index.patients))
    chosen = often[:8] or sorted(counts)[:8]
    return {name: (_escaped(name),) for name in chosen} or {"GTV-T": None, "GTV-N": None}


def series_rows(scan: Scan) -> list[tuple[str, ...]]:
    """Kinds of series: modality of the study, DICOM modality, description, patients, series, slices, mm, remark."""
    groups: dict[tuple[str, str, str, str], list[tuple[str, Stack]]] = defaultdict(list)
    for case, patient in scan.patients.items():
        for stack in patient.stacks:
            kind = kind_of(stack)
            text = stack.facts.description or stack.facts.protocol
            groups[kind.modality or "-", stack.facts.modality, text, kind.remark].append((case, stack))
    rows: list[tuple[str, ...]] = []
    for (modality, role, text, remark), found in sorted(groups.items(), key=_order):
        sizes = [len(stack.files) for _, stack in found]
        gaps = [stack.gap for _, stack in found if stack.gap is not None]
        rows.append(
            (
                modality, role, text or "(none)", str(len({case for case, _ in found})), str(len(found)),
                _span(sizes, "d"), _span(gaps, ".3g"), remark,
            )
        )  # fmt: skip
    return rows


def structure_rows(scan: Scan) -> list[tuple[str, ...]]:
    """Names of structures: kind of object, in how many patients, and the structure of the study that they become."""
    patterns = name_patterns(*_named(scan.structures))
    counts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for patient, item in ((p, item) for p in scan.index.patients.values() for item in p.structures):
        for name in item.facts.rois:
            counts[name, item.facts.modality].add(patient.id)
    rows = []
    for (name, kind), patients in sorted(counts.items(), key=lambda item: (-len(item[1]), item[0])):
        try:
            meaning = patterns.structure_of(name) or "-"
        except BenchError:
            meaning = "several"
        rows.append((name, kind, str(len(patients)), meaning))
    return sorted(rows, key=lambda row: row[3] == "-")


def patient_rows(scan: Scan) -> list[tuple[str, ...]]:
    """Every stack and structure set of every patient, with the short names that rules can use."""
    rows: list[tuple[str, ...]] = []
    for case, patient in scan.patients.items():
        studies = {uid: number for number, uid in enumerate(patient.studies, 1)}
        for stack in patient.stacks:
            kind = kind_of(stack)
            facts, use = stack.facts, kind.modality or f"- ({kind.remark})"
            number = str(studies[facts.study])
            rows.append((case, number, stack.id, facts.modality, facts.description, str(len(stack.files)), use))
        for item in patient.structures:
            rows.append((case, str(studies[item.facts.study]), item.id, item.facts.modality, item.facts.description,
                         "1", ", ".join(item.facts.rois[:6])))  # fmt: skip
    return rows


def summary_lines(scan: Scan) -> list[str]:
    """What was found, in sentences."""
    index = scan.index
    studies = [len(patient.studies) for patient in scan.patients.values()]
    lines = [f"{index.files} files, {len(scan.patients)} patients, {_span(studies, 'd')} studies a patient"]
    if index.not_dicom:
        lines.append(f"{len(index.not_dicom)} files are not DICOM and were left aside")
    if index.unreadable:
        lines.append(
            f"{len(index.unreadable)} DICOM files cannot be read (truncated or damaged), for example "
            f"{index.unreadable[0]}"
        )
    other = Counter(name for patient in scan.patients.values() for name in patient.other)
    if other:
        lines.append("also there, not used: " + ", ".join(f"{name} in {n} patients" for name, n in other.items()))
    copies = sum(patient.copies for patient in scan.patients.values())
    if copies:
        lines.append(f"{copies} files are there twice")
    return lines


def draft(scan: Scan, folder: Path, base: Path, name: str) -> str:
    """A study file for what was found, with comments; what is undecided is told where it is to be decided."""
    path = path_text(folder, base)
    lines = [
        "# A study of the DICOM files found by 'bench scan'. Every key: docs/study-reference.md and docs/dicom.md.",
        f"study: {name}",
        "seed: 1",
        "",
        "dataset:",
        "  source: dicom",
        f"  path: {yaml_text(path)}",
        f"  private-folder: {PRIVATE}   # key of the pseudonyms and index of headers: never share it",
    ]
    names, values = _named(scan.structures)
    if names:
        lines.append("  names:                   # patterns of structure names (see bench scan)")
        lines += [f"    {yaml_text(key)}: {yaml_list(patterns)}" for key, patterns in names.items()]
    else:
        lines.append("  # Names of structures follow TG-263 (GTVp, GTVn1 ...); others by patterns, for example:")
        lines.append("  # names: {" + next(iter(scan.structures)) + ': ["GTV prim*"]}')
    if scan.undecided:
        lines.append(f"  # Not decided yet in {len(scan.undecided)} patients; 'bench check' tells which rule decides:")
        lines += [f"  #   {case}: {text}" for case, text in list(scan.undecided.items())[:3]]
    if len(scan.patients) < SMALLEST_SPLIT:
        split = [f"  counts: {{test: {len(scan.patients)}}}   # too few to train: methods that train are skipped"]
    else:
        split = ["  fractions: {train: 0.7, validation: 0.15, test: 0.15}"]
    lines += [
        "",
        "structures: " + yaml_flow({s.name: s.value for s in values}),
        "",
        "split:                     # always by patient",
        *split,
    ]
    lines += [
        "",
        "prompts:",
        "  policy: random-margin(0, 20)   # mm",
        "",
        "methods:",
        "  litemedsam-zero-shot: {weights: lite_medsam.pth}   # a file, or a name of 'bench weights'",
        "  litemedsam-fine-tuned: {weights: lite_medsam.pth}",
        "",
        "device: auto",
    ]
    return "\n".join(lines) + "\n"


def _named(structures: Mapping[str, Sequence[str] | None]) -> tuple[dict[str, Sequence[str]], tuple[Structure, ...]]:
    """Patterns of those that need some, and the structures with their label values."""
    values = structures_from({name: value for value, name in enumerate(structures, 1)})
    return {name: patterns for name, patterns in structures.items() if patterns is not None}, values


def _regions(index: Index) -> list[tuple[str, tuple[str, ...]]]:
    return [(p.id, item.facts.rois) for p in index.patients.values() for item in p.structures]


def _order(item: tuple[tuple[str, str, str, str], list[tuple[str, Stack]]]) -> tuple[int, int, str]:
    modality = item[0][0]
    return (MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES), -len(item[1]), item[0][2])


def _span(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _escaped(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
