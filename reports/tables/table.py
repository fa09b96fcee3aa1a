"""What a table of the page is: cells of text, and a head."""

from __future__ import annotations

from dataclasses import dataclass

from gtvbench.reports.text.numbers import ABSENT, finite, number


@dataclass(frozen=True)
class Cell:
    """One cell: its text, whether it is marked as the best of its column, and whether it is a name or a sentence."""

    text: str
    strong: bool = False
    wordy: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page: `groups` are (heading, columns) above `head`; the first cell of a row is its heading."""

    id: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()


def row_of(*cells: str | Cell) -> tuple[Cell, ...]:
    """A row of a table: plain texts become cells."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def between(low: object, high: object, digits: int) -> str:
    """A range of unsigned numbers; a dash where there is none."""
    return f"{number(low, digits)} to {number(high, digits)}" if finite(low) else ABSENT
