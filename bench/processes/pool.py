"""A pool of worker processes: each opens one piece of work, then does one task of it at a time.

What a worker sends back is small, never a volume. A task whose worker dies or is late is tried once more when nothing
else is under way, and then given up with its status: no task pays for another. Every worker leads a process group of
its own, dies with its parent, and inherits the locks of what it works on.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

from gtvbench.bench.processes.worker import Done, Failure, Opened, Told, Work

_TICK_S = 0.5
#: How many times `timeout_s` a task may take before its first event: a method's first call pays for later ones.
BEFORE_FIRST_EVENT = 3
_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Event:
    """What a task told on its way."""

    task: Any
    event: Any


@dataclass(frozen=True)
class Result:
    """How a task ended: with what it gave, or why there is nothing."""

    task: Any
    value: Any = None
    failure: Failure | None = None


@dataclass
class _Attempt:
    task: Any
    number: int = 1


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    link: Connection
    at_hand: _Attempt | None = None
    #: Since when it computes what is at hand; None while it opens the work.
    since: float | None = None
    opened: bool = False
    #: Whether what is at hand told anything yet.
    told: bool = False
    #: Memory (bytes) for which it is to be ended.
    grown: float | None = None


def _one() -> int:
    return 1


def never() -> bool:
    """Nobody stops anything."""
    return False


@dataclass
class Pool:
    """Workers for one piece of work, started as they are needed and ended by `close` (or `with`).

    `limit` says how many may be at work now, and is asked whenever a task is handed out. `timeout_s` is the time that a
    task may compute after an event of it, and a multiple of it before the first; opening the work does not count.
    `memory_bytes` is what a worker and its children may have resident; one that has more is ended. What workers print
    goes to `log`, or nowhere. `attempts` 1: a task whose worker dies is given up at once. Where `stopped` comes true,
    `run` ends with tasks undone. `environment` is added to that of this process.
    """

    work: Work
    what: str
    locks: Sequence[int] = ()
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    limit: Callable[[], int] = _one
    timeout_s: float | None = None
    memory_bytes: float | None = None
    attempts: int = 2
    stopped: Callable[[], bool] = never
    workers: list[_Worker] = field(default_factory=list)
    #: Largest memory (bytes) of one worker and its children so far.
    peak_bytes: int = 0
    #: Most workers at once so far.
    most: int = 0
    _weighed: float = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker, and what it started; one that is at work is killed."""
        for worker in list(self.workers):
            self._dismiss(worker, kill=worker.at_hand is not None)

    def run(self, tasks: Iterable[Any]) -> Generator[Event | Result]:
        """Do the tasks, handed out in their order; events and results as they come."""
        waiting, again = [_Attempt(task) for task in tasks], list[_Attempt]()
        while (waiting or again or self._busy()) and not self.stopped():
            self._hand_out(waiting, self.limit() if waiting else 1)
            if not self._busy():
                self._hand_out(again, 1)
            for worker in self._heard():
                yield from self._take(worker, waiting, again)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.at_hand is not None]

    def _hand_out(self, attempts: list[_Attempt], limit: int) -> None:
        while attempts and len(self._busy()) < limit:
            idle = next((w for w in self.workers if w.at_hand is None), None)
            worker = idle or self._start()
            worker.at_hand = attempts.pop(0)
            worker.since, worker.told = time.monotonic() if worker.opened else None, False
            with suppress(OSError):  # it died while it was idle: reading from it will tell
                worker.link.send(worker.at_hand.task)
        for worker in [w for w in self.workers if w.at_hand is None and len(self.workers) > limit]:
            self._dismiss(worker)

    def _heard(self) -> list[_Worker]:
        """Workers that said something, ended, or are late; waits for one, and looks at memory while it waits."""
        while True:
            ready = wait([worker.link for worker in self._busy()], _TICK_S)
            if time.monotonic() - self._weighed > _TICK_S:
                self._weighed = time.monotonic()
                for worker in self._busy():
                    self._weigh(worker)
            found = [
                worker
                for worker in self._busy()
                if worker.link in ready or self._late(worker) or worker.grown or worker.process.poll() is not None
            ]
            if found or self.stopped():
                return found

    def _weigh(self, worker: _Worker) -> None:
        """Look how much memory a worker has."""
        used = _resident(worker.process.pid)
        self.peak_bytes = max(self.peak_bytes, used)
        if self.memory_bytes is not None and used > self.memory_bytes:
            alone = _resident(worker.process.pid, shared_once=True)
            worker.grown = alone if alone > self.memory_bytes else None

    def _allowed(self, worker: _Worker) -> float:
        """Seconds that a worker may take until it is heard of again."""
        if self.timeout_s is None or worker.since is None:
            return math.inf
        return self.timeout_s if worker.told else BEFORE_FIRST_EVENT * self.timeout_s

    def _late(self, worker: _Worker) -> bool:
        return worker.since is not None and time.monotonic() - worker.since > self._allowed(worker)

    def _take(self, worker: _Worker, waiting: list[_Attempt], again: list[_Attempt]) -> Generator[Event | Result]:
        attempt = worker.at_hand
        assert attempt is not None
        try:
            if not worker.link.poll():
                raise TimeoutError if worker.process.poll() is None else EOFError
            message = worker.link.recv()
            worker.grown = None  # it came so far all the same
        except (EOFError, OSError) as error:
            late = isinstance(error, TimeoutError)
            opening, allowed = worker.since is None, self._allowed(worker)
            code = self._dismiss(worker, kill=late)
            told = f"stopped after {allowed:g} s" if late else ended(code, self.what)
            if worker.grown is not None:
                late, told = (
                    False,
                    f"the {self.what} took {_gb(worker.grown)} of memory and may take {_gb(self.memory_bytes)}",
                )
            if attempt.number < self.attempts:
                second = _Attempt(attempt.task, attempt.number + 1)
                if opening:  # what dies while it opens the work would die with every task: it is tried again at once
                    waiting.insert(0, second)
                else:
                    again.append(second)
                return
            told += ", twice" if attempt.number > 1 else ""
            failure = Failure("timeout" if late else "crashed", told, self._tail(), opening=opening)
            yield Result(attempt.task, None, failure)
            return
        if isinstance(message, Opened):
            worker.opened, worker.since = True, time.monotonic()
        elif isinstance(message, Told):
            worker.since, worker.told = time.monotonic(), True
            yield Event(attempt.task, message.event)
        else:
            assert isinstance(message, Done | Failure)
            opening = worker.since is None
            worker.at_hand = worker.since = None
            if opening:  # the work could not be opened: this worker is of no use
                self._dismiss(worker)
            if isinstance(message, Done):
                self.peak_bytes = max(self.peak_bytes, message.peak_bytes)
                yield Result(attempt.task, message.value)
            else:
                yield Result(attempt.task, None, message)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno(), *self.locks]
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        with (self.log or Path(os.devnull)).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gtvbench.bench.processes.worker", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log if self.log is not None else None,
                pass_fds=passed,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        theirs.close()
        worker = _Worker(process, Connection(ours.detach()))
        self.workers.append(worker)
        self.most = max(self.most, len(self.workers))
        with suppress(OSError):
            worker.link.send(self.work)
        return worker

    def _dismiss(self, worker: _Worker, kill: bool = False) -> int | None:
        """End a worker, which goes by itself when nobody listens, and whatever it started; return its exit code, None
        where it did not end by itself."""
        self.workers.remove(worker)
        worker.link.close()
        if kill:
            kill_group(worker.process.pid)
        by_itself = True
        try:
            worker.process.wait(5)
        except subprocess.TimeoutExpired:
            by_itself = False
        kill_group(worker.process.pid)
        code = worker.process.wait() if by_itself else None
        worker.process.wait()
        if worker.process.stdin is not None:
            worker.process.stdin.close()
        return code

    def _tail(self) -> str:
        try:
            return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.log is not None else ""
        except OSError:
            return ""


def kill_group(pid: int) -> None:
    """End a process that leads a group, and every process it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def ended(code: int | None, what: str) -> str:
    """How a process ended, in words: its exit code, or the signal that killed it; None: it did not, and was ended."""
    if code is None:
        return f"the {what} answered no more and did not end"
    if code >= 0:
        return f"the {what} ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; the system kills a process that takes too much memory this way" if name == "SIGKILL" else ""
    return f"the {what} was killed by {name}{hint}"


def _resident(pid: int, shared_once: bool = False) -> int:
    """Bytes that a process and its children have resident; what they share counts for each, or once (slow)."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                pss = getattr(each.memory_full_info(), "pss", None) if shared_once else None
                total += each.memory_info().rss if pss is None else pss
    return total


def _gb(size: float | None) -> str:
    return f"{(size or 0) / 1e9:.2g} GB"
