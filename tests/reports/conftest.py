"""Synthetic run folders (support/run_writer.py, support/simulated.py) as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from labs import Lab
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
    from gtvbench.reports.page.build import build_report

    return build_report(RunWriter().write(tmp_path_factory.mktemp("whole") / "run")).read_text(encoding="utf-8")


@pytest.fixture
def lab(tmp_path: Path, new_run: Callable[..., Any]) -> Lab:
    """Write a run that has some arms of the whole one: the same data everywhere, and `change` made to the writer."""

    def write(name: str, arms: Sequence[str], change: Callable[[Any], object] | None = None) -> Path:
        writer = new_run(patients=6)
        writer.arms = [record for record in writer.arms if record["arm"] in arms]
        writer.scores = writer.scores[writer.scores["arm"].isin(arms)].reset_index(drop=True)
        for tables in (writer.timing, writer.epochs):
            for arm in [arm for arm in tables if arm not in arms]:
                tables.pop(arm)
        if change is not None:
            change(writer)
        folder: Path = writer.write(tmp_path / name)
        return folder

    return write
