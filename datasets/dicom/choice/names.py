"""Names of structures: which regions of a structure set are which structure of the study.

Defaults follow TG-263 (Mayo et al., Int J Radiat Oncol Biol Phys 2018;100:1057, table 4): GTVp and GTVn, a counter,
what it was seen on after an underscore; and the spellings that clinics had before it (GTV-T, GTV_N, GTV nodes ...).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.structures import Structure

#: Begins a pattern that is a regular expression; others are shell patterns (*, ?, [...]).
REGEX = "re:"

#: After the classifier: a counter, a side, and what follows an underscore or caret (image set, custom part).
_END = r"[ _-]?(\d{1,2}|[LR])?([ _^].*)?"
_PRIMARY = r"re:GTV[ _-]?(p|t|pt|tp|prim|primary|tumou?r)" + _END
_NODAL = r"re:GTV[ _-]?(n|nd|ln|node|nodes|nodal|lymph ?nodes?)" + _END
_PLAIN = r"re:GTV[ _-]?\d{0,2}"

#: Structures of studies (letters and digits, lower case) and the patterns that they have by default.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gtvt", "gtvp", "gtvprimary"), (_PRIMARY, _PLAIN)),
    **dict.fromkeys(("gtvn", "gtvnd", "gtvnodal", "gtvnodes"), (_NODAL,)),
    "gtv": (_PRIMARY, _NODAL, _PLAIN),
}


@dataclass(frozen=True)
class NamePatterns:
    """Patterns by the name of a structure, in the order in which structures keep voxels that several claim."""

    patterns: Mapping[str, tuple[re.Pattern[str], ...]]

    def structure_of(self, name: str) -> str | None:
        """The structure that a region's name means, None where it means none.

        Raises StudyError where it means several.
        """
        found = [
            structure
            for structure, patterns in self.patterns.items()
            if any(pattern.fullmatch(name.strip()) for pattern in patterns)
        ]
        if len(found) > 1:
            raise StudyError(
                f"the structure name {name!r} matches the patterns of {' and '.join(found)}",
                remedy="narrow the patterns under 'names' in the study file, so that each name means one structure",
            )
        return found[0] if found else None


def name_patterns(given: Mapping[str, str | Sequence[str]] | None, structures: Sequence[Structure]) -> NamePatterns:
    """The patterns of a study: those given, in their order, then the defaults of structures that are not given.

    Upper and lower case are the same. Raises StudyError for a structure that the study does not have, an empty list
    or a pattern that is no regular expression.
    """
    known = [structure.name for structure in structures]
    chosen: dict[str, tuple[str, ...]] = {}
    for name, patterns in (given or {}).items():
        if name not in known:
            raise StudyError(
                f"'names' has patterns for {name!r}, which the study does not have",
                remedy=f"the study's structures are {', '.join(known)}",
            )
        chosen[name] = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not chosen[name]:
            raise StudyError(f"'names' has no pattern for {name!r}", remedy="give at least one, or leave it out")
    for name in known:
        chosen.setdefault(name, default_patterns(name))
    return NamePatterns({name: tuple(map(_compiled, patterns)) for name, patterns in chosen.items()})


def default_patterns(structure: str) -> tuple[str, ...]:
    """Patterns of a structure that the study gives none for: TG-263's, or its own name with a counter."""
    plain = re.sub(r"[^a-z0-9]", "", structure.lower())
    if plain in DEFAULTS:
        return DEFAULTS[plain]
    parts = [re.escape(part) for part in re.split(r"[ _-]+", structure) if part]
    return (REGEX + "[ _-]?".join(parts) + r"[ _-]?\d{0,2}",)


def _compiled(pattern: str) -> re.Pattern[str]:
    text = pattern[len(REGEX) :] if pattern.startswith(REGEX) else fnmatch.translate(pattern)
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise StudyError(
            f"'names' has a pattern that is not a regular expression: {pattern} ({error})",
            remedy="correct it, or write a shell pattern without 're:'",
        ) from error
