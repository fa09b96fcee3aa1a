"""Look at a BIDS-like tree: which images and masks its subjects have, as patterns of the source `files`.

Names: BIDS specification 1.9, common principles (entities, suffixes) and derivatives (`_mask`, `_dseg`, `label-`).
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.presets.description import Found, Preset, exclude_text, safe_name
from gtvbench.datasets.assembly.patterns import listed

_SUFFIXES = {"T1w": "T1w", "T2w": "T2w", "pet": "PET", "ct": "CT"}
_MASKS = ("mask", "dseg")
_REFERENCE = ("CT", "T1w", "T2w", "PET")
_NAME = re.compile(
    r"(?P<case>sub-[A-Za-z0-9]+(?P<ses>_ses-[A-Za-z0-9]+)?)(?P<rest>(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)"
    r"(?P<ending>\.nii(?:\.gz)?)"
)
_SUBJECT = "sub-[A-Za-z0-9]+"
_SESSION = "_ses-[A-Za-z0-9]+"
_LABEL = re.compile(r"_label-([A-Za-z0-9]+)")
#: Masks whose values are read where no table names them.
MASKS_LOOKED_AT = 20


@dataclass(frozen=True)
class _File:
    """A file of a case: its path, its pattern with {case}, the modality or kind of mask, and its label."""

    path: Path
    case: str
    pattern: str
    suffix: str
    label: str | None


def look_for_bids(known: Preset, path: Path, variant: str | None) -> Found:
    """Patterns of images and masks that most cases have; raises DataError."""
    images = _files(path, "sub-*/**/*.nii*")
    derived = _files(path, "derivatives/**/sub-*/**/*.nii*")
    masks = [f for f in derived if f.suffix in _MASKS] or [f for f in images if f.suffix in _MASKS]
    if not images or not masks:
        raise DataError(
            f"{len(images)} files are named as in BIDS, {len(masks)} of them masks under derivatives",
            file=path,
            remedy=known.expected(),
        )
    with_sessions = Counter("_ses-" in f.case for f in images).most_common(1)[0][0]
    images = [f for f in images if ("_ses-" in f.case) == with_sessions]
    masks = [f for f in masks if ("_ses-" in f.case) == with_sessions]
    chosen = {_SUFFIXES[s]: _commonest([f for f in images if f.suffix == s]) for s in _SUFFIXES}
    present = {m: chosen[m] for m in MODALITIES if chosen.get(m)}
    reference = _reference(present, variant, path, known)
    cases = {f.case for f in present[reference]}
    entries, structures, needed = _meanings(masks, path, known)
    holders = [{f.case for f in files} for files in present.values()] + [{f.case for f in fs} for fs in needed]
    whole = sorted(set.intersection(cases, *holders))
    if not whole:
        counts = ", ".join(f"{len(files)} with {m}" for m, files in present.items())
        raise DataError(
            f"of {len(cases)} cases none has all it needs: {counts}, {len({f.case for f in masks})} with masks",
            file=path,
            remedy=known.expected(),
        )
    kind = "sessions" if with_sessions else "subjects"
    lines = [f"{len(cases)} {kind}: " + ", ".join(f"{len(files)} with {m}" for m, files in present.items())]
    lines.append(f"masks: {', '.join(structures)}; the grid is that of {reference}")
    gone = sorted(cases - set(whole))
    if gone:
        lines.append(f"left out, an image or a mask is missing: {listed(gone)}")
    dataset = [
        "source: files          # {case} is a "
        + ("session of a subject; the split is by subject" if with_sessions else "subject"),
        "path: ${path}${exclude}",
        f"case-regex: {json.dumps(_SUBJECT + _SESSION if with_sessions else _SUBJECT)}",
        f"patient-regex: {json.dumps(f'^({_SUBJECT})')}",
        f"reference-modality: {reference}",
        "images:",
        *(f"  {m}: {json.dumps(files[0].pattern)}" for m, files in present.items()),
        "masks:                 # the first wins where they overlap",
        *entries,
    ]
    listed_structures = "{" + ", ".join(f"{name}: {value}" for name, value in structures.items()) + "}"
    patients = sorted({case.partition("_")[0] for case in whole})
    return Found(path, "\n".join(dataset), listed_structures, {"": patients}, tuple(lines), exclude_text(gone))


def _files(root: Path, pattern: str) -> list[_File]:
    found = []
    for path in sorted(set(root.glob(pattern))):
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        case, rest, suffix = match["case"], match["rest"], match["suffix"]
        folders = path.relative_to(root).parts[:-1]
        parts = [_folder(part, case) for part in folders]
        called = "/".join([*parts, f"{{case}}{rest}_{suffix}{match['ending']}"])
        label = _LABEL.search(rest)
        found.append(_File(path, case, called, suffix, label[1] if label else None))
    return found


def _folder(part: str, case: str) -> str:
    """A folder of one case as part of the pattern for all."""
    if part == case:
        return "{case}"
    return next((f"{kind}*" for kind in ("sub-", "ses-") if part.startswith(kind)), part)


def _commonest(files: Sequence[_File]) -> list[_File]:
    """Files of the pattern that most cases have; of patterns alike, the shortest."""
    groups: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        groups[file.pattern].append(file)
    return max(groups.values(), key=lambda g: (len(g), -len(g[0].pattern)), default=[])


def _reference(present: Mapping[str, Sequence[_File]], variant: str | None, path: Path, known: Preset) -> str:
    if not present:
        raise DataError("no image is named _T1w, _T2w, _pet or _ct", file=path, remedy=known.expected())
    if variant in (None, "auto"):
        return next(m for m in _REFERENCE if m in present)
    wanted = next(m for m in MODALITIES if m.lower() == variant)
    if wanted not in present:
        raise DataError(
            f"no case has a {wanted} image; there are {', '.join(present)}", file=path, remedy=known.expected()
        )
    return wanted


def _meanings(masks: Sequence[_File], path: Path, known: Preset) -> tuple[list[str], dict[str, int], list[list[_File]]]:
    """Mask entries as text, the structures, and the mask files without which a case is left out."""
    named = sorted({f.label for f in masks if f.label and f.suffix == "mask"})
    cases = {f.case for f in masks}
    if named:
        entries, structures, needed = [], {}, []
        for value, label in enumerate(named, 1):
            files = _commonest([f for f in masks if f.label == label and f.suffix == "mask"])
            optional = {f.case for f in files} < cases
            structures[safe_name(label)] = value
            more = ", optional: true" if optional else ""
            entries.append(f"  - {{file: {json.dumps(files[0].pattern)}, structure: {safe_name(label)}{more}}}")
            needed.append(files)
        # A case that has one of the structures is whole; one that has none cannot be scored.
        return entries, structures, [[f for files in needed for f in files]]
    segmented = _commonest([f for f in masks if f.suffix == "dseg"])
    if segmented:
        labels = _table(segmented) or _values(segmented, path, known)
        text = ", ".join(f"{value}: {name}" for value, name in labels.items())
        entry = f"  - {{file: {json.dumps(segmented[0].pattern)}, labels: {{{text}}}}}"
        return [entry], {name: value for value, name in labels.items()}, [segmented]
    plain = _commonest([f for f in masks if f.suffix == "mask"])
    return [f"  - {{file: {json.dumps(plain[0].pattern)}, structure: GTV}}"], {"GTV": 1}, [plain]


def _table(masks: Sequence[_File]) -> dict[int, str]:
    """Names of label values from the table beside a dseg, or at the top of its derivative, or nothing."""
    first = masks[0].path
    stem = re.sub(r"\.nii(\.gz)?$", "", first.name)
    top = next((p for p in first.parents if p.parent.name == "derivatives"), first.parent)
    for table in (first.with_name(f"{stem}.tsv"), *sorted(top.glob("*dseg.tsv"))):
        if not table.is_file():
            continue
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        pairs = {
            int(r["index"]): safe_name(r["name"]) for r in rows if (r.get("index") or "").isdigit() and r.get("name")
        }
        pairs.pop(0, None)
        if pairs:
            return pairs
    return {}


def _values(masks: Sequence[_File], path: Path, known: Preset) -> dict[int, str]:
    values: set[int] = set()
    for mask in masks[:MASKS_LOOKED_AT]:
        values |= {int(value) for value in np.unique(read_volume(mask.path, mask.case).array)} - {0}
    if not values:
        raise DataError("the masks are empty", file=path, remedy=known.expected())
    return {value: f"label-{value}" for value in sorted(values)}
