"""Synthetic run folders (support/run_writer.py, support/simulated.py) as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from run_writer import RunWriter


@pytest.fixture(scope="session")
def new_run() -> Callable[..., RunWriter]:
    """The writer's class, for tests that change tables before they are written."""
    return RunWriter


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A whole run: six arms, two structures, eight test patients, two of them without GTV-N."""
    return RunWriter().write(tmp_path / "run")


@pytest.fixture(scope="session")
def whole_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the whole run, rendered once for every test that only reads it."""
    from gtvbench.reports.page import build_report

    return build_report(RunWriter().write(tmp_path_factory.mktemp("whole") / "run")).read_text(encoding="utf-8")
