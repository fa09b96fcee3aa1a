"""Look whether a public data set lies on disk as a preset describes it, count what is there, say what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.presets.description import Found, Layout, Preset, exclude_text
from gtvbench.datasets.assembly.assemble import patient_of
from gtvbench.datasets.assembly.patterns import cases_of, files_of, listed


def look_for_layouts(known: Preset, path: Path, variant: str | None) -> Found:
    """The layout, of those described, that most cases have whole."""
    best: _Seen | None = None
    for layout in known.layouts:
        if layout.variant not in (None, variant):
            continue
        for root in _roots(path, layout.roots):
            seen = _seen(layout, root)
            if best is None or (len(seen.whole), len(seen.cases)) > (len(best.whole), len(best.cases)):
                best = seen
    if best is None or not best.cases:
        what = f" ({known.variants[variant]})" if variant else ""
        raise DataError(f"this is not the layout of {known.title}{what}", file=path, remedy=known.expected())
    if not best.whole:
        what, pattern = next(iter(best.layout.reference.items()))
        counts = "; ".join(f"{w}: {best.having(w)} ({p})" for w, p in best.layout.needed.items())
        raise DataError(
            f"{len(best.cases)} cases have {what} ({pattern}), but none has all it needs: {counts}",
            file=best.root,
            remedy=known.expected(),
        )
    return _found(known, best)


@dataclass(frozen=True)
class _Seen:
    """Cases of a layout: `cases` {case: its reference file}, and for each what it lacks."""

    layout: Layout
    root: Path
    cases: Mapping[str, Path]
    lacking: Mapping[str, tuple[str, ...]]

    @property
    def whole(self) -> list[str]:
        return [case for case in self.cases if not self.lacking[case] and case not in self.layout.without]

    def having(self, what: str) -> int:
        return sum(what not in lacking for lacking in self.lacking.values())


def _seen(layout: Layout, root: Path) -> _Seen:
    (pattern,) = layout.reference.values()
    cases = cases_of(root, pattern, layout.case_regex)
    lacking = {
        case: tuple(what for what, wanted in layout.needed.items() if not files_of(root, wanted, case))
        for case in cases
    }
    return _Seen(layout, root, cases, lacking)


def _found(known: Preset, seen: _Seen) -> Found:
    layout, whole = seen.layout, set(seen.whole)
    (reference,) = layout.reference
    lines = [f"{layout.name}: " + ", ".join(
        f"{seen.having(what)} with {what}" for what in layout.needed
    ) + f", of {len(seen.cases)} with {reference}"]  # fmt: skip
    for what in layout.needed:
        without = [case for case, lacking in seen.lacking.items() if what in lacking]
        if without:
            lines.append(f"left out, {what} is missing: {listed(without)}")
    gone = [case for case in layout.without if case in seen.cases]
    if gone:
        lines.append(f"left out, {layout.why}: {listed(gone)}")
    every = set(seen.cases)
    patterns = (layout.folders,) if isinstance(layout.folders, str) else layout.folders
    if patterns:  # the source takes every folder for a patient, also one without an image
        every = {p.name for wanted in patterns for p in seen.root.glob(wanted) if p.is_dir() and p.name[0] != "."}
        strange = sorted(every - set(seen.cases))
        if strange:
            lines.append(f"left out, {reference} is missing: {listed(strange)}")
    return Found(
        seen.root,
        layout.dataset,
        layout.structures,
        _by_part(known, seen, whole),
        tuple(lines),
        exclude_text(sorted(every - whole)),
        layout.images.strip().replace("\n", "\n  "),
    )


def _by_part(known: Preset, seen: _Seen, whole: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case, path in seen.cases.items():
        if case not in whole:
            continue
        part = ""
        if seen.layout.part_folders:
            first = path.relative_to(seen.root).parts[0]
            part = next((subset for subset, called in known.parts.items() if first in called), "")
        patient = patient_of(case, seen.layout.patient_regex)
        members = found.setdefault(part, [])
        if patient not in members:
            members.append(patient)
    return {"": [p for members in found.values() for p in members]} if "" in found else found


def _roots(path: Path, wanted: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for pattern in wanted:
        roots = [path] if pattern == "." else sorted(p for p in path.glob(pattern) if p.is_dir())
        found += [root for root in roots if root not in found]
    return found
