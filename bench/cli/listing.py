"""`bench list`: methods, sources, presets, fusions and prompt policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from gtvbench.bench.core.errors import StudyError

_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)


def list_(
    what: Annotated[
        Literal["methods", "datasets", "presets", "fusions", "prompts"], typer.Argument(help="What to list.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List methods, dataset sources, presets of public data sets, fusions or prompt policies."""
    rows = _listing(what)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _out.print(table)


def _listing(what: str) -> list[dict[str, Any]]:
    from gtvbench.bench.core.fusion import FUSIONS
    from gtvbench.bench.study import registry

    if what == "fusions":
        return [{"name": f.name, "channels": f.description} for f in FUSIONS.values()]
    if what == "prompts":
        return [
            {"name": "random-margin(LOW, HIGH)", "box": "tight box + a uniform margin per side, LOW to HIGH mm"},
            {"name": "fixed-margin(MM)", "box": "tight box + the same margin on every side"},
            {"name": "tight", "box": "the tight box of the instance"},
        ]
    if what == "presets":
        from gtvbench.bench.presets.write import listing

        return [dict(row) for row in listing()]
    if what == "datasets":
        return [{"name": name, "description": cls.description} for name, _, cls in _importable(registry.SOURCES)]
    rows = []
    for name, point, cls in _importable(registry.METHODS):
        needs = cls.needs
        rows.append({
            "name": name, "package": point.dist.name if point.dist else "?", "trains": needs.trains,
            "prompts": list(needs.prompts), "fusions": list(needs.fusions), "weights": needs.weights,
            "settings": list(needs.settings),
        })  # fmt: skip
    return rows


def _importable(group: str) -> Iterator[tuple[str, EntryPoint, Any]]:
    """What a group of entry points names; one that cannot be imported is said on stderr and hides no other."""
    from gtvbench.bench.study import registry

    for name, point in registry.registered(group).items():
        try:
            yield name, point, registry.load(group, name)
        except StudyError as error:
            _err.print(f"{error.message}; {error.remedy}", markup=False, highlight=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)
