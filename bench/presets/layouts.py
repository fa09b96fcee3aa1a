"""Look whether a public data set lies on disk as a preset describes it, count what is there, say what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.presets.description import Found, Layout, Preset, exclude_text
from gtvbench.bench.study.cohort import open_source
from gtvbench.datasets.assembly.patterns import listed
from gtvbench.datasets.base import Inventory


def look_for_layouts(known: Preset, path: Path, variant: str | None) -> Found:
    """The layout, of those described, that most cases have whole."""
    best: _Seen | None = None
    for layout in known.layouts:
        if layout.variant not in (None, variant):
            continue
        study = _study(known, layout)
        for root in _roots(path, layout.roots):
            seen = _Seen(layout, root, _inventory(study, root))
            if best is None or (len(seen.whole), len(seen.cases)) > (len(best.whole), len(best.cases)):
                best = seen
    if best is None or not best.cases:
        what = f" ({known.variants[variant]})" if variant else ""
        raise DataError(f"this is not the layout of {known.title}{what}", file=path, remedy=known.expected())
    if not best.whole:
        raise DataError(
            f"none of {len(best.cases)} cases has all it needs: {best.counts()}",
            file=best.root,
            remedy=known.expected(),
        )
    return _found(known, best)


@dataclass(frozen=True)
class _Seen:
    """What the source of a layout finds below a folder; cases that lack everything are no cases."""

    layout: Layout
    root: Path
    every: Sequence[Inventory]

    @property
    def cases(self) -> list[Inventory]:
        return [case for case in self.every if any(case.present.values())]

    @property
    def whole(self) -> list[Inventory]:
        return [case for case in self.cases if not case.lacking and case.case not in self.layout.without]

    def counts(self) -> str:
        """How many cases have each of the files needed."""
        wanted = self.cases[0].present
        return ", ".join(f"{sum(case.present[what] for case in self.cases)} with {what}" for what in wanted)


def _study(known: Preset, layout: Layout) -> dict[str, Any]:
    """Data set and structures of the study file of a layout, with the folder of the data as its base."""
    dataset = Template(layout.dataset).safe_substitute(path=".", exclude="", images=layout.images.replace("\n", "\n  "))
    filled = Template(known.text).safe_substitute(
        dataset="  {}", structures=layout.structures, source="", split="", common=""
    )
    return {"dataset": yaml.safe_load(dataset), "structures": yaml.safe_load(filled)["structures"]}


def _inventory(study: dict[str, Any], root: Path) -> list[Inventory]:
    try:
        source = open_source(study["dataset"], root, structures_from(study["structures"]), seed=0)
        found: list[Inventory] = source.inventory()
    except DataError as error:
        if error.case is not None:  # it is there, with a case in two places
            raise
        return []
    return found


def _found(known: Preset, seen: _Seen) -> Found:
    layout, whole = seen.layout, seen.whole
    lines = [f"{layout.name}: {len(seen.cases)} cases, {seen.counts()}"]
    reasons: dict[str, list[str]] = {}
    for case in seen.every:
        if case.lacking:
            what = f"{', '.join(case.lacking)} {'is' if len(case.lacking) == 1 else 'are'} missing"
            reasons.setdefault(what, []).append(case.case)
        elif case.case in layout.without:
            reasons.setdefault(layout.why, []).append(case.case)
    lines += [f"left out, {why}: {listed(cases)}" for why, cases in reasons.items()]
    return Found(
        seen.root,
        layout.dataset,
        layout.structures,
        _by_part(known, seen),
        tuple(lines),
        exclude_text(sorted({case.case for case in seen.every} - {case.case for case in whole})),
        layout.images.strip().replace("\n", "\n  "),
    )


def _by_part(known: Preset, seen: _Seen) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in seen.whole:
        part = ""
        if seen.layout.part_folders:
            first = case.folder.relative_to(seen.root).parts[0]
            part = next((subset for subset, called in known.parts.items() if first in called), "")
        members = found.setdefault(part, [])
        if case.patient not in members:
            members.append(case.patient)
    return {"": [p for members in found.values() for p in members]} if "" in found else found


def _roots(path: Path, wanted: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for pattern in wanted:
        roots = [path] if pattern == "." else sorted(p for p in path.glob(pattern) if p.is_dir())
        found += [root for root in roots if root not in found]
    return found
