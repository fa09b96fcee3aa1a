"""A worker process dies with its parent, and says how much memory it took."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies; elsewhere than on Linux watch standard input close."""
    killed_with(parent)
    forks_die_too()

    def watch() -> None:
        # os.read, not sys.stdin: a daemon thread that holds sys.stdin's lock makes the interpreter abort at exit.
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def forks_die_too() -> None:
    """A method's own children (data loaders) must not outlive their parent either."""
    os.register_at_fork(after_in_child=lambda: killed_with(None))


def killed_with(parent: int | None) -> None:
    """Ask the kernel for SIGKILL when the parent dies; end at once where `parent` is no longer it (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # it died before the request was in place
        os._exit(1)


def peak_host_bytes() -> int:
    """Largest memory that this process had resident so far.

    On Linux by VmHWM, which begins anew with the program: what getrusage says begins with the peak of the parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
