"""Names of methods and sources from entry points, without importing what they name."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gtvbench.bench.core.errors import StudyError

METHODS = "gtvbench.adapters"
SOURCES = "gtvbench.datasets"
_WORD = {METHODS: "method", SOURCES: "dataset source"}


def registered(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name, sorted; one name for two different objects is an error."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise StudyError(
                f"two installed packages register the {_WORD[group]} {point.name!r}: {other.value} and {point.value}",
                remedy="uninstall one of them, or rename its entry point",
            )
    return found


def entry(group: str, name: str) -> EntryPoint:
    """The entry point of a name; an unknown name is an error that offers the nearest ones."""
    found = registered(group)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(found)}"
        raise StudyError(f"unknown {_WORD[group]} {name!r}", remedy=hint)
    return found[name]


def load(group: str, name: str) -> Any:
    """Import and return the class behind a name; a package that cannot be imported is an error that says why."""
    point = entry(group, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"the {_WORD[group]} {name!r} ({point.value}) cannot be imported: {error}",
            remedy="reinstall the package that provides it, with its dependencies",
        ) from error
