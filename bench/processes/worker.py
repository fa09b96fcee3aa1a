"""The process of a pool: it opens a piece of work, then does one task after another.

It is started by pool.py, speaks to it through a socket in small pickled records, and dies with it: an orphan must never
write beside its successor.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.processes.lifeline import die_with_parent, forks_die_too, killed_with, peak_host_bytes

Tell = Callable[[Any], None]


class Performer(Protocol):
    """Work that was made ready in one process."""

    def perform(self, task: Any, tell: Tell) -> Any:
        """Do one task and return something small; `tell` sends an event on the way."""
        ...


class Work(Protocol):
    """What the workers of a pool do: small and picklable, it names what lies on the file system."""

    def open(self) -> Performer:
        """Make ready for tasks, once in every process."""
        ...


@dataclass(frozen=True)
class Opened:
    """The work is open; what follows is computing."""


@dataclass(frozen=True)
class Told:
    """An event of the task at hand."""

    event: Any


@dataclass(frozen=True)
class Done:
    """What a task gave, and the largest memory (bytes) that its process had resident so far."""

    value: Any
    peak_bytes: int


@dataclass(frozen=True)
class Failure:
    """Why a task has no result. `error` is what was raised, where it is one of the project's own; `kind` is its type's
    name. `opening`: before the task, when the work was opened."""

    status: Literal["raised", "crashed", "timeout"]
    message: str
    traceback: str = ""
    error: BenchError | None = None
    kind: str = ""
    opening: bool = False


def attempt(do: Callable[[], Any], opening: bool = False) -> Done | Failure:
    """What a call gives, or what it raises."""
    try:
        return Done(do(), peak_host_bytes())
    except Exception as error:
        own = error if isinstance(error, BenchError) and _travels(error) else None
        kind = type(error).__name__
        message = str(error) if isinstance(error, BenchError) else f"{kind}: {error}"
        return Failure("raised", message, traceback.format_exc(), own, kind, opening)


def _travels(error: BenchError) -> bool:
    """Whether an error comes out of a pickle as it went in: a method may have made a class of its own."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


def serve(link: Connection) -> None:
    """Open the work that is sent, then do the tasks, until nobody listens."""
    work: Work = link.recv()
    opened = attempt(work.open, opening=True)
    if isinstance(opened, Failure):
        link.send(opened)
        return
    link.send(Opened())
    performer: Performer = opened.value
    while True:
        task = link.recv()
        link.send(attempt(lambda task=task: performer.perform(task, lambda event: link.send(Told(event)))))  # type: ignore[misc]


def main() -> int:
    """Serve one pool: `python -m gtvbench.bench.processes.worker SOCKET_DESCRIPTOR PARENT_PID`."""
    die_with_parent(int(sys.argv[2]))
    # Run as a module this file is __main__: what is unpickled is of the imported module, and so is what serves it.
    from gtvbench.bench.processes import worker

    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # what a method starts must not keep the line open
    with suppress(EOFError, OSError):  # the pool is done, or gone
        worker.serve(Connection(descriptor))
    return 0


if __name__ == "__mp_main__":  # a process that a method spawned imports the main module under this name
    killed_with(None)
    forks_die_too()

if __name__ == "__main__":
    sys.exit(main())
