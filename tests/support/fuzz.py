"""How many examples a property test tries: a quarter by default, all or more with GTVBENCH_FUZZ=NUMBER."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings


def fuzzed(examples: int = 100) -> Any:
    """Decorator: a quarter of `examples`, always the same ones; GTVBENCH_FUZZ where it is set, other ones each time."""
    asked = os.environ.get("GTVBENCH_FUZZ")
    return settings(
        max_examples=int(asked) if asked else max(1, examples // 4),
        deadline=None,
        derandomize=asked is None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
