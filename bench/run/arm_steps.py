"""The steps of the arms: what is missing is given to the engine, what it tells is noted, a finished arm is scored."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from gtvbench.bench.core.events import ArmDone, ArmStarted, CaseDone, Epoch, Event, Failed, FitDone, PhaseDone
from gtvbench.bench.files.progress import LOGGER, Bar, Display
from gtvbench.bench.processes.arm import Item
from gtvbench.bench.processes.engine import Engine
from gtvbench.bench.run import tables
from gtvbench.bench.run.score_steps import Row, ScoreSteps
from gtvbench.bench.study.arms import Arm


def run_arms(
    arms: Iterable[Arm], scores: ScoreSteps, engine: Engine, display: Display
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Fit and predict what is missing of every arm, and score all: the rows of the score table and those of arms.json.

    An arm is scored as soon as it is done; the tables are in the order of the arms.
    """
    states = {arm.name: _State(arm, scores) for arm in arms}
    works = {name: work for name, state in states.items() if (work := state.missing()) is not None}
    with ExitStack() as phases, closing(engine.run(list(works.values()))) as events:
        for name, event in events:
            state, work = states[name], works[name]
            if isinstance(event, ArmStarted):
                epochs = state.arm.epochs if work.fit is not None else 0
                state.phase = phases.enter_context(ExitStack())
                state.bar = state.phase.enter_context(display.phase(name, epochs + len(work.items)))
            elif isinstance(event, ArmDone):
                state.phase.close()
                state.score()
            else:
                state.take(event)
    for state in states.values():
        state.score()
    return [row for state in states.values() for row in state.rows], [state.record for state in states.values()]


@dataclass
class _State:
    """One arm of a run: what it still lacks, why cases of it have no prediction, and its rows once it is scored."""

    arm: Arm
    scores: ScoreSteps
    bar: Bar | None = None
    phase: ExitStack = field(default_factory=ExitStack)
    status: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = {} if self.arm.skip is not None else self.scores.ready.items(self.arm)

    def missing(self) -> Any:
        """The work that the engine is given; None where nothing is missing, or the arm is skipped."""
        if self.arm.skip is not None:
            LOGGER.warning("%s is skipped: %s", self.arm.name, self.arm.skip)
            return None
        return self.scores.ready.work(self.arm, self.items.values())

    def take(self, event: Event) -> None:
        """Show, count and note down what happened."""
        name, journal = self.arm.name, self.scores.journal
        assert self.bar is not None
        match event:
            case Epoch(number, _, train, validation):
                self.bar.advance(f"epoch {number + 1}, training loss {train:.4f}, validation loss {validation:.4f}")
            case FitDone():
                journal.computed["fit"] += 1
            case CaseDone(case):
                journal.computed["predict"] += 1
                self.bar.advance(case)
            case Failed(_, case, status, message):
                LOGGER.error("%s failed (%s): %s", f"{name}, {case}" if case else name, status, message)
                journal.failed(event)
                lost = [case] if case else [item.case for item in self.items.values() if self._lacks(item)]
                self.status.update(dict.fromkeys(lost, status))
            case PhaseDone():
                tables.note_phase(self.scores.ready.store, name, event, self.scores.ready.identity(self.arm))

    def _lacks(self, item: Item) -> bool:
        return item.case not in self.status and self.scores.ready.predicted(self.arm, item) is None

    def score(self) -> None:
        """Score every case, where that is not done, and sum the arm up."""
        if self.record:
            return
        arm, ready = self.arm, self.scores.ready
        if arm.skip is not None:
            self.record = tables.arm_record(ready.store, arm, "skipped", arm.skip, None)
            return
        records = {}
        for case, item in self.items.items():
            record = ready.predicted(arm, item)
            if record is not None:
                records[case] = record
            self.rows += self.scores.rows(arm, case, item.digests, record, self.status.get(case, "missing_output"))
        tables.write_timing(ready.store, arm.name, records)
        failed = len(self.items) - len(records)
        reason = f"{failed} of {len(self.items)} cases have no prediction" if failed else None
        key = ready.fit_key(arm)
        fitted = ready.store.record(f"fit/{arm.name}", key) if key is not None else None
        self.record = tables.arm_record(ready.store, arm, "failed" if failed else "complete", reason, fitted)
