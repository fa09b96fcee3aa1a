from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtvbench.bench.progress import Display
from gtvbench.bench.runner import Outcome, Run
from gtvbench.bench.study import Study

BASE: dict[str, Any] = {
    "study": "small",
    "seed": 11,
    "dataset": {"source": "phantom", "patients": 4, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "split": {"counts": {"train": 1, "validation": 1, "test": 2}},
}

Execute = Callable[..., tuple[Outcome, Run]]


def small_study(**changes: Any) -> Study:
    return Study.model_validate(BASE | changes)


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Run a small phantom study in this process (its arms in their own) and return the outcome and the run."""

    def run(arms: list[str], folder: str = "run", base: Path | None = None, **changes: Any) -> tuple[Outcome, Run]:
        runner = Run(small_study(**changes), base or tmp_path, tmp_path / folder, arms, Display("quiet"))
        return runner.execute(), runner

    return run
