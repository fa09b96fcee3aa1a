"""Engine `dask`: jobs on the workers of a Dask cluster that share the run folder's file system.

A job runs in child processes of the Dask worker, exactly as on one machine, and publishes in the run folder; what comes
back is what happened. A worker that is lost (a walltime that ends, `scancel`, a node that dies) costs what was computed
since the last checkpoint and the last case: Dask gives the job to another worker, which does what is still missing.
While one job works on an arm no other does, whoever started it.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.core.events import Event, Failed, JobDone, JobStarted
from gtvbench.bench.files.progress import LOGGER
from gtvbench.bench.processes.engine import Job
from gtvbench.bench.processes.pool import never
from gtvbench.bench.study.file import EngineOptions

#: How often a job may lose its worker before Dask gives it up: a walltime that ends is no failure.
_LOST_WORKERS = 100
#: Seconds that a worker ends before its walltime, so that the scheduler hears of it.
_BEFORE_WALLTIME_S = 60
_TICK_S = 0.5
_REFUSALS = 10
#: Seconds after which, and then between which, it is told that nothing has begun.
_SILENCE_S = 20.0
#: Seconds in which a scheduler must answer.
PATIENCE_S = 30.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}


class DaskEngine:
    """Gives jobs to a cluster, which it reaches, or starts, when there is the first one; batch jobs log to `logs`."""

    def __init__(self, options: EngineOptions, logs: Path) -> None:
        self.options, self.logs = options, logs
        self.parts = 4 * options.jobs if options.cluster is not None else 16
        self._held = ExitStack()
        self._client: Any = None
        self._cluster: Any = None
        #: How many jobs the batch system may refuse before that is an error; a few, once it has taken one.
        self._patience = 0
        self._wanted = 0
        self._heard = _Heard()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._held.close()
        self._client = self._cluster = None
        self._wanted = 0

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[str, Event]]:
        """As `Engine.run`. Raises StudyError where the cluster cannot be reached, or is lost; a job that it gives up is
        a failed one."""
        if not jobs:
            return
        if self._client is None:
            self._held.enter_context(self._heard.listening())
            self._client, self._cluster = self._held.enter_context(_client(self.options, self.logs))
            if self._cluster is not None:
                LOGGER.info("jobs go to %s; they log to %s", self.options.cluster, self.logs)
        client = self._client
        told: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
        topic = f"gtvbench-{uuid.uuid4().hex}"
        client.subscribe_topic(topic, lambda stamped: told.put(pickle.loads(stamped[1])))
        waiting, under_way = list(jobs), dict[str, Any]()
        # A job that lost its worker starts again, and tells again what the first one did.
        seen: dict[str, set[str]] = {job.name: set() for job in jobs}
        heard = time.monotonic()
        try:
            while waiting or under_way:
                self._keep_workers(len(waiting) + len(under_way))
                # No more than can begin: Dask would queue a job behind another, and leave it there when a worker comes.
                while waiting and len(under_way) < self._capacity():
                    job, resources = waiting[0], _resources(self.options, waiting.pop(0)) or None
                    future = client.submit(_job, job, topic, key=f"{job.name}-{topic}", pure=False, resources=resources)
                    future.add_done_callback(lambda _: told.put(("", JobDone())))
                    under_way[job.name] = future
                if not any(seen.values()) and time.monotonic() - heard > _SILENCE_S:
                    heard = time.monotonic()
                    LOGGER.warning("no worker of the cluster has begun yet: %d jobs wait", len(jobs))
                with suppress(queue.Empty):
                    name, event = told.get(timeout=_TICK_S)
                    if name in under_way and repr(event) not in seen[name]:
                        seen[name].add(repr(event))
                        yield name, event
                    elif name in under_way and event == JobStarted():
                        LOGGER.warning(
                            "%s lost its worker (walltime, cancelled, or a node); it goes on in another", name
                        )
                for name in [name for name, future in under_way.items() if future.done()]:
                    for event in (JobStarted(), *_result(name, under_way[name])):
                        if repr(event) not in seen[name]:
                            yield name, event
                    del under_way[name]
                    yield name, JobDone()
        finally:
            client.unsubscribe_topic(topic)
            client.cancel(list(under_way.values()))

    def _capacity(self) -> int:
        """How many jobs can be at work now."""
        try:
            threads = self._client.nthreads()
        except OSError as error:
            raise _scheduler_lost() from error
        return len(threads) if self._cluster is not None else sum(threads.values())

    def _keep_workers(self, left: int) -> None:
        """As many batch jobs as may be, and no more than there is work for. What the batch system refused is submitted
        anew; raises StudyError where it took no job yet, or refuses again and again: Dask itself would wait for ever.
        """
        if self._cluster is None:
            return
        wanted = min(self.options.jobs, left)
        if wanted != self._wanted:
            self._wanted = wanted
            self._cluster.adapt(minimum_jobs=wanted, maximum_jobs=wanted)
        workers = list(self._cluster.workers.items())
        if any(job.job_id is not None for _, job in workers):
            self._patience = _REFUSALS
        for name, job in workers:
            if job.job_id is not None or name not in self._cluster.worker_spec:
                continue
            job.status = type(job.status).closed  # or the cluster would not close
            self._patience -= 1
            if self._patience < 0:
                raise StudyError(
                    f"the batch system ({self.options.cluster}) refused a job: {self._heard.said}",
                    remedy="correct 'queue', 'directives', 'memory', 'cores' or 'walltime' of 'engine', then run again",
                )
            self._cluster.loop.add_callback(self._cluster.worker_spec.pop, name, None)


class _Heard(logging.Handler):
    """Keeps what Tornado logs where a submission fails, a page of traceback, away from the terminal."""

    said = "it did not say why"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what the batch system's command said."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.said = " ".join(str(error).rpartition("stderr:")[2].split())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, and let nobody else hear."""
        logger = logging.getLogger("tornado.application")
        before = logger.propagate
        logger.addHandler(self)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = before


def _scheduler_lost() -> StudyError:
    return StudyError(
        "the cluster lost its scheduler, and with it the jobs that were under way",
        remedy="start it, then the same command again: what is finished is kept",
    )


def _result(name: str, job: Any) -> list[Event]:
    try:
        events: list[Event] = job.result()
    except CancelledError as error:  # not the arm's fault: nothing may be scored as if it were
        raise _scheduler_lost() from error
    except BenchError:
        raise
    except Exception as error:
        return [
            Failed("load", None, "crashed", f"the cluster gave up the job: {type(error).__name__}: {error}", "", name)
        ]
    return events


def _job(job: Job, topic: str) -> list[Event]:
    """Do what is missing, in a Dask worker; everything that happened, also what an earlier worker did."""
    from distributed import get_worker

    worker, name = get_worker(), job.name
    _own_threads()
    worker.log_event(topic, pickle.dumps((name, JobStarted())))
    events: list[Event] = []
    for event in job.run(None, {}, never):
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
def _client(options: EngineOptions, logs: Path) -> Iterator[tuple[Any, Any]]:
    """A client of the cluster that the study names, and the cluster where it is started here, and ends here."""
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
                yield client, None
            return
        with _cluster(options, logs) as cluster, Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            yield client, cluster


@contextmanager
def _cluster(options: EngineOptions, logs: Path) -> Iterator[Any]:
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise StudyError(
            f"the cluster {options.cluster!r} needs dask-jobqueue", remedy="pip install 'gtvbench[cluster]'"
        ) from error
    signal.signal(signal.SIGINT, on_interrupt)  # the import makes an interrupt end the process with exit code 0
    assert options.cluster is not None
    extra = ["--resources", ",".join(f"{name}={count}" for name, count in _resources(options).items())]
    assert options.walltime is not None
    extra += ["--lifetime", f"{max(seconds_of(options.walltime) - _BEFORE_WALLTIME_S, 30)}s"]
    directives = [*options.directives]
    if options.gpus_per_job and options.cluster == "slurm":
        directives.append(f"--gres=gpu:{options.gpus_per_job}")
    cluster = getattr(dask_jobqueue, _CLUSTERS[options.cluster])(
        queue=options.queue,
        job_name=f"gtvbench-{logs.resolve().parent.name}",
        cores=options.cores,
        processes=1,
        memory=options.job_memory,
        job_extra_directives=directives,
        worker_extra_args=extra,
        job_script_prologue=[f"export {name}={options.cores}" for name in _THREADS],
        walltime=_written(options.walltime, options.cluster),
        log_directory=str(logs.resolve()),
        scheduler_options={"dashboard_address": ":0"},  # any free port: a second run is no clash
    )
    try:
        yield cluster
    finally:
        cluster.close()


def _resources(options: EngineOptions, job: Job | None = None) -> dict[str, int]:
    """What a worker has, or a job takes of it: of one that is submitted here all, so that one job runs there at a
    time."""
    alone = {"JOB": 1} if options.cluster is not None else {}
    gpus = options.gpus_per_job if job is None or job.on_device else 0
    return alone | ({"GPU": gpus} if gpus else {})


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
