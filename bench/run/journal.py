"""What a run did and what went wrong in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gtvbench.bench.core.events import Failed

STEPS = ("prepare", "fit", "predict", "score", "pictures", "report")


@dataclass
class Journal:
    """Steps that were computed rather than reused, by their kind, and the rows of failures.json."""

    computed: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STEPS, 0)))
    failures: list[dict[str, Any]] = field(default_factory=list)

    def failed(self, failure: Failed) -> None:
        """Add a failure, as a row of failures.json."""
        self.failures.append({
            "step": failure.step, "arm": failure.arm, "case": failure.case, "status": failure.status,
            "message": failure.message, "traceback": failure.traceback,
        })  # fmt: skip
