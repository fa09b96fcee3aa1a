"""What a run did and what went wrong in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gtvbench.bench.files.progress import LOGGER
from gtvbench.bench.processes.local import Event

STEPS = ("prepare", "fit", "predict", "score", "pictures", "report")


@dataclass
class Journal:
    """Steps that were computed rather than reused, by their kind, and the rows of failures.json."""

    computed: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STEPS, 0)))
    failures: list[dict[str, Any]] = field(default_factory=list)

    def failed(self, step: str, arm: str | None, case: str | None, status: str, event: Event) -> None:
        """Add a failure; `event` has its message, and a traceback where there is one."""
        facts = {"message": event["message"], "traceback": event.get("traceback", "")}
        self.failures.append({"step": step, "arm": arm, "case": case, "status": status, **facts})

    def arm_failed(self, step: str, arm: str, case: str | None, status: str, event: Event) -> None:
        """As `failed`, of an arm or one of its cases, and say so at once."""
        LOGGER.error("%s failed (%s): %s", f"{arm}, {case}" if case else arm, status, event["message"])
        self.failed(step, arm, case, status, event)
