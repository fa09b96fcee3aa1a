"""Synthetic run folders (support/run_writer.py, support/labs.py) as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from labs import Lab
from run_writer import RunWriter

from gtvbench.reports.run.load import FinishedRun, read_run


@pytest.fixture
def read(tmp_path: Path) -> Callable[[RunWriter], FinishedRun]:
    """The run that a writer writes, read again."""
    return lambda writer: read_run(writer.write(tmp_path / "run"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run and its report, for tests that only read: six arms, two structures, eight test patients, two of them
    without GTV-N."""
    from gtvbench.reports.page.build import build_report

    folder = RunWriter().write(tmp_path_factory.mktemp("whole") / "run")
    build_report(folder)
    return folder


@pytest.fixture(scope="session")
def whole_page(whole: Path) -> str:
    """The page of the whole run."""
    return (whole / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Write a run that has some arms of the whole one: the same data everywhere, and `change` made to the writer."""

    def write(name: str, arms: Sequence[str], change: Callable[[Any], object] | None = None) -> Path:
        writer = RunWriter(patients=6)
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
