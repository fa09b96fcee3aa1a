"""What the figures of ranking show: shares of ranks, and mean ranks with the arms that cannot be told apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankMap:
    """Rows are (arm, share of resamples at rank 1, 2, ...), the best mean rank first."""

    id: str
    title: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    reading: str

    @property
    def height(self) -> int:
        """Height in px."""
        return 30 + 42 * len(self.rows)


@dataclass(frozen=True)
class Diagram:
    """Critical-difference diagram: (arm, mean rank) in order, and (first, last) of each group that may be equal."""

    id: str
    title: str
    arms: tuple[tuple[str, float], ...]
    cliques: tuple[tuple[int, int], ...]
    reading: str

    @property
    def height(self) -> int:
        """Height in px."""
        return round(28 + 36 * (len(self.arms) + 0.3 * (len(self.cliques) + 1)))
