"""An arm on this machine: a process trains it, another predicts with it, others score; all watched, some restarted."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from gtvbench.bench.core.events import CaseDone, Event, Failed, FitDone, PhaseDone
from gtvbench.bench.files.store import Store, held
from gtvbench.bench.processes import pool
from gtvbench.bench.processes.arm import ArmJob, FitTask, FitWork, Item, PredictWork
from gtvbench.bench.processes.crew import Crew
from gtvbench.bench.processes.pool import never
from gtvbench.bench.processes.worker import Done, Failure, Work
from gtvbench.bench.study.file import PreparationOptions

#: Set for a method's process unless the user sets the same variable (GNU's OpenMP and C library; others ignore them).
#: Threads at a barrier spin for microseconds before they sleep: spinning longer, two runs on one machine take each
#: other's cores (an epoch 4.3 times as long as alone; 2.1 times with this), and never spinning costs a run alone 10 %.
#: Memory that was freed stays with the process, or every batch of a training pays for its pages again (nnU-Net: 1.7
#: times as long).
PATIENT = {"GOMP_SPINCOUNT": "10000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass(frozen=True)
class ArmWork:
    """What is missing of an arm: its training (None: done, or there is none), cases to predict, and those to score.

    `scoring` is the work of a crew whose tasks are the items of `to_score` and whose results are `CaseScored`; `crew`
    says how many work on it. `timeout_s` is for the prediction of a case, `memory_bytes` for each process with its
    children.
    """

    arm: ArmJob
    fit: FitTask | None
    items: tuple[Item, ...]
    timeout_s: float | None = None
    memory_bytes: float | None = None
    to_score: tuple[Item, ...] = ()
    scoring: Work | None = None
    crew: PreparationOptions = field(default_factory=PreparationOptions)

    @property
    def name(self) -> str:
        """The arm's, with the fold where there is one."""
        return self.arm.unit

    @property
    def on_device(self) -> bool:
        """An arm may need a GPU."""
        return True

    def run(
        self, lock: int | None, environment: Mapping[str, str], stopped: Callable[[], bool] = never
    ) -> Generator[Event]:
        """Train where asked, predict every item, then score: nothing else runs beside a timed step.

        A training that dies is a failure of the arm; it goes on from its last checkpoint when the study is run again. A
        case that dies or takes longer than its time is tried once more when the others are done. A method that raises
        or dies while it is loaded fails with all its cases. The arm's lock is held meanwhile, and inherited: a job that
        another run left behind is waited for.
        """
        store, arm = Store(self.arm.run), self.arm
        with ExitStack() as stack:
            locks = [] if lock is None else [lock]
            # Folds of one run work on their arm together; nobody else does meanwhile.
            shared_by = arm.run_id if arm.fold else None
            locks.append(stack.enter_context(held(store.arm_lock(arm.name), arm.name, stopped, shared_by)))
            if arm.fold:
                locks.append(stack.enter_context(held(store.arm_lock(arm.unit), arm.unit, stopped)))
            store.require_run(arm.run_id)
            left, done = _left(self, store)
            yield from done
            if left.items:
                yield from _compute(left, locks, environment, stopped)
            if left.scoring is not None:
                yield from _score(left, left.scoring, locks, stopped, alone=lock is not None)


def _left(work: ArmWork, store: Store) -> tuple[ArmWork, list[Event]]:
    """What of the work is still missing now that the arm's lock is held, and what another job did meanwhile."""
    name, events = work.arm.name, list[Event]()
    fit = work.fit
    if fit is not None and store.record(f"fit/{work.arm.unit}", fit.key) is not None:
        fit = None
        events.append(FitDone())
    there = [item for item in work.items if store.record(f"predict/{name}/{item.case}", item.key) is not None]
    items = tuple(item for item in work.items if item not in there)
    return replace(work, fit=fit, items=items), [*events, *(CaseDone(item.case) for item in there)]


def _compute(
    work: ArmWork, locks: Sequence[int], environment: Mapping[str, str], stopped: Callable[[], bool]
) -> Generator[Event]:
    arm, log = work.arm, Store(work.arm.run).arm_folder(work.arm.unit) / "log.txt"

    def processes(of: FitWork | PredictWork, attempts: int, seconds: float | None) -> pool.Pool:
        return pool.Pool(
            of, "arm's process", locks, log, {**PATIENT, **os.environ, **environment}, timeout_s=seconds,
            memory_bytes=work.memory_bytes, attempts=attempts, stopped=stopped,
        )  # fmt: skip

    if work.fit is not None:
        with processes(FitWork(arm), 1, None) as workers:
            for found in workers.run([work.fit]):
                if isinstance(found, pool.Event):
                    yield found.event
                elif found.failure is not None:
                    yield _failed(arm, "fit", None, found.failure)
                    return
                else:
                    yield FitDone()
                    yield PhaseDone("fit", workers.peak_bytes, **found.value)
    last, most = None, None
    with processes(PredictWork(arm), 2, work.timeout_s) as workers:
        for found in workers.run(work.items):
            if isinstance(found, pool.Event):
                continue
            failure = found.failure
            if failure is not None and failure.opening:
                yield _failed(arm, "load", None, failure)
                return
            if failure is not None:
                yield _failed(arm, "predict", found.task.case, failure)
            else:
                last = found.value
                most = max(most or 0, last["peak_device_bytes"] or 0) or None
                yield CaseDone(found.task.case)
        if last is not None:
            yield PhaseDone("predict", workers.peak_bytes, most, last["origin"])


def _score(
    work: ArmWork, scoring: Work, locks: Sequence[int], stopped: Callable[[], bool], alone: bool
) -> Generator[Event]:
    """Score what is predicted. Where that raises, the run does it again and tells; what dies must not take it along."""
    store = Store(work.arm.run)
    there = [i for i in work.to_score if store.record(f"predict/{work.arm.name}/{i.case}", i.key) is not None]
    crew = Crew(scoring, "process that scored", work.crew, locks, stopped)
    size = sum(store.reference(item.case).stat().st_size for item in there) if alone else None
    with closing(crew.results(there, size)) as results:
        for item, found in results:
            if isinstance(found, Done):
                yield found.value
            elif found.status != "raised":
                yield _failed(work.arm, "score", item.case, found)


def _failed(arm: ArmJob, step: str, case: str | None, failure: Failure) -> Failed:
    status = "timeout" if failure.status == "timeout" else "crashed"
    return Failed(step, case, status, failure.message, failure.traceback, arm.name)
