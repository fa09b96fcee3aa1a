"""What happens to patients and arms, as their jobs tell it and the run takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class JobStarted:
    """A job's first event."""


@dataclass(frozen=True)
class CasePrepared:
    """A patient is prepared, with prompts and pictures: whether it was not there before, and how many pictures."""

    case: str
    prepared: bool
    drawn: int


@dataclass(frozen=True)
class Epoch:
    """An epoch of the training is done; `epochs` is how many there will be, where that is known."""

    epoch: int
    epochs: int | None
    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class FitDone:
    """The training is published."""


@dataclass(frozen=True)
class CaseDone:
    """The prediction of a case is published."""

    case: str


@dataclass(frozen=True)
class CaseScored:
    """The scores and contours of a prediction are published; whether each was computed, and not there before."""

    case: str
    scored: bool
    drawn: bool


@dataclass(frozen=True)
class Failed:
    """A step failed, of one case (`case`), of an arm (`arm`) with all its cases, or of one case of an arm.

    `step`: "prepare", "fit", "load", "predict", "score" or "pictures". `status`: "unreadable", "crashed" (raised or
    died), "timeout", or "no_pictures". `full`: the message with its file and remedy, for whoever runs the study, who
    may see paths.
    """

    step: str
    case: str | None
    status: str
    message: str
    traceback: str = ""
    arm: str | None = None
    full: str = ""


@dataclass(frozen=True)
class PhaseDone:
    """A phase ("fit" or "predict") ended: peak memory of it (bytes; children of the process included on the host)."""

    phase: str
    peak_host_bytes: int
    peak_device_bytes: int | None = None
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobDone:
    """Nothing more will happen to the job in this run."""


Event = JobStarted | CasePrepared | Epoch | FitDone | CaseDone | CaseScored | Failed | PhaseDone | JobDone
