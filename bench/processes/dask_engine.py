"""Engine `dask`: arms on the workers of a Dask cluster that share the run folder's file system.

A job is an arm's training with its predictions. It runs in child processes of the Dask worker, exactly as on one
machine, and publishes in the run folder; what comes back is what happened. A worker that is lost (a walltime that ends,
`scancel`, a node that dies) costs what was computed since the last checkpoint and the last case: Dask gives the job to
another worker, which takes the arm's lock and does what is still missing. While one job works on an arm no other does,
whoever started it.
"""

from __future__ import annotations

import os
import pickle
import queue
import uuid
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.events import ArmDone, ArmStarted, Event, Failed
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

    def run(self, works: Sequence[ArmWork]) -> Generator[tuple[str, Event]]:
        """As `Engine.run`. Raises StudyError where the cluster cannot be reached, or is lost; a job that it gives up is
        a failed arm."""
        if not works:
            return
        with _client(self.options) as client:
            told: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
            topic = f"gtvbench-{uuid.uuid4().hex}"
            client.subscribe_topic(topic, lambda stamped: told.put(pickle.loads(stamped[1])))
            resources = _resources(self.options)
            jobs = {
                work.arm.unit: client.submit(
                    _job, work, topic, key=f"{work.arm.unit}-{topic}", pure=False, resources=resources or None
                )
                for work in works
            }
            seen = {name: list[Event]() for name in jobs}
            while jobs:
                with suppress(queue.Empty):
                    name, event = told.get(timeout=_TICK_S)
                    # A job that lost its worker starts again, and tells again what the first one did.
                    if name in jobs and event not in seen[name]:
                        seen[name].append(event)
                        yield name, event
                for name in [name for name, job in jobs.items() if job.done()]:
                    if ArmStarted() not in seen[name]:
                        yield name, ArmStarted()
                    for event in _result(name, jobs.pop(name)):
                        if event not in seen[name]:
                            yield name, event
                    yield name, ArmDone()


def _result(name: str, job: Any) -> list[Event]:
    try:
        events: list[Event] = job.result()
    except CancelledError as error:  # not the arm's fault: nothing may be scored as if it were
        raise StudyError(
            "the cluster lost its scheduler, and with it the jobs that were under way",
            remedy="start it, then the same command again: what is finished is kept",
        ) from error
    except Exception as error:
        return [
            Failed("load", None, "crashed", f"the cluster gave up the job: {type(error).__name__}: {error}", "", name)
        ]
    return events


def _job(work: ArmWork, topic: str) -> list[Event]:
    """Do what is missing of an arm, in a Dask worker; everything that happened, also what an earlier worker did."""
    from distributed import get_worker

    worker, name = get_worker(), work.arm.unit
    _own_threads()
    worker.log_event(topic, pickle.dumps((name, ArmStarted())))
    events: list[Event] = []
    for event in run_arm(work, None, {}):
        events.append(event)
        if not isinstance(event, Failed):  # a failure counts when the job is over: another worker may do better
            worker.log_event(topic, pickle.dumps((name, event)))
    return events


def _own_threads() -> None:
    """Take back what Dask sets for its workers (one thread, memory returned at once): a method has the job's cores."""
    import dask

    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


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
    assert options.walltime is not None
    extra += ["--lifetime", f"{max(seconds_of(options.walltime) - _BEFORE_WALLTIME_S, 30)}s"]
    directives = [*options.directives]
    if options.gpus_per_job and options.cluster == "slurm":
        directives.append(f"--gres=gpu:{options.gpus_per_job}")
    cluster = getattr(dask_jobqueue, _CLUSTERS[options.cluster])(
        queue=options.queue,
        cores=options.cores,
        processes=1,
        memory=options.job_memory,
        job_extra_directives=directives,
        worker_extra_args=extra,
        job_script_prologue=[f"export {name}={options.cores}" for name in _THREADS],
        walltime=_written(options.walltime, options.cluster),
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


def _written(walltime: str, cluster: str) -> str:
    """A walltime as a batch system wants it: LSF counts hours and minutes, only SLURM knows days."""
    minutes, seconds = divmod(seconds_of(walltime), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}" if cluster == "lsf" else f"{hours}:{minutes:02d}:{seconds:02d}"


def seconds_of(walltime: str) -> int:
    """Seconds of a walltime: [DAYS-]HOURS:MINUTES:SECONDS."""
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
