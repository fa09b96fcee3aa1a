"""Engine `local`: one worker process an arm, watched, restarted after a crash, and never outlived by its children."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_TAIL_BYTES = 4000

Event = dict[str, Any]

#: Set for a method's process unless the user sets the same variable (GNU's OpenMP and C library; others ignore them).
#: Threads at a barrier spin for microseconds before they sleep: spinning longer, two runs on one machine take each
#: other's cores (an epoch 4.3 times as long as alone; 2.1 times with this), and never spinning costs a run alone 10 %.
#: Memory that was freed stays with the process, or every batch of a training pays for its pages again (nnU-Net: 1.7
#: times as long).
PATIENT = {"GOMP_SPINCOUNT": "10000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def run_arm(
    job: dict[str, Any], lock: int, log: Path, timeout_s: float | None, on_event: Callable[[Event], None]
) -> None:
    """Run an arm's job in workers until every case was tried.

    A worker that dies (a crash, out of memory, a time-out) costs the case or the fit at hand, which is reported as a
    `case-failed` or `arm-failed` event with its status; the cases after it run in a new worker.
    """
    remaining = list(job["predict"])
    fit = job["fit"]
    while True:
        state: dict[str, Any] = {"case": None, "fitting": fit is not None}
        stopped = None
        for event in _worker_events({**job, "fit": fit, "predict": remaining}, lock, log, timeout_s, state):
            if event["event"] == "exit":
                stopped = event
                break
            if event["event"] == "fit-done":
                fit, state["fitting"] = None, False
            if event["event"] in ("case-done", "case-failed"):
                remaining = [item for item in remaining if item["case"] != event["case"]]
                state["case"] = None
            on_event(event)
            if event["event"] == "arm-failed":
                return
        if stopped is None or stopped["code"] == 0:
            return
        message = stopped["message"]
        case = state["case"]
        if case is None:
            on_event({"event": "arm-failed", "message": message, "traceback": _tail(log), "status": "crashed"})
            return
        status = stopped["status"]
        on_event({"event": "case-failed", "case": case, "message": message, "traceback": _tail(log), "status": status})
        remaining = [item for item in remaining if item["case"] != case]
        if not remaining:
            return


def _worker_events(
    job: dict[str, Any], lock: int, log: Path, timeout_s: float | None, state: dict[str, Any]
) -> Iterator[Event]:
    log.parent.mkdir(parents=True, exist_ok=True)
    job_file = log.with_name("job.json")
    job_file.write_text(json.dumps(job))
    reader, writer = os.pipe()
    with log.open("ab") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gtvbench.bench.processes.arm_worker", str(job_file), str(writer), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=log_stream,
            stderr=log_stream,
            pass_fds=(writer, lock),
            start_new_session=True,
            env={**PATIENT, **os.environ},
        )
    os.close(writer)
    timed_out = False
    try:
        for event in _lines(reader, lambda: _late(state, timeout_s)):
            if event is None:
                timed_out = True
                break
            if event["event"] == "case-started":
                state["case"], state["since"] = event["case"], time.monotonic()
            yield event
    finally:
        os.close(reader)
        if timed_out or sys.exc_info()[0] is not None:
            kill_group(process.pid)
        code = process.wait()
        kill_group(process.pid)  # children that the worker left behind
        if process.stdin is not None:
            process.stdin.close()
        job_file.unlink(missing_ok=True)
    if timed_out:
        yield {"event": "exit", "code": 1, "status": "timeout", "message": f"stopped after {timeout_s:g} s"}
    else:
        yield {"event": "exit", "code": code, "status": "crashed", "message": ended(code, "arm's process")}


def _lines(descriptor: int, late: Callable[[], bool]) -> Iterator[Event | None]:
    """Events from the pipe until it closes; None where the case at hand is late."""
    buffer = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 0.5)
        if not ready:
            if late():
                yield None
                return
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _late(state: dict[str, Any], timeout_s: float | None) -> bool:
    return timeout_s is not None and state["case"] is not None and time.monotonic() - state["since"] > timeout_s


def kill_group(pid: int) -> None:
    """End a process that leads a group, and every process it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def ended(code: int, what: str) -> str:
    """How a process ended, in words: its exit code, or the signal that killed it."""
    if code >= 0:
        return f"the {what} ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; the system kills a process that takes too much memory this way" if name == "SIGKILL" else ""
    return f"the {what} was killed by {name}{hint}"


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""
