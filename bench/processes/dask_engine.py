"""Engine `dask`: arms on the workers of a Dask cluster that share the run folder's file system.

A job is an arm's training with its predictions. It runs in child processes of the Dask worker, exactly as on one
machine, and publishes in the run folder; what comes back is what happened. A worker that is lost (a walltime that ends,
`scancel`, a node that dies) costs what was computed since the last checkpoint and the last case: Dask gives the job to
another worker, which takes the arm's lock and does what is still missing. While one job works on an arm no other does,
whoever started it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gtvbench.bench.core.errors import StoreError, StudyError
from gtvbench.bench.core.events import ArmDone, ArmStarted, CaseDone, Event, FitDone
from gtvbench.bench.files.store import Store
from gtvbench.bench.processes.arm import ArmWork
from gtvbench.bench.processes.local import run_arm
from gtvbench.bench.study.file import EngineOptions

#: How often a job may lose its worker before Dask gives it up: a walltime that ends is no failure.
_LOST_WORKERS = 100
#: Seconds that a worker ends before its walltime, so that the scheduler hears of it.
_BEFORE_WALLTIME_S = 60
_TICK_S = 0.5
#: Seconds in which a scheduler must answer.
PATIENCE_S = 30.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}


@dataclass(frozen=True)
class DaskEngine:
    """Gives every arm to a cluster as one job."""

    options: EngineOptions

    def run(self, works: Sequence[ArmWork]) -> Iterator[tuple[str, Event]]:
        """As `Engine.run`. Raises StudyError where the cluster cannot be reached, or it gives up a job."""
        if not works:
            return
        with _client(self.options) as client:
            told: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
            topic = f"gtvbench-{uuid.uuid4().hex}"
            client.subscribe_topic(topic, lambda stamped: told.put(pickle.loads(stamped[1])))
            resources = _resources(self.options)
            jobs = {
                work.arm.name: client.submit(
                    _job, work, topic, key=f"{work.arm.name}-{topic}", pure=False, resources=resources or None
                )
                for work in works
            }
            started, seen = set[str](), {name: list[Event]() for name in jobs}
            while jobs:
                with suppress(queue.Empty):
                    name, event = told.get(timeout=_TICK_S)
                    if name in jobs and not (isinstance(event, ArmStarted) and name in started):
                        started.add(name)
                        seen[name].append(event)
                        yield name, event
                    continue
                for name in [name for name, job in jobs.items() if job.done()]:
                    for event in _result(name, jobs.pop(name)):
                        if event in seen[name]:  # told while it was under way
                            seen[name].remove(event)
                        else:
                            yield name, event
                    yield name, ArmDone()


def _result(name: str, job: Any) -> list[Event]:
    try:
        events: list[Event] = job.result()
    except Exception as error:
        raise StudyError(
            f"the cluster gave up the arm {name}: {type(error).__name__}: {error}",
            remedy="see the logs of its workers; what is finished is kept, start the same command again",
        ) from error
    return events


def _job(work: ArmWork, topic: str) -> list[Event]:
    """Do what is missing of an arm, in a Dask worker; everything that happened, also what an earlier worker did."""
    from distributed import get_worker

    worker, name = get_worker(), work.arm.name
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        worker.log_event(topic, pickle.dumps((name, event)))

    _own_threads()
    tell(ArmStarted())
    store = Store(work.arm.run)
    with _held(store.arm_folder(name) / ".lock"):
        left = work
        if work.fit is not None and store.record(f"fit/{name}", work.fit.key) is not None:
            left = replace(left, fit=None)
            events.append(FitDone())
        done = [item for item in work.items if store.record(f"predict/{name}/{item.case}", item.key) is not None]
        events += [CaseDone(item.case) for item in done]
        left = replace(left, items=tuple(item for item in work.items if item not in done))
        if left.items:
            for event in run_arm(left, None, {}):
                tell(event)
    return events


def _own_threads() -> None:
    """Take back what Dask sets for its workers (one thread, memory returned at once): a method has the job's cores."""
    import dask

    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of an arm, waiting for a job that a lost coordinator or worker left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(1.0)
            except OSError as error:
                raise StoreError(
                    f"the file system has no locks ({error.strerror}), and two jobs could work on one arm",
                    file=path.parent,
                    remedy="mount it with locks, or choose another with --out",
                ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _client(options: EngineOptions) -> Iterator[Any]:
    """A client of the cluster that the study names; one that is started here ends with the run."""
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise StudyError("the engine 'dask' needs Dask", remedy="pip install 'gtvbench[cluster]'") from error
    with dask.config.set({"distributed.scheduler.allowed-failures": _LOST_WORKERS}):
        if options.address is not None:
            try:
                client = Client(options.address, timeout=PATIENCE_S, set_as_default=False)  # type: ignore[no-untyped-call]
            except OSError as error:
                raise StudyError(
                    f"no Dask scheduler answers at {options.address}", remedy="start it, or correct 'engine: address'"
                ) from error
            with client:
                yield client
            return
        with _cluster(options) as cluster, Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            yield client


@contextmanager
def _cluster(options: EngineOptions) -> Iterator[Any]:
    try:
        import dask_jobqueue
    except ImportError as error:
        raise StudyError(
            f"the cluster {options.cluster!r} needs dask-jobqueue", remedy="pip install 'gtvbench[cluster]'"
        ) from error
    assert options.cluster is not None
    extra = ["--resources", ",".join(f"{name}={count}" for name, count in _resources(options).items())]
    limits: dict[str, Any] = {}
    if options.walltime is not None:
        limits["walltime"] = options.walltime
        extra += ["--lifetime", f"{max(seconds_of(options.walltime) - _BEFORE_WALLTIME_S, 30)}s"]
    directives = [*options.directives]
    if options.gpus_per_job and options.cluster == "slurm":
        directives.append(f"--gres=gpu:{options.gpus_per_job}")
    cluster = getattr(dask_jobqueue, _CLUSTERS[options.cluster])(
        queue=options.queue,
        cores=options.cores,
        processes=1,
        memory=options.memory,
        job_extra_directives=directives,
        worker_extra_args=extra,
        job_script_prologue=[f"export {name}={options.cores}" for name in _THREADS],
        **limits,
    )
    try:
        cluster.adapt(minimum_jobs=0, maximum_jobs=options.jobs)
        yield cluster
    finally:
        cluster.close()


def _resources(options: EngineOptions) -> dict[str, int]:
    """What a job takes of its worker: of one that is submitted here all, so that one arm runs there at a time."""
    alone = {"ARM": 1} if options.cluster is not None else {}
    return alone | ({"GPU": options.gpus_per_job} if options.gpus_per_job else {})


def seconds_of(walltime: str) -> int:
    """Seconds of a walltime: [DAYS-]HOURS:MINUTES:SECONDS."""
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
