"""The run folder: finished steps are published whole, with a record; nothing else is believed.

A step's outputs are written aside and renamed into place, then its record `steps/<step>.json` is. A step counts as done
only while its record carries the key asked for and its outputs have the recorded sizes. So a kill at any moment loses
the step at hand and nothing more. One process at a time works on a folder: it holds a lock that its workers inherit, so
that the folder stays closed until the last of them is gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gtvbench.bench.core.digest import digest_json
from gtvbench.bench.core.errors import BenchError, StoreError, why

SCHEMA = 1
#: Form of the files of `Store.pictures` and `Store.contours`; a reader takes no other.
PICTURES_SCHEMA = 1
_LOCK_PATIENCE_S = 5.0
#: Seconds in which what another machine wrote must be seen here (NFS keeps what it knows of a folder for up to 60).
_VISIBLE_S = 120.0
_log = logging.getLogger("gtvbench")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; a full disk or a read-only folder raises StoreError and leaves no part."""
    data = content.encode() if isinstance(content, str) else content

    def write(part: Path) -> None:
        with part.open("wb") as stream:
            stream.write(data)

    publish_file(path, write)


def publish_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        part = Path(name)
        write(part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise StoreError(
            f"the run folder cannot be written: {why(error)}",
            file=path,
            remedy="free disk space or make the folder writable, then run again: finished steps are kept",
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def publish_folder(part: Path, final: Path) -> None:
    """Rename a finished work folder into place; an existing one is removed first."""
    try:
        if final.exists():
            old = final.with_name(f".old-{final.name}")
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        part.rename(final)
    except OSError as error:
        raise StoreError(f"the run folder cannot be written: {why(error)}", file=final) from error


def refuse_in_use(folder: Path) -> None:
    """Raise StoreError where a run is working on a folder: its tables are incomplete until the run ends."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return  # no lock was ever taken here, or it is not for us to see
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            "a run is working on this folder; it writes its tables, and the report, when it ends",
            file=folder,
            remedy="wait for it to end",
        ) from error
    except OSError:
        return  # a file system without locks
    finally:
        os.close(descriptor)


@contextmanager
def held(
    lock: Path, what: str, stopped: Callable[[], bool] = lambda: False, shared_by: str | None = None
) -> Iterator[int]:
    """Hold a lock, waiting for whoever has it; yields its descriptor, for processes to inherit.

    `what` it is of. Raises StoreError where `stopped` comes true meanwhile. With `shared_by` (a run's ID) the lock is
    held together with others of that run, and nobody else.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not (_locked(descriptor, 1.0) if shared_by is None else _share(descriptor, shared_by)):
            if stopped():
                raise StoreError(f"stopped while waiting for a job that works on {what}", file=lock)
            if not told:
                _log.warning("waiting for a job that works on %s already", what)
                told = True
        yield descriptor
    finally:
        os.close(descriptor)


class Store:
    """Paths and records of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    def open(self, study: str, patience_s: float = _LOCK_PATIENCE_S) -> int:
        """Create or reuse the folder for this study and lock it; return the lock's descriptor for workers to inherit.

        Raises StoreError where it cannot be written, belongs to another study or is in use.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(descriptor, patience_s):
            os.close(descriptor)
            raise StoreError(
                "another run is working on this folder",
                file=self.folder,
                remedy="wait for it to end, or choose another folder with --out",
            )
        self._lock = descriptor
        with self._writing():
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, uuid.uuid4().hex.encode(), 0)
            os.fsync(descriptor)
        self._sweep()
        identity = self.folder / "run.json"
        if identity.exists():
            record = _read_json(identity)
            if record.get("study") != study or record.get("schema") != SCHEMA:
                self.close()
                raise StoreError(
                    f"the run folder belongs to study {record.get('study')!r} (schema {record.get('schema')})",
                    file=self.folder,
                    remedy="choose another folder with --out, or remove this one",
                )
        elif any(p.name != ".lock" for p in self.folder.iterdir()):
            self.close()
            raise StoreError(
                "the folder is not empty and not a run folder",
                file=self.folder,
                remedy="choose an empty or new folder with --out",
            )
        else:
            write_atomically(identity, json.dumps({"study": study, "schema": SCHEMA}) + "\n")
        return descriptor

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the run folder cannot be written: {why(error)}",
                file=self.folder,
                remedy="choose another folder with --out",
            ) from error

    @property
    def run_id(self) -> str:
        """ID of the run that has, or had, the folder last."""
        return (self.folder / ".lock").read_text()

    def require_run(self, run_id: str) -> None:
        """Raise StoreError where another run has taken over: a job that its own run left behind must begin nothing."""
        if self.run_id != run_id:
            raise StoreError("another 'bench run' has taken over the run folder since this job was made")

    def settle(self) -> None:
        """Wait until no job of an earlier run is at work on a case; a later one of it finds that the run is another."""
        for lock in self.folder.glob("locks/*.lock"):
            if _is_held(lock):
                with held(lock, lock.stem):
                    pass

    def _sweep(self) -> None:
        """Remove what a killed run left half-written; but for jobs of a cluster, nobody writes here under the lock."""
        busy = [lock.parent for lock in self.folder.glob("arms/*/.lock") if _is_held(lock)]
        if any(_is_held(lock) for lock in self.folder.glob("locks/*.lock")):
            busy += [self.folder / name for name in ("cases", "references", "prompts", "pictures")]
        busy += [self.folder / "steps"] if busy else []
        for path in [p for p in self.folder.rglob(".*") if p.name.startswith((".part-", ".old-"))]:
            if any(path.is_relative_to(folder) for folder in busy):
                continue  # of a job that a lost run left behind, and that is still at work
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def case_folder(self, case: str) -> Path:
        """Prepared images of a case."""
        return self.folder / "cases" / case

    def case_lock(self, case: str) -> Path:
        """Lock of a case, held by whoever prepares it."""
        return self.folder / "locks" / f"{case}.lock"

    def arm_lock(self, unit: str) -> Path:
        """Lock of an arm or a fold of it, held by whoever trains it and predicts with it."""
        return self.arm_folder(unit) / ".lock"

    def reference(self, case: str) -> Path:
        """Reference label map of a case, kept apart from its images."""
        return self.folder / "references" / f"{case}.npy"

    def before_registration(self, case: str, modality: str) -> Path:
        """How an image lay before registration (checkerboards.py), in planes through the target: not for methods."""
        return self.folder / "references" / "before-registration" / f"{case}.{modality}.npz"

    def arm_folder(self, arm: str) -> Path:
        """Everything of one arm."""
        return self.folder / "arms" / arm

    def prediction(self, arm: str, case: str) -> Path:
        """Predicted label map on the grid of the reference file."""
        return self.arm_folder(arm) / "predictions" / f"{case}.nii.gz"

    def pictures(self, case: str) -> Path:
        """Pictures of a case for the report: an archive of record.json and <modality>/<slice>.webp."""
        return self.folder / "pictures" / f"{case}.zip"

    def checkerboard(self, case: str, modality: str) -> Path:
        """Picture of a registration for the report, WebP."""
        return self.folder / "pictures" / "registration" / f"{case}.{modality}.webp"

    def contours(self, arm: str, case: str) -> Path:
        """Contours of a prediction for the report, in the frame of the case's pictures."""
        return self.arm_folder(arm) / "contours" / f"{case}.json"

    def record(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None where it is missing, of another key, or its outputs are not whole."""
        path = self._record_path(step)
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            if record["key"] != key:
                return None
            for name, size in record["outputs"].items():
                if (self.folder / name).stat().st_size != size:
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record

    def awaited(self, step: str, key: str, patience_s: float = _VISIBLE_S) -> dict[str, Any]:
        """The record of a step that another machine finished: a network file system may show it late. Raises StoreError
        where it does not come: what is finished must not count as missing."""
        deadline = time.monotonic() + patience_s
        while (found := self.record(step, key)) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the step {step} was finished on another machine, but its files do not appear here",
                    file=self._record_path(step),
                    remedy="check that both see the same folder, then run again: what is finished is kept",
                )
            with suppress(OSError):  # opening a folder makes NFS look whether it changed
                list(self._record_path(step).parent.iterdir())
            time.sleep(0.2)
        return found

    def made(self, step: str) -> dict[str, Any]:
        """The record of a step, of whatever key; empty where there is none."""
        try:
            found: dict[str, Any] = json.loads(self._record_path(step).read_text())
        except (OSError, ValueError):
            return {}
        return found

    def forget(self, step: str) -> None:
        """Remove a step's record before its outputs are made anew."""
        self._record_path(step).unlink(missing_ok=True)

    def finish(self, step: str, key: str, outputs: Iterable[Path], facts: dict[str, Any] | None = None) -> None:
        """Record a step as done; `outputs` are in place already."""
        sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in outputs}
        record = {"step": step, "key": key, "outputs": sizes, **(facts or {})}
        write_atomically(self._record_path(step), json.dumps(record, sort_keys=True) + "\n")

    def _record_path(self, step: str) -> Path:
        return self.folder / "steps" / f"{step}.json"


def step_key(kind: str, version: int, **parts: Any) -> str:
    """Content key of a step: what it depends on, and the version of its code (raised when its results change)."""
    return digest_json({"kind": kind, "version": version, **parts})


def _locked(descriptor: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise StoreError(
                    "the file system has no locks, and two jobs could write to one folder",
                    remedy="mount it with locks, or choose another with --out",
                ) from error
            if not isinstance(error, BlockingIOError):
                raise
            # The workers of a run that was just killed hold the lock for a moment longer.
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _share(descriptor: int, run_id: str) -> bool:
    """Hold a lock together with others of a run; False where somebody else has it. The file says whose it is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.pread(descriptor, 100, 0).decode() == run_id:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it: it becomes this run's
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, run_id.encode(), 0)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.1, 1.0))  # two that begin together would stand in each other's way for ever
    return False


def _is_held(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR)
    try:
        return not _locked(descriptor, 0.0)
    finally:
        os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(
            "a record of the run folder cannot be read", file=path, remedy="remove the run folder"
        ) from error
    if not isinstance(value, dict):
        raise BenchError("a record of the run folder has an unknown form", file=path)
    return value
