"""The steps of the arms: what is missing is given to the engine, what it tells is noted, a finished arm is scored."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.events import (
    CaseDone,
    CaseScored,
    Epoch,
    Event,
    Failed,
    FitDone,
    JobDone,
    JobStarted,
    PhaseDone,
)
from gtvbench.bench.files.progress import LOGGER, Bar, Display
from gtvbench.bench.processes.arm import Item
from gtvbench.bench.processes.arm_work import ArmWork
from gtvbench.bench.processes.engine import Engine
from gtvbench.bench.run import tables
from gtvbench.bench.run.score_steps import Row, ScoreSteps
from gtvbench.bench.study.arms import Arm


def run_arms(
    arms: Iterable[Arm], scores: ScoreSteps, engine: Engine, display: Display
) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
    """Fit and predict what is missing of every arm, and score all: the score tables of the arms, rows of arms.json.

    An arm is scored as soon as it is done, in all folds; the tables are in the order of the arms.
    """
    states = [_State(arm, scores) for arm in arms]
    units = {unit.work.arm.unit: unit for state in states for unit in state.missing()}
    with ExitStack() as phases, closing(engine.run([unit.work for unit in units.values()])) as events:
        for name, event in events:
            unit = units[name]
            if isinstance(event, JobStarted):
                unit.shown = phases.enter_context(ExitStack())
                unit.bar = unit.shown.enter_context(display.phase(unit.title, unit.length))
            elif isinstance(event, JobDone):
                unit.shown.close()
                unit.done = True
                unit.state.score()
            else:
                unit.take(event)
    lost = {f"{state.arm.name}, {case}": how for state in states for case, how in state.unscored.items()}
    if lost:
        raise DataError(
            "predictions could not be scored: " + "; ".join(f"{what}: {how}" for what, how in lost.items()),
            remedy="free memory or lower 'preparation: workers', then run again: all that is finished is kept",
        )
    for state in states:
        state.score()
    return [state.table for state in states if len(state.table)], [state.record for state in states]


@dataclass
class _State:
    """One arm of a run: all its work, why cases of it have no prediction, and its table once it is scored."""

    arm: Arm
    scores: ScoreSteps
    units: list[_Unit] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)
    #: Cases that were predicted in this run.
    predicted: set[str] = field(default_factory=set)
    #: Cases whose scoring died, and how.
    unscored: dict[str, str] = field(default_factory=dict)
    #: Cases whose contours must not be tried again.
    undrawn: set[str] = field(default_factory=set)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.works = [] if self.arm.skip is not None else self.scores.ready.works(self.arm)
        self.scoring = self.scores.scoring(self.arm)

    def missing(self) -> list[_Unit]:
        """What the engine is given: nothing where nothing is missing, or the arm is skipped."""
        if self.arm.skip is not None:
            LOGGER.warning("%s is skipped: %s", self.arm.name, self.arm.skip)
        self.units = [_Unit(self, left) for work in self.works if (left := self._left(work)) is not None]
        return self.units

    def _left(self, work: ArmWork) -> ArmWork | None:
        left = self.scores.ready.missing(work)
        unscored = tuple(item for item in work.items if not self.scoring.is_done(item))
        if not unscored:
            return left
        left = left or replace(work, fit=None, items=())
        return replace(left, to_score=unscored, scoring=self.scoring, crew=self.scores.ready.study.preparation)

    def score(self) -> None:
        """Score every case, where all work on the arm is done and that is not done yet, and sum the arm up."""
        if self.record or self.unscored or not all(unit.done for unit in self.units):
            return
        arm, ready = self.arm, self.scores.ready
        if arm.skip is not None:
            self.record = tables.arm_record(ready.store, arm, [], "skipped", arm.skip)
            return
        rows: list[Row] = []
        for unit in self.units:
            if unit.trained and unit.work.fit is not None:
                ready.store.awaited(f"fit/{unit.work.arm.unit}", unit.work.fit.key)
        records, folds = {}, {item.case: work.arm.fold for work in self.works for item in work.items}
        for item in sorted((item for work in self.works for item in work.items), key=lambda item: item.case):
            record = ready.predicted(arm.name, item)
            if record is None and item.case in self.predicted:
                record = ready.store.awaited(f"predict/{arm.name}/{item.case}", item.key)
            if record is not None:
                records[item.case] = record
            status = self.status.get(item.case, "missing_output")
            scored = self.scores.rows(arm, self.scoring, item, record, status, draw=item.case not in self.undrawn)
            rows += [row | {"fold": folds[item.case]} for row in scored]
        self.table = tables.score_table(rows)
        tables.write_timing(ready.store, arm.name, self.works, records)
        failed = len(folds) - len(records)
        reason = f"{failed} of {len(folds)} cases have no prediction" if failed else None
        self.record = tables.arm_record(ready.store, arm, self.works, "failed" if failed else "complete", reason)


@dataclass
class _Unit:
    """What an engine is given at once: what is missing of an arm, or of a fold of it."""

    state: _State
    work: ArmWork
    bar: Bar | None = None
    shown: ExitStack = field(default_factory=ExitStack)
    done: bool = False
    trained: bool = False

    @property
    def title(self) -> str:
        """As it is shown."""
        return self.work.arm.name + (f", fold {self.work.arm.fold}" if self.work.arm.fold else "")

    @property
    def length(self) -> int:
        """Epochs and cases to come."""
        epochs = self.state.arm.epochs if self.work.fit is not None else 0
        return epochs + len(self.work.items) + len(self.work.to_score)

    def take(self, event: Event) -> None:
        """Show, count and note down what happened."""
        scores, status = self.state.scores, self.state.status
        assert self.bar is not None
        match event:
            case Epoch(number, _, train, validation):
                self.bar.advance(f"epoch {number + 1}, training loss {train:.4f}, validation loss {validation:.4f}")
            case FitDone():
                scores.journal.computed["fit"] += 1
                self.trained = True
            case CaseDone(case):
                scores.journal.computed["predict"] += 1
                self.state.predicted.add(case)
                self.bar.advance(case)
            case CaseScored(_, scored, drawn):
                scores.journal.computed["score"] += scored
                scores.journal.computed["pictures"] += drawn
                self.bar.advance()
            case Failed(step, case, how, message):
                LOGGER.error("%s failed (%s): %s", f"{self.title}, {case}" if case else self.title, how, message)
                if step == "score":
                    self._unscored(str(case), message)
                    return
                told = f"fold {self.work.arm.fold}: {message}" if self.work.arm.fold and not case else message
                scores.journal.failed(replace(event, arm=self.work.arm.name, message=told))
                lost = [case] if case else [item.case for item in self.work.items if self._lacks(item)]
                status.update(dict.fromkeys(lost, how))
            case PhaseDone():
                tables.note_phase(scores.ready.store, self.work.arm.unit, event, scores.ready.identity(self.state.arm))

    def _unscored(self, case: str, message: str) -> None:
        """A scorer died: before the scores were there, or after that, over the contours."""
        state, arm = self.state, self.work.arm.name
        item = next(item for item in self.work.to_score if item.case == case)
        record = state.scores.ready.predicted(arm, item)
        if record is not None and state.scoring.is_scored(case, record):
            state.undrawn.add(case)
            state.scores.journal.failed(Failed("pictures", case, "no_pictures", message, arm=arm))
        else:
            state.unscored[case] = message

    def _lacks(self, item: Item) -> bool:
        known = item.case in self.state.status
        return not known and self.state.scores.ready.predicted(self.work.arm.name, item) is None
