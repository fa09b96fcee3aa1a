"""Runs of several labs that are merged: constants and helpers of test_merge.py and test_merge_refused.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gtvbench.reports.compare.merge import merge, read_candidates
from gtvbench.reports.run.load import FinishedRun

BOXES = ("box-ellipse", "box-fill")
ZERO = ("litemedsam-zero-shot.ct-only", "litemedsam-zero-shot.multimodal")
TUNED = ("litemedsam-fine-tuned.ct-only", "litemedsam-fine-tuned.multimodal")

Lab = Callable[..., Path]


def merged(*folders: Path, names: Sequence[str] | None = None) -> FinishedRun:
    return merge(read_candidates(folders, names))


def lines(run: FinishedRun, kind: str) -> tuple[str, ...]:
    return tuple(line for notice in run.notices if notice.kind == kind for line in notice.names)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scored(arm: str, value: float) -> Callable[[Any], None]:
    """Give an arm other scores than it has elsewhere."""

    def change(writer: Any) -> None:
        rows = (writer.scores["arm"] == arm) & (writer.scores["metric"] == "dsc") & (writer.scores["status"] == "ok")
        writer.scores.loc[rows, ["value", "raw"]] = value

    return change
