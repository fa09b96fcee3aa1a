"""One family of errors: each names what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path

EXIT_COMPLETE = 0
EXIT_BAD_INPUT = 2
EXIT_FAILED_STEPS = 3
EXIT_REQUIREMENT = 4
EXIT_INTERRUPTED = 130


class BenchError(Exception):
    """A problem that the user can act on; the command line prints it without a traceback.

    `case`, `file` and `remedy` are shown on their own lines where they are given.
    """

    def __init__(
        self, message: str, *, case: str | None = None, file: Path | str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.case = case
        self.file = None if file is None else str(file)
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.message]
        if self.case is not None:
            lines.append(f"  case:   {self.case}")
        if self.file is not None:
            lines.append(f"  file:   {self.file}")
        if self.remedy is not None:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the default would call __init__ with the message alone.
        return (_rebuild, (type(self), self.message, self.case, self.file, self.remedy))


def _rebuild(cls: type[BenchError], message: str, case: str | None, file: str | None, remedy: str | None) -> BenchError:
    return cls(message, case=case, file=file, remedy=remedy)


class DataError(BenchError):
    """An image, a mask or a cohort that cannot be used as it is."""


class StudyError(BenchError):
    """A study file, an option or a command line that does not make sense."""


class WeightsError(BenchError):
    """Weights that are missing, damaged, unsafe or of another model."""


class StoreError(BenchError):
    """A run folder that cannot be used: locked, read-only, full, or of another study."""


class DigestError(BenchError):
    """Records that were made from different data, split, prompts or weights."""


def why(error: OSError) -> str:
    """What the system said; NumPy's error of a write that the disk had no room for carries no code."""
    return error.strerror or "no space left on device"
