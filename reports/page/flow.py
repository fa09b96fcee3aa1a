"""From patients to scores: who was split, scored and had which structure, and how each arm's masks ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from unicodedata import east_asian_width

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gtvbench.bench.core.scores import STATUSES, WHOLE_VOLUME
from gtvbench.reports.analysis.scores import of_scope
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.tables.table import Cell, Table
from gtvbench.reports.text.numbers import ABSENT, counted, listed, visible

_SUBSETS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class ArmFlow:
    """Cases of one arm and structure by status: where the reference has the structure, and where it lacks it."""

    arm: str
    present: Mapping[str, int]
    absent: Mapping[str, int]

    @property
    def scored(self) -> int:
        """Cases with the structure and a mask of it."""
        return self.present.get("ok", 0)

    @property
    def without_mask(self) -> int:
        """Cases with the structure and no usable mask of it."""
        return sum(self.present.values()) - self.scored

    @property
    def false_positives(self) -> int:
        """Cases without the structure and with a mask of it."""
        return self.absent.get("ref_empty_fp", 0)


@dataclass(frozen=True)
class StructureFlow:
    """Test cases whose reference has the structure or lacks it, and what became of them in each arm."""

    structure: str
    present: int
    absent: int
    arms: tuple[ArmFlow, ...]


@dataclass(frozen=True)
class Flow:
    """`subsets`: patients of each non-empty set (of a cross-validation: all, as one set); `cases`: test cases with
    scores; `unscored`: test patients without.

    `skipped` did not run; `silent` ran, or should have, and have no score. `left_out`: cases of each set that could
    not be read and take no part; `subsets` does not count them.
    """

    subsets: tuple[tuple[str, int], ...]
    cases: int
    unscored: int
    structures: tuple[StructureFlow, ...]
    skipped: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()

    @property
    def lost(self) -> int:
        """Cases of all sets that were left out."""
        return sum(count for _, count in self.left_out)

    @property
    def patients(self) -> int:
        """Patients of all sets."""
        return sum(count for _, count in self.subsets)


def flow(run: FinishedRun, wide: pd.DataFrame) -> Flow:
    """The flow of a run, whole volumes; `wide` is tables.wide_scores(run.scores)."""
    volume = of_scope(wide, WHOLE_VOLUME)
    scored = [arm.name for arm in run.scored_arms]
    structures = []
    for structure in run.structures:
        part = volume[volume["structure"] == structure]
        cases = part.groupby("case")["present"].max()
        arms = tuple(_arm(part[part["arm"] == arm], arm) for arm in scored)
        present = int(cases.sum())
        structures.append(StructureFlow(structure, present, len(cases) - present, arms))
    subsets = run.subsets
    return Flow(
        ((f"{len(run.folds)} folds", len(subsets["test"])),)
        if run.folds
        else tuple((words, len(subsets[name])) for name, words in _SUBSETS.items() if subsets[name]),
        volume["case"].nunique(),
        len(set(subsets["test"]) - set(volume["patient"])),
        tuple(structures),
        tuple(arm.name for arm in run.arms if arm.status == "skipped"),
        tuple(arm.name for arm in run.arms if arm.status != "skipped" and arm.name not in scored),
        tuple((words, len(run.left_out[name])) for name, words in _SUBSETS.items() if run.left_out[name]),
    )


def _arm(part: pd.DataFrame, arm: str) -> ArmFlow:
    present = part["present"].astype(bool)
    return ArmFlow(arm, _counts(part.loc[present, "status"]), _counts(part.loc[~present, "status"]))


def _counts(statuses: pd.Series[str]) -> dict[str, int]:
    found = statuses.value_counts()
    order = [*STATUSES, *sorted(set(found.index) - set(STATUSES))]
    return {str(status): int(found[status]) for status in order if status in found.index}


def reading(flow: Flow) -> str:
    """The flow in a sentence or two."""
    parts = [f"{count} {name}" if name in _SUBSETS.values() else name for name, count in flow.subsets]
    text = f"{counted(flow.patients, 'patient')} ({listed(parts)}); " if parts else ""
    if flow.lost:
        left = listed([f"{count} {name}" for name, count in flow.left_out])
        text += f"{flow.lost} more ({left}) could not be read and {_are(flow.lost)} left out; "
    if not flow.cases:
        return f"{text}nothing is scored yet."
    text += f"{counted(flow.cases, 'test case')} scored"
    text += f", {counted(flow.unscored, 'test patient')} not. " if flow.unscored else ". "
    has = [f"{visible(s.structure)} is in the reference of {s.present}" for s in flow.structures]
    text += f"{listed(has)}. "
    lost = [(arm.arm, s.structure, arm.without_mask) for s in flow.structures for arm in s.arms if arm.without_mask]
    if not lost:
        return f"{text}Every arm has a mask of every structure that is there."
    total = sum(s.present * len(s.arms) for s in flow.structures)
    missing = sum(count for _, _, count in lost)
    of = listed([visible(name) for name in dict.fromkeys(arm for arm, _, _ in lost)])
    return f"{text}Of {counted(total, 'mask')} that should be there, {missing} {_are(missing)} not: {of}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def flow_table(flow: Flow) -> Table:
    """The same in numbers: a row an arm and structure."""
    present = _statuses([arm.present for s in flow.structures for arm in s.arms], "ok")
    absent = _statuses([arm.absent for s in flow.structures for arm in s.arms], None)
    rows = [
        (
            Cell(arm.arm),
            Cell(structure.structure, wordy=True),
            *(Cell(str(arm.present.get(status, 0))) for status in present),
            *(Cell(str(arm.absent.get(status, 0)) if structure.absent else ABSENT) for status in absent),
        )
        for structure in flow.structures
        for arm in structure.arms
    ]
    groups = [("", 2), ("Reference has it", len(present)), ("Reference lacks it", len(absent))]
    head = ("Arm", "Structure", *present, *absent)
    return Table("flow-values", "Test cases by status", head, tuple(rows), tuple(g for g in groups if g[1]))


def _statuses(counts: list[Mapping[str, int]], always: str | None) -> list[str]:
    used = {status for of_arm in counts for status in of_arm} | ({always} if always else set())
    return [*(s for s in STATUSES if s in used), *sorted(used - set(STATUSES))]


# ---- Figure. Units are 1/72 inch from the top left; inks are those of static.py, which the page turns into its own.

_INK, _FAINT, _GRID = "#16181b", "#5b6169", "#dcdfe3"
_WIDTH, _EDGE = 360, 10
_ROW, _BOX = 18, 38
_COLUMNS = (("mask", 248), ("no mask", 302), ("false +", 350))
#: Characters of a name that fit beside the numbers, in a box, and across the figure, at up to 11.4 units.
_FIT, _FIT_BOX, _FIT_WIDE = 32, 42, 48


def draw_flow(flow: Flow) -> Figure:
    """The flow as boxes and arrows, with a row of numbers for each arm; 5 inches wide, as high as it needs."""
    height = _height(flow)
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    y = _subsets(axes, flow, _EDGE)
    _box(axes, 55, y, 250, 24, _scored(flow))
    y += 24
    if flow.structures:
        _arrow(axes, (_WIDTH / 2, y), (_WIDTH / 2, y + 14))
    for structure in flow.structures:
        y = _structure(axes, structure, y + 14)
    for line in _notes(flow):
        axes.text(_EDGE, y + 14, line, va="center", color=_FAINT)
        y += _ROW
    return figure


def _height(flow: Flow) -> float:
    top = _EDGE + (24 + 16 + _BOX + 16 if flow.subsets else 0) + 24
    blocks = sum(14 + _BOX + _ROW * (1 + len(s.arms)) + 6 for s in flow.structures)
    return top + blocks + _ROW * len(_notes(flow)) + _EDGE


def _subsets(axes: Axes, flow: Flow, y: float) -> float:
    """Patients and their sets; returns where the next box begins."""
    if not flow.subsets:
        return y
    _box(axes, 110, y, 140, 24, counted(flow.patients, "patient"))
    y += 24
    count = len(flow.subsets)
    width = (_WIDTH - 2 * _EDGE - 10 * (count - 1)) / count
    for k, (name, patients) in enumerate(flow.subsets):
        left = _EDGE + k * (width + 10)
        middle = left + width / 2
        _arrow(axes, (_WIDTH / 2, y), (middle, y + 16))
        _box(axes, left, y + 16, width, _BOX, f"{name}\n{patients}")
        if name == _SUBSETS["test"] or name not in _SUBSETS.values():
            _arrow(axes, (middle, y + 16 + _BOX), (_WIDTH / 2 + (30 if count > 1 else 0), y + 32 + _BOX))
    return y + 32 + _BOX


def _scored(flow: Flow) -> str:
    text = f"{counted(flow.cases, 'test case')} scored"
    return f"{text}, {counted(flow.unscored, 'patient')} not" if flow.unscored else text


def _structure(axes: Axes, structure: StructureFlow, y: float) -> float:
    """One structure and its arms; returns where it ends."""
    words = f"in the reference of {structure.present}, lacking in {structure.absent}"
    title = _fit(structure.structure, _FIT_BOX)
    _box(axes, _EDGE, y, _WIDTH - 2 * _EDGE, _BOX, "")
    axes.text(_WIDTH / 2, y + 11, title, ha="center", va="center", color=_INK)
    axes.text(_WIDTH / 2, y + 27, words, ha="center", va="center", color=_INK)
    y += _BOX + _ROW / 2
    for label, right in _COLUMNS:
        axes.text(right, y, label, ha="right", va="center", color=_FAINT)
    for arm in structure.arms:
        y += _ROW
        axes.plot([_EDGE, _WIDTH - _EDGE], [y - _ROW / 2] * 2, color=_GRID, linewidth=0.8)
        axes.text(_EDGE, y, _fit(arm.arm, _FIT), va="center", color=_INK)
        false = str(arm.false_positives) if structure.absent else ABSENT
        numbers = (str(arm.scored), str(arm.without_mask), false)
        for (_, right), text in zip(_COLUMNS, numbers, strict=True):
            axes.text(right, y, text, ha="right", va="center", color=_FAINT if text in ("0", ABSENT) else _INK)
    return y + _ROW / 2 + 6


def _notes(flow: Flow) -> list[str]:
    found = [("Not run", flow.skipped), ("No score", flow.silent)]
    lines = [_fit(f"{words}: {listed([visible(n) for n in names])}", _FIT_WIDE) for words, names in found if names]
    lost = listed([f"{count} {name}" for name, count in flow.left_out])
    return [*([_fit(f"Unreadable, left out: {lost}", _FIT_WIDE)] if lost else []), *lines]


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=_FAINT, linewidth=1))
    middle = (x + width / 2, y + height / 2)
    axes.text(*middle, text, ha="center", va="center", color=_INK, linespacing=1.4)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": _FAINT, "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    axes.annotate("", end, start, arrowprops=style)


def _fit(text: str, characters: int) -> str:
    """A name cut in its middle to a number of characters; arms differ at both ends. Wide letters count twice."""
    shown = visible(text)
    while sum(1 + (east_asian_width(char) in "WF") for char in shown) > characters:
        middle = len(shown) // 2
        shown = f"{shown[: middle - 1]}…{shown[middle + 1 :]}"
    return shown
