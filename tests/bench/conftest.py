import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plugins import install

from gtvbench.bench.files.progress import Display
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.run.run import Outcome, Run
from gtvbench.bench.study.file import Study

BASE: dict[str, Any] = {
    "study": "small",
    "seed": 11,
    "dataset": {"source": "phantom", "patients": 4, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "split": {"counts": {"train": 1, "validation": 1, "test": 2}},
}

BOTH = ["box-fill", "box-ellipse"]
Execute = Callable[..., tuple[Outcome, Ready]]


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LiteMedSAM that learned nothing, for frames of 32 pixels: for tests of mechanics."""
    import torch

    from gtvbench.adapters.litemedsam import checkpoints
    from gtvbench.adapters.litemedsam.model import LiteMedSAM

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checkpoints.save_flat(LiteMedSAM(32), path)
    return path


@pytest.fixture(scope="session")
def execute_in() -> Execute:
    """Run a small phantom study in this process (its arms in their own); the outcome, and what its arms were given.

    The report is made where the test looks at its `page`.
    """

    def run(
        base: Path, arms: list[str], folder: str = "run", page: bool = False, **changes: Any
    ) -> tuple[Outcome, Ready]:
        study = Study.model_validate(BASE | changes)
        outcome = Run(study, base, base / folder, arms, Display("quiet"), page).execute()
        return outcome, outcome.ready

    return run


@pytest.fixture
def execute(execute_in: Execute, tmp_path: Path) -> Execute:
    """`execute_in` in the folder of the test."""
    return partial(execute_in, tmp_path)


@pytest.fixture(scope="session")
def kept_run(execute_in: Execute, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of both reference arms, without its report; not to be changed."""
    return execute_in(tmp_path_factory.mktemp("kept"), BOTH)[1].folder


@pytest.fixture
def finished(kept_run: Path, execute: Execute, tmp_path: Path) -> Ready:
    """A copy of that run as `execute` finds it in its folder `run`: it computes only what a test changes."""
    shutil.copytree(kept_run, tmp_path / "run")
    return execute(BOTH)[1]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on PYTHONPATH, is an installed package with six methods."""
    return install(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def with_plugins(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test methods are installed in this process and in its workers."""
    monkeypatch.setenv("PYTHONPATH", str(plugins), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(plugins))
    return plugins
